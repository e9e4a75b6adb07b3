"""Certify MNIST digits against patches by double masking of what a network of limited reach says of every band.

    python3 certify_mnist_band_masked.py --checkpoint NAME
    python3 certify_mnist_band_masked.py --size_to_certify 1-10 --all --output masked.json --checkpoint NAME

The answer is that of PatchCleanser's two rounds on the bands' logits; it is certified if every pair of masks gives it.
One pass answers every patch size, and the checkpoint knows the network.
"""

from patchcert import MNIST_LIKE, certify_masked, cli, masked_certification_parser, masked_network


def main() -> None:
    options = masked_certification_parser(__doc__, MNIST_LIKE).parse_args()
    certify_masked(options, *masked_network(options))


if __name__ == "__main__":
    cli.run(main)
