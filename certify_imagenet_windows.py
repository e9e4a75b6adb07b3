"""Certify a network that somebody pretrained, as it is, against patches: double masking of hidden windows, and alarms.

    python3 certify_imagenet_windows.py --model timm:NAME --weights FILE --data DIR --classes imagenet
    python3 certify_imagenet_windows.py --model torchvision:NAME --weights FILE --data DIR --size_to_certify 1%,2%,3%
    python3 certify_imagenet_windows.py --model MODULE:FACTORY --data DIR --goal recover,alert --confidence strict,0,0.5

k × k windows are hidden one and two at a time; one of them covers the patch, wherever it lies (PatchCleanser, Xiang,
Mahloujifar and Mittal, USENIX Security 2022). Nothing is retrained. Pairs are asked for in the order in which an image
is decided soonest, and no longer than that.
"""

from patchcert import certify_pretrained, cli


def main() -> None:
    certify_pretrained(__doc__)


if __name__ == "__main__":
    cli.run(main)
