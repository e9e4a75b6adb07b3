"""Certify CIFAR-10 images against patches by votes of ablated copies that show one band of columns, one vote per copy.

    python3 certify_cifar_band_top_one.py --band_size 4 --size_to_certify 5 --checkpoint NAME
    python3 certify_cifar_band_top_one.py --band_size 4 --size_to_certify 1-10 --certificate margin,exact \\
        --test --checkpoint NAME

Each copy votes only for its most probable class (Levine and Feizi, NeurIPS 2020, section 3). The paper's certificate is
`margin`. `exact` certifies everything that `margin` does, and sometimes more.
"""

from patchcert import (
    CIFAR_LIKE,
    COLUMN,
    Band,
    TopOneVote,
    add_network,
    base_network,
    certification_parser,
    certify_by_votes,
    cli,
)
from patchcert.small_networks import MODELS, cifar_resnet


def main() -> None:
    parser = certification_parser(__doc__, CIFAR_LIKE)
    add_network(parser, (*MODELS, COLUMN), "resnet18", image_size=32)
    parser.add_argument("--band_size", type=int, default=4, help="s, the number of columns that an ablated image shows")
    options = parser.parse_args()
    rules = [TopOneVote()]
    ablation = Band(options.image_size, options.image_size, options.band_size)
    network = base_network(options, ablation, lambda classes: cifar_resnet(options.model, 6, classes), image_channels=3)
    certify_by_votes(options, ablation, network, rules)


if __name__ == "__main__":
    cli.run(main)
