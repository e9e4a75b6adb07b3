"""Attack a pretrained network, unchanged, under hidden windows: double masking, or a defence with alarms.

    python3 attack_imagenet_windows.py --model timm:NAME --weights FILE --data DIR --classes imagenet
    python3 attack_imagenet_windows.py --model torchvision:NAME --weights FILE --data DIR --size_of_attack 3% --skip 20
    python3 attack_imagenet_windows.py --model MODULE:FACTORY --data DIR --goal alert --confidence 0.5

The defence is that of certify_imagenet_windows.py. A patch can flip its answer only if hiding some pair of windows in
the clean image already changes the answer, and one of the two windows covers the patch. (For alarms one such window is
enough.) So the attack begins at the pair that comes nearest to changing the answer, and takes signed gradient steps
(Levine and Feizi, NeurIPS 2020). The script stops with exit code 3 if the attack flips a certified answer.

The script also counts the attacked images on which a dissenter covers the patch. A window is a dissenter if hiding it
makes the network give another class than hiding most other windows. Dissenters hint at where an image was tampered
with. They are no certificate.
"""

from patchcert import attack_pretrained, cli


def main() -> None:
    attack_pretrained(__doc__)


if __name__ == "__main__":
    cli.run(main)
