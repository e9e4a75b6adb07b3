"""Certify MNIST digits against patches by votes of ablated copies that show one square block, one vote per copy.

    python3 certify_mnist_block_top_one.py --block_size 4 --size_to_certify 5 --checkpoint NAME
    python3 certify_mnist_block_top_one.py --block_size 4 --size_to_certify 1-10 --certificate margin,exact \\
        --test --checkpoint NAME

Each copy votes only for its most probable class (Levine and Feizi, NeurIPS 2020, section 3). The paper's certificate is
`margin`. `exact` certifies everything that `margin` does, and sometimes more.
"""

from patchcert import (
    MNIST_LIKE,
    Block,
    TopOneVote,
    certification_parser,
    certify_by_votes,
    class_count,
    cli,
    mnist_network,
)


def main() -> None:
    parser = certification_parser(__doc__, MNIST_LIKE)
    parser.add_argument(
        "--block_size", type=int, default=4, help="s, the side of the block that an ablated image shows, in pixels"
    )
    options = parser.parse_args()
    rules = [TopOneVote()]
    certify_by_votes(options, Block(28, 28, options.block_size), mnist_network(classes=class_count(options)), rules)


if __name__ == "__main__":
    cli.run(main)
