"""Certify MNIST digits against patches by double masking of bands, with a network of limited reach.

    python3 certify_mnist_band_masked.py --checkpoint NAME
    python3 certify_mnist_band_masked.py --size_to_certify 1-10 --all --output masked.json --checkpoint NAME

PatchCleanser's two rounds give the answer, from the logits of the bands. The answer is certified if every pair of masks
gives it. One pass of the network is enough for all patch sizes. The checkpoint describes the network.
"""

from patchcert import MNIST_LIKE, certify_masked, cli, masked_certification_parser, masked_network


def main() -> None:
    options = masked_certification_parser(__doc__, MNIST_LIKE).parse_args()
    certify_masked(options, *masked_network(options))


if __name__ == "__main__":
    cli.run(main)
