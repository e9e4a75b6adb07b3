"""Attack MNIST digits with patches, defended by double masking of copies with two hidden square windows.

    python3 attack_mnist_windows.py --size_of_attack 5 --checkpoint NAME
    python3 attack_mnist_windows.py --size_of_attack 2 --locations all --loss margin --test --checkpoint NAME

The attack is projected gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine
and Feizi, NeurIPS 2020), by default first where the certificate leaves the least lead. A step asks only about the few
copies that decide there. At the end of each restart, the two-round prediction decides whether the image counts as
flipped. The script stops with exit code 3 if the attack flips a certified answer.

The script also counts the flipped images on which a dissenter covers the patch. A window is a dissenter if hiding it
makes the network give another class than hiding most other windows. Dissenters hint at where an image was tampered
with. They are no certificate.
"""

from patchcert import (
    MNIST_LIKE,
    WindowPairs,
    add_model,
    add_windows,
    attack_masked,
    class_count,
    cli,
    masked_attack_parser,
)
from patchcert.small_networks import MODELS_OF_COPIES, network_of_copies


def main() -> None:
    parser = masked_attack_parser(__doc__, MNIST_LIKE, windows=True)
    add_model(parser, MODELS_OF_COPIES, "resnet14_half")
    add_windows(parser)
    parser.set_defaults(window_size=8, per_side=6)
    options = parser.parse_args()
    ablation = WindowPairs(28, 28, options.window_size, options.per_side)
    attack_masked(options, network_of_copies(options.model, channels=2, classes=class_count(options)), ablation)


if __name__ == "__main__":
    cli.run(main)
