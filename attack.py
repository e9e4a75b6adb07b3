"""Attack any network with patches, defended by votes of ablated copies; your own code makes the network.

    python3 attack.py --model package.module:factory --weights FILE --ablation band:4 --size_of_attack 5
    python3 attack.py --model package.module:factory --weights FILE --ablation block:8 --dataset folder --data DIR \\
        --image_size 64 --patch_height 2 --patch_width 8 --locations all --loss margin --test

The network is named as for certify.py. `--ablation whole` attacks it without a defence. The attack is projected
gradient ascent with signed steps. Each of many restarts puts the patch at a new place (Levine and Feizi, NeurIPS 2020).
The script stops with exit code 3 if the attack flips an answer that is certified under the same θ.
"""

from patchcert import attack_any, cli


def main() -> None:
    attack_any(__doc__)


if __name__ == "__main__":
    cli.run(main)
