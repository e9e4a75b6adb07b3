"""Attack MNIST digits with patches, defended by votes of ablated copies that show one band of columns.

    python3 attack_mnist_band.py --band_size 4 --size_of_attack 5 --checkpoint NAME
    python3 attack_mnist_band.py --band_size 4 --patch_height 2 --patch_width 8 --locations all --loss margin \\
        --randomizations 20 --steps 50 --skip 1 --limit 100 --test --output run.json --checkpoint NAME

The attack is projected gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine
and Feizi, NeurIPS 2020). The script stops with exit code 3 if the attack flips an answer that is certified under the
same θ.
"""

from patchcert import (
    COLUMN,
    MNIST_LIKE,
    Band,
    SmoothedClassifier,
    add_attack_threshold,
    add_model,
    attack_with_patch,
    base_network,
    cli,
    mnist_network,
    patch_attack_parser,
)


def main() -> None:
    parser = patch_attack_parser(__doc__, MNIST_LIKE)
    add_model(parser, ("mnist", COLUMN), "mnist")
    parser.add_argument("--band_size", type=int, default=4, help="s, the number of columns that an ablated image shows")
    add_attack_threshold(parser)
    options = parser.parse_args()
    ablation = Band(28, 28, options.band_size)
    network = base_network(options, ablation, lambda classes: mnist_network(classes=classes), image_channels=1)
    classifier = SmoothedClassifier(network, ablation, options.threshold)
    attack_with_patch(options, network, classifier)


if __name__ == "__main__":
    cli.run(main)
