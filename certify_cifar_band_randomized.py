"""Certify CIFAR-10 images against patches by random samples of the bands, up to a chosen error probability.

    python3 certify_cifar_band_randomized.py --band_size 4 --attack_size 5 --checkpoint NAME
    python3 certify_cifar_band_randomized.py --band_size 4 --attack_size 1-5 --alpha 0.01 --test --checkpoint NAME

Each copy votes only for its most probable class (Levine and Feizi, NeurIPS 2020, section 3). Each certificate may be
wrong with probability --alpha. certify_cifar_band_top_one.py is deterministic and has no such error.
"""

from patchcert import CIFAR_LIKE, COLUMN, Band, add_network, base_network, certify_randomized, cli, randomized_parser
from patchcert.small_networks import MODELS, cifar_resnet


def main() -> None:
    parser = randomized_parser(__doc__, CIFAR_LIKE)
    add_network(parser, (*MODELS, COLUMN), "resnet18", image_size=32)
    parser.add_argument("--band_size", type=int, default=4, help="s, the number of columns that an ablated image shows")
    options = parser.parse_args()
    ablation = Band(options.image_size, options.image_size, options.band_size)
    network = base_network(options, ablation, lambda classes: cifar_resnet(options.model, 6, classes), image_channels=3)
    certify_randomized(options, ablation, network)


if __name__ == "__main__":
    cli.run(main)
