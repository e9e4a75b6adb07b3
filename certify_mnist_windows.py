"""Certify MNIST digits against patches by double masking of copies with hidden square windows.

    python3 certify_mnist_windows.py --checkpoint NAME
    python3 certify_mnist_windows.py --all --size_to_certify 2 --output windows.json --checkpoint NAME

As in PatchCleanser (Xiang, Mahloujifar and Mittal, USENIX Security 2022), the script hides each window. If all answers
agree, it also hides each pair of windows. It begins with the pairs that are most likely to change the answer, and stops
at the first pair that does. An answer is certified if every pair gives it. The checkpoint describes the windows: 36 of
8 × 8 pixels cover patches up to 5 × 5.
"""

from patchcert import (
    MNIST_LIKE,
    WindowPairs,
    add_model,
    add_saving,
    add_windows,
    certify_masked,
    class_count,
    cli,
    masked_certification_parser,
)
from patchcert.small_networks import MODELS_OF_COPIES, network_of_copies


def main() -> None:
    parser = masked_certification_parser(__doc__, MNIST_LIKE)
    add_model(parser, MODELS_OF_COPIES, "resnet14_half")
    add_windows(parser)
    add_saving(parser)
    parser.set_defaults(window_size=8, per_side=6)
    options = parser.parse_args()
    ablation = WindowPairs(28, 28, options.window_size, options.per_side)
    certify_masked(options, network_of_copies(options.model, channels=2, classes=class_count(options)), ablation)


if __name__ == "__main__":
    cli.run(main)
