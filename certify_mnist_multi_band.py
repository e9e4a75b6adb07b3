"""Certify MNIST digits against patches by votes of ablated copies that show several aligned bands.

    python3 certify_mnist_multi_band.py --bandwidth 2 --keep 2 --size_to_certify 5 --checkpoint NAME
    python3 certify_mnist_multi_band.py --bandwidth 2 --keep 2 --size_to_certify 1-10 --threshold 0.2,0.3 \\
        --test --checkpoint NAME

Each copy votes for every class whose probability is at least θ (Levine and Feizi, NeurIPS 2020, section 3).
The paper's certificate is `margin`. `exact` certifies everything that `margin` does, and sometimes more.
"""

from patchcert import (
    MNIST_LIKE,
    MultiBand,
    ThresholdVote,
    add_threshold,
    certification_parser,
    certify_by_votes,
    class_count,
    cli,
    mnist_network,
)


def main() -> None:
    parser = certification_parser(__doc__, MNIST_LIKE)
    parser.add_argument("--bandwidth", type=int, default=2, help="b, the number of columns in a band")
    parser.add_argument("--keep", type=int, default=2, help="number of bands that an ablated image shows")
    add_threshold(parser)
    parser.set_defaults(engine="dense")  # many ablations with several windows each: planning them costs what they save
    options = parser.parse_args()
    rules = [ThresholdVote(threshold) for threshold in options.threshold]
    network = mnist_network(classes=class_count(options))
    certify_by_votes(options, MultiBand(28, 28, options.bandwidth, options.keep), network, rules)


if __name__ == "__main__":
    cli.run(main)
