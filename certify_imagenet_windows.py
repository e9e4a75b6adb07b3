"""Certify a pretrained network, unchanged, against patches: double masking of hidden windows, and alarms.

    python3 certify_imagenet_windows.py --model timm:NAME --weights FILE --data DIR --classes imagenet
    python3 certify_imagenet_windows.py --model torchvision:NAME --weights FILE --data DIR --size_to_certify 1%,2%,3%
    python3 certify_imagenet_windows.py --model MODULE:FACTORY --data DIR --goal recover,alert --confidence strict,0,0.5

The script hides k × k windows, one and two at a time. One of them covers the patch, wherever the patch lies
(PatchCleanser: Xiang, Mahloujifar and Mittal, USENIX Security 2022). The network is not retrained. The script tries the
pairs of windows first that are most likely to decide an image, and stops when it is decided.
"""

from patchcert import certify_pretrained, cli


def main() -> None:
    certify_pretrained(__doc__)


if __name__ == "__main__":
    cli.run(main)
