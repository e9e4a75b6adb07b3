"""Attack CIFAR-10 images with patches: the network of train_cifar_baseline.py, which has no defence.

    python3 attack_cifar_baseline.py --size_of_attack 5 --checkpoint NAME
    python3 attack_cifar_baseline.py --patch_height 2 --patch_width 8 --locations all --loss margin \\
        --skip 1 --limit 100 --test --output run.json --checkpoint NAME

The attack is projected gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine
and Feizi, NeurIPS 2020).
"""

from patchcert import CIFAR_LIKE, add_network, attack_with_patch, class_count, cli, patch_attack_parser, undefended
from patchcert.small_networks import MODELS, cifar_resnet


def main() -> None:
    parser = patch_attack_parser(__doc__, CIFAR_LIKE)
    add_network(parser, MODELS, "resnet18", image_size=32)
    options = parser.parse_args()
    network = cifar_resnet(options.model, channels=3, classes=class_count(options))
    attack_with_patch(options, network, undefended(network, options.image_size, options.image_size))


if __name__ == "__main__":
    cli.run(main)
