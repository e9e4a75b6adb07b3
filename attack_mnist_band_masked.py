"""Attack MNIST digits with patches, defended by double masking of bands, with a network of limited reach.

    python3 attack_mnist_band_masked.py --size_of_attack 5 --checkpoint NAME
    python3 attack_mnist_band_masked.py --size_of_attack 2x8 --locations all --loss margin --test --checkpoint NAME

The attack is projected gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine
and Feizi, NeurIPS 2020). The two-round prediction decides which images count as flipped. The script stops with exit
code 3 if the attack flips a certified answer.
"""

from patchcert import MNIST_LIKE, attack_masked, cli, masked_attack_parser, masked_network


def main() -> None:
    options = masked_attack_parser(__doc__, MNIST_LIKE).parse_args()
    attack_masked(options, *masked_network(options))


if __name__ == "__main__":
    cli.run(main)
