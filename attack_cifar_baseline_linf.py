"""Attack CIFAR-10 images by small changes of every pixel: the network of train_cifar_baseline.py, which has no defence.

    python3 attack_cifar_baseline_linf.py --epsilon 1/255 --checkpoint NAME
    python3 attack_cifar_baseline_linf.py --epsilon 2/255 --steps 100 --loss margin --momentum 0.9 \\
        --skip 1 --limit 100 --test --output run.json --checkpoint NAME

The attack is projected gradient ascent with signed steps from a random start (Levine and Feizi, NeurIPS 2020).
"""

from patchcert import CIFAR_LIKE, add_network, attack_in_ball, ball_attack_parser, class_count, cli, undefended
from patchcert.small_networks import MODELS, cifar_resnet


def main() -> None:
    parser = ball_attack_parser(__doc__, CIFAR_LIKE)
    add_network(parser, MODELS, "resnet18", image_size=32)
    options = parser.parse_args()
    network = cifar_resnet(options.model, channels=3, classes=class_count(options))
    attack_in_ball(options, network, undefended(network, options.image_size, options.image_size))


if __name__ == "__main__":
    cli.run(main)
