"""Attack CIFAR-10 pictures with patches: double masking of what a network of limited reach says of every band.

    python3 attack_cifar_band_masked.py --size_of_attack 5 --checkpoint NAME
    python3 attack_cifar_band_masked.py --size_of_attack 2x8 --locations all --loss margin --test --checkpoint NAME

Projected gradient ascent with sign steps, many restarts with the patch at a new place (Levine and Feizi, NeurIPS 2020),
judged by the two-round prediction. Stops with exit code 3 if an image flips whose answer is certified.
"""

from patchcert import CIFAR_LIKE, attack_masked, cli, masked_attack_parser, masked_network


def main() -> None:
    options = masked_attack_parser(__doc__, CIFAR_LIKE).parse_args()
    attack_masked(options, *masked_network(options))


if __name__ == "__main__":
    cli.run(main)
