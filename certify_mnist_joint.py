"""Certify MNIST digits against patches by double masking of bands and of hidden windows together.

    python3 certify_mnist_joint.py --checkpoint mnist_masked_band.pth --windows mnist_windows.pth --size_to_certify 1-5
    python3 certify_mnist_joint.py --all --output joint.json --checkpoint BANDS --windows WINDOWS --weight 5

The script uses a network of train_mnist_band_masked.py and a network of train_mnist_windows.py. For each place of the
patch, it leaves out the bands that the patch touches and the copies that do not hide the patch. It adds up the logits
of the others. An answer is certified if every pair of places gives it.

The windows of mnist_windows.pth hold patches up to 2 × 2. For larger patches, the script uses mnist_windows_8x6.pth,
which also ships.
"""

from patchcert import MNIST_LIKE, add_joint, certify_parts, cli, joint_networks, masked_certification_parser


def main() -> None:
    parser = masked_certification_parser(__doc__, MNIST_LIKE)
    add_joint(parser)
    options = parser.parse_args()
    certify_parts(options, joint_networks(options))


if __name__ == "__main__":
    cli.run(main)
