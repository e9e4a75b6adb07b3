"""Attack any network with patches, defended by double masking of its scores of every ablated copy.

    python3 attack_masked.py --model package.module:factory --weights FILE --ablation band:4 --size_of_attack 5

The network is named as for certify_masked.py. The attack is projected gradient ascent with signed steps. Each of many
restarts puts the patch at a new place (Levine and Feizi, NeurIPS 2020). The two-round prediction decides which images
count as flipped. The script stops with exit code 3 if the attack flips a certified answer.
"""

from patchcert import attack_any_masked, cli


def main() -> None:
    attack_any_masked(__doc__)


if __name__ == "__main__":
    cli.run(main)
