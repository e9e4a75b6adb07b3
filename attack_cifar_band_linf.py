"""Attack CIFAR-10 images by small changes of every pixel, defended by votes of copies that show one band of columns.

    python3 attack_cifar_band_linf.py --band_size 4 --epsilon 1/255 --checkpoint NAME
    python3 attack_cifar_band_linf.py --band_size 4 --epsilon 2/255 --steps 100 --loss margin --momentum 0.9 \\
        --skip 1 --limit 100 --test --output run.json --checkpoint NAME

The attack is projected gradient ascent with signed steps from a random start (Levine and Feizi, NeurIPS 2020).
Certificates against patches say nothing about such changes.
"""

from patchcert import (
    CIFAR_LIKE,
    COLUMN,
    Band,
    SmoothedClassifier,
    add_attack_threshold,
    add_network,
    attack_in_ball,
    ball_attack_parser,
    base_network,
    cli,
)
from patchcert.small_networks import MODELS, cifar_resnet


def main() -> None:
    parser = ball_attack_parser(__doc__, CIFAR_LIKE)
    add_network(parser, (*MODELS, COLUMN), "resnet18", image_size=32)
    parser.add_argument("--band_size", type=int, default=4, help="s, the number of columns that an ablated image shows")
    add_attack_threshold(parser)
    options = parser.parse_args()
    ablation = Band(options.image_size, options.image_size, options.band_size)
    network = base_network(options, ablation, lambda classes: cifar_resnet(options.model, 6, classes), image_channels=3)
    attack_in_ball(options, network, SmoothedClassifier(network, ablation, options.threshold))


if __name__ == "__main__":
    cli.run(main)
