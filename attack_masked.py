"""Attack any network with patches: double masking of its scores of every ablated copy.

    python3 attack_masked.py --model package.module:factory --weights FILE --ablation band:4 --size_of_attack 5

The network is that of certify_masked.py. Projected gradient ascent with sign steps; each of many restarts puts the
patch at a new place (Levine and Feizi, NeurIPS 2020). The two-round prediction decides what counts as flipped. Stops
with exit code 3 if a certified answer flips.
"""

from patchcert import attack_any_masked, cli


def main() -> None:
    attack_any_masked(__doc__)


if __name__ == "__main__":
    cli.run(main)
