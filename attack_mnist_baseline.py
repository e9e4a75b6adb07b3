"""Attack MNIST digits with patches: the network of train_mnist_baseline.py, which has no defence.

    python3 attack_mnist_baseline.py --size_of_attack 5 --checkpoint NAME
    python3 attack_mnist_baseline.py --patch_height 2 --patch_width 8 --locations all --loss margin \\
        --skip 1 --limit 100 --test --output run.json --checkpoint NAME

The attack is projected gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine
and Feizi, NeurIPS 2020).
"""

from patchcert import MNIST_LIKE, attack_with_patch, class_count, cli, mnist_network, patch_attack_parser, undefended


def main() -> None:
    options = patch_attack_parser(__doc__, MNIST_LIKE).parse_args()
    network = mnist_network(channels=1, classes=class_count(options))
    attack_with_patch(options, network, undefended(network, 28, 28))


if __name__ == "__main__":
    cli.run(main)
