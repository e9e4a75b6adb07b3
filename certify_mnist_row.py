"""Certify MNIST digits against patches by votes of ablated copies that show one band of rows.

    python3 certify_mnist_row.py --band_size 4 --size_to_certify 5 --checkpoint NAME
    python3 certify_mnist_row.py --band_size 4 --size_to_certify 1-10 --threshold 0.2,0.3 --test --checkpoint NAME

As in the paper, the network sees rows as bands of columns of the transposed image. Patches are not transposed (2x8 has
2 rows). Each copy votes for every class whose probability is at least θ (Levine and Feizi, NeurIPS 2020, section 3).
The paper's certificate is `margin`. `exact` certifies everything that `margin` does, and sometimes more.
"""

from patchcert import (
    COLUMN,
    MNIST_LIKE,
    Row,
    ThresholdVote,
    add_model,
    add_threshold,
    base_network,
    certification_parser,
    certify_by_votes,
    cli,
    mnist_network,
)


def main() -> None:
    parser = certification_parser(__doc__, MNIST_LIKE)
    add_model(parser, ("mnist", COLUMN), "mnist")
    parser.add_argument("--band_size", type=int, default=4, help="s, the number of rows that an ablated image shows")
    add_threshold(parser)
    options = parser.parse_args()
    rules = [ThresholdVote(threshold) for threshold in options.threshold]
    ablation = Row(28, 28, options.band_size)
    network = base_network(options, ablation, lambda classes: mnist_network(classes=classes), image_channels=1)
    certify_by_votes(options, ablation, network, rules)


if __name__ == "__main__":
    cli.run(main)
