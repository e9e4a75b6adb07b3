"""Attack MNIST digits with patches, defended by double masking of bands and of hidden windows together.

    python3 attack_mnist_joint.py --size_of_attack 2 --checkpoint mnist_masked_band.pth --windows mnist_windows.pth
    python3 attack_mnist_joint.py --locations all --loss margin --test --checkpoint BANDS --windows WINDOWS

The attack is projected gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine
and Feizi, NeurIPS 2020), by default first where the certificate leaves the least lead. A step asks only about the few
copies that decide there. At the end of each restart, the two-round prediction decides whether the image counts as
flipped. The script stops with exit code 3 if the attack flips a certified answer.

The windows of mnist_windows.pth hold patches up to 2 × 2. For larger patches, the script uses mnist_windows_8x6.pth,
which also ships.
"""

from patchcert import MNIST_LIKE, add_joint, attack_masked, attacked_patch, cli, joint_network, masked_attack_parser


def main() -> None:
    parser = masked_attack_parser(__doc__, MNIST_LIKE, windows=True)
    add_joint(parser)
    parser.set_defaults(batch_size=16)
    options = parser.parse_args()
    attack_masked(options, *joint_network(options, attacked_patch(options)))


if __name__ == "__main__":
    cli.run(main)
