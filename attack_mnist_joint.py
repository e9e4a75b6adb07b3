"""Attack MNIST digits with patches: double masking of bands and of hidden windows together.

    python3 attack_mnist_joint.py --size_of_attack 2 --checkpoint mnist_masked_band.pth --windows mnist_windows.pth
    python3 attack_mnist_joint.py --locations all --loss margin --test --checkpoint BANDS --windows WINDOWS

Projected gradient ascent with sign steps, many restarts with the patch at a new place (Levine and Feizi, NeurIPS 2020),
judged by the two-round prediction. Stops with exit code 3 if an image flips whose answer is certified. Of every image
all copies take part in every step.
"""

from patchcert import MNIST_LIKE, add_joint, attack_masked, cli, joint_network, masked_attack_parser


def main() -> None:
    parser = masked_attack_parser(__doc__, MNIST_LIKE)
    add_joint(parser)
    parser.set_defaults(batch_size=16)
    options = parser.parse_args()
    attack_masked(options, *joint_network(options))


if __name__ == "__main__":
    cli.run(main)
