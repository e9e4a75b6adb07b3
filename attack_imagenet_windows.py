"""Attack a network that somebody pretrained, as it is, under hidden windows: double masking, or a defence with alarms.

    python3 attack_imagenet_windows.py --model timm:NAME --weights FILE --data DIR --classes imagenet
    python3 attack_imagenet_windows.py --model torchvision:NAME --weights FILE --data DIR --size_of_attack 3% --skip 20
    python3 attack_imagenet_windows.py --model MODULE:FACTORY --data DIR --goal alert --confidence 0.5

The defence is that of certify_imagenet_windows.py. A patch can only flip its answer where the picture without some pair
of windows, one of which hides the patch, is answered otherwise already; for alarms, without that one window. So the
attack begins at the pair that comes nearest to that, and climbs by sign steps (Levine and Feizi, NeurIPS 2020). It
stops with exit code 3 if an image flips whose answer is certified.

It also counts on how many attacked pictures one of the windows that dissent covers the patch. Which windows dissent is
a hint at where a picture was tampered with. It is no certificate.
"""

from patchcert import attack_pretrained, cli


def main() -> None:
    attack_pretrained(__doc__)


if __name__ == "__main__":
    cli.run(main)
