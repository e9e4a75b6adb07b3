"""Attack a pretrained network, unchanged, under hidden windows: double masking, or a defence with alarms.

    python3 attack_imagenet_windows.py --model timm:NAME --weights FILE --data DIR --classes imagenet
    python3 attack_imagenet_windows.py --model torchvision:NAME --weights FILE --data DIR --size_of_attack 3% --skip 20
    python3 attack_imagenet_windows.py --model MODULE:FACTORY --data DIR --goal alert --confidence 0.5

The defence is that of certify_imagenet_windows.py. A patch can flip its answer only if there is a pair of windows
without which the clean image already gets another answer, and one of the two hides the patch. (For alarms one such
window is enough.) So the attack begins at the pair that comes nearest to that, and takes signed gradient steps (Levine
and Feizi, NeurIPS 2020). It stops with exit code 3 if an image flips whose answer is certified.

The script also counts on how many attacked images a dissenter covers the patch. Dissenters are windows without which
the network gives another class than without most others. They hint at where an image was tampered with, and are no
certificate.
"""

from patchcert import attack_pretrained, cli


def main() -> None:
    attack_pretrained(__doc__)


if __name__ == "__main__":
    cli.run(main)
