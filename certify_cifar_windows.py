"""Certify CIFAR-10 images against patches by double masking of copies with hidden square windows.

    python3 certify_cifar_windows.py --checkpoint NAME
    python3 certify_cifar_windows.py --all --amp --output windows.json --checkpoint NAME

As in PatchCleanser (Xiang, Mahloujifar and Mittal, USENIX Security 2022), the script hides each window. If all answers
agree, it also hides each pair of windows. It begins with the pairs that are most likely to change the answer, and stops
at the first pair that does. An answer is certified if every pair gives it. 16 windows of 11 × 11 pixels cover patches
up to 5 × 5, in up to 136 passes.
"""

from patchcert import (
    CIFAR_LIKE,
    WindowPairs,
    add_network,
    add_saving,
    add_windows,
    certify_masked,
    class_count,
    cli,
    masked_certification_parser,
)
from patchcert.small_networks import MODELS_OF_COPIES, network_of_copies


def main() -> None:
    parser = masked_certification_parser(__doc__, CIFAR_LIKE)
    add_network(parser, MODELS_OF_COPIES, "pooled", image_size=32)
    add_windows(parser)
    add_saving(parser)
    parser.set_defaults(batch_size=128)
    options = parser.parse_args()
    ablation = WindowPairs(options.image_size, options.image_size, options.window_size, options.per_side)
    certify_masked(options, network_of_copies(options.model, channels=6, classes=class_count(options)), ablation)


if __name__ == "__main__":
    cli.run(main)
