"""Certify MNIST digits against patches by random samples of the bands, up to a chosen error probability.

    python3 certify_mnist_band_randomized.py --band_size 4 --attack_size 5 --checkpoint NAME
    python3 certify_mnist_band_randomized.py --band_size 4 --attack_size 1-5 --alpha 0.01 --test --checkpoint NAME

Each copy votes only for its most probable class (Levine and Feizi, NeurIPS 2020, section 3). Each certificate may be
wrong with probability --alpha. certify_mnist_band_top_one.py is deterministic and has no such error.
"""

from patchcert import (
    COLUMN,
    MNIST_LIKE,
    Band,
    add_model,
    base_network,
    certify_randomized,
    cli,
    mnist_network,
    randomized_parser,
)


def main() -> None:
    parser = randomized_parser(__doc__, MNIST_LIKE)
    add_model(parser, ("mnist", COLUMN), "mnist")
    parser.add_argument("--band_size", type=int, default=4, help="s, the number of columns that an ablated image shows")
    options = parser.parse_args()
    ablation = Band(28, 28, options.band_size)
    network = base_network(options, ablation, lambda classes: mnist_network(classes=classes), image_channels=1)
    certify_randomized(options, ablation, network)


if __name__ == "__main__":
    cli.run(main)
