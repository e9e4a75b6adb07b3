"""Attack CIFAR-10 images with patches, defended by double masking of bands and of hidden windows together.

    python3 attack_cifar_joint.py --size_of_attack 5 --checkpoint cifar_masked_band.pth --windows cifar_windows.pth
    python3 attack_cifar_joint.py --locations all --loss margin --test --checkpoint BANDS --windows WINDOWS

The attack is projected gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine
and Feizi, NeurIPS 2020), by default first where the certificate leaves the least lead. A step asks only about the few
copies that decide there. At the end of each restart, the two-round prediction decides whether the image counts as
flipped. The script stops with exit code 3 if the attack flips a certified answer.
"""

from patchcert import CIFAR_LIKE, add_joint, attack_masked, attacked_patch, cli, joint_network, masked_attack_parser


def main() -> None:
    parser = masked_attack_parser(__doc__, CIFAR_LIKE, windows=True)
    add_joint(parser, weight=10.0, coarse_windows=(11, 4), mirrored=True)
    parser.set_defaults(batch_size=4)
    options = parser.parse_args()
    attack_masked(options, *joint_network(options, attacked_patch(options)))


if __name__ == "__main__":
    cli.run(main)
