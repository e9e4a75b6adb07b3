"""Certify CIFAR-10 images against patches by double masking of bands and of hidden windows together.

    python3 certify_cifar_joint.py --checkpoint cifar_masked_band.pth --windows cifar_windows.pth --size_to_certify 2,5
    python3 certify_cifar_joint.py --all --output joint.json --checkpoint BANDS --windows WINDOWS

The script uses a network of train_cifar_band_masked.py and a network of train_cifar_windows.py. For each place of the
patch, it leaves out the bands that the patch touches and the copies that do not hide the patch. It adds up the logits
of the others. An answer is certified if every pair of places gives it. Coarse windows are hidden first. The network's
own windows are hidden only where the lead is then below --sure. Both networks also classify the mirror image;
--no-mirrored takes half of the time and certifies less.
"""

from patchcert import CIFAR_LIKE, add_joint, certify_parts, cli, joint_networks, masked_certification_parser


def main() -> None:
    parser = masked_certification_parser(__doc__, CIFAR_LIKE)
    add_joint(parser, weight=10.0, coarse_windows=(11, 4), mirrored=True)
    options = parser.parse_args()
    certify_parts(options, joint_networks(options))


if __name__ == "__main__":
    cli.run(main)
