"""Attack MNIST digits with patches, defended by votes of ablated copies that show one square block.

    python3 attack_mnist_block.py --block_size 4 --size_of_attack 5 --checkpoint NAME
    python3 attack_mnist_block.py --block_size 4 --patch_height 2 --patch_width 8 --locations all --loss margin \\
        --randomizations 20 --steps 50 --skip 1 --limit 100 --test --output run.json --checkpoint NAME

The attack is projected gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine
and Feizi, NeurIPS 2020). The script stops with exit code 3 if the attack flips an answer that is certified under the
same θ.
"""

from patchcert import (
    MNIST_LIKE,
    Block,
    SmoothedClassifier,
    add_attack_threshold,
    attack_with_patch,
    class_count,
    cli,
    mnist_network,
    patch_attack_parser,
)


def main() -> None:
    parser = patch_attack_parser(__doc__, MNIST_LIKE)
    parser.add_argument(
        "--block_size", type=int, default=4, help="s, the side of the block that an ablated image shows, in pixels"
    )
    add_attack_threshold(parser)
    options = parser.parse_args()
    network = mnist_network(classes=class_count(options))
    classifier = SmoothedClassifier(network, Block(28, 28, options.block_size), options.threshold)
    attack_with_patch(options, network, classifier)


if __name__ == "__main__":
    cli.run(main)
