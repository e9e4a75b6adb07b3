"""Certify MNIST digits against patches by votes of ablated copies that show several aligned blocks.

    python3 certify_mnist_multi_block.py --block_size 4 --keep 4 --size_to_certify 5 --checkpoint NAME
    python3 certify_mnist_multi_block.py --block_size 4 --keep 4 --size_to_certify 1-10 --threshold 0.2,0.3 \\
        --test --checkpoint NAME

Each copy votes for every class whose probability is at least θ (Levine and Feizi, NeurIPS 2020, section 3).
The paper's certificate is `margin`. `exact` certifies everything that `margin` does, and sometimes more.
"""

from patchcert import (
    MNIST_LIKE,
    MultiBlock,
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
    parser.add_argument("--block_size", type=int, default=4, help="b, the side of a block, in pixels")
    parser.add_argument("--keep", type=int, default=4, help="number of blocks that an ablated image shows")
    add_threshold(parser)
    parser.set_defaults(engine="dense")  # many ablations with several windows each: planning them costs what they save
    options = parser.parse_args()
    rules = [ThresholdVote(threshold) for threshold in options.threshold]
    network = mnist_network(classes=class_count(options))
    certify_by_votes(options, MultiBlock(28, 28, options.block_size, options.keep), network, rules)


if __name__ == "__main__":
    cli.run(main)
