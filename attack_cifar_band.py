"""Attack CIFAR-10 images with patches, defended by votes of ablated copies that show one band of columns.

    python3 attack_cifar_band.py --band_size 4 --size_of_attack 5 --checkpoint NAME
    python3 attack_cifar_band.py --band_size 4 --patch_height 2 --patch_width 8 --locations all --loss margin \\
        --skip 1 --limit 100 --test --output run.json --checkpoint NAME

The attack is projected gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine
and Feizi, NeurIPS 2020). The script stops with exit code 3 if the attack flips an answer that is certified under the
same θ.
"""

from patchcert import (
    CIFAR_LIKE,
    COLUMN,
    Band,
    SmoothedClassifier,
    add_attack_threshold,
    add_network,
    attack_with_patch,
    base_network,
    cli,
    patch_attack_parser,
)
from patchcert.small_networks import MODELS, cifar_resnet


def main() -> None:
    parser = patch_attack_parser(__doc__, CIFAR_LIKE)
    add_network(parser, (*MODELS, COLUMN), "resnet18", image_size=32)
    parser.add_argument("--band_size", type=int, default=4, help="s, the number of columns that an ablated image shows")
    add_attack_threshold(parser)
    options = parser.parse_args()
    ablation = Band(options.image_size, options.image_size, options.band_size)
    network = base_network(options, ablation, lambda classes: cifar_resnet(options.model, 6, classes), image_channels=3)
    attack_with_patch(options, network, SmoothedClassifier(network, ablation, options.threshold))


if __name__ == "__main__":
    cli.run(main)
