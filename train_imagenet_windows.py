"""Fine-tune a pretrained network on images with two hidden windows, for double masking.

    python3 train_imagenet_windows.py --model timm:NAME --weights FILE --data DIR --classes imagenet
    python3 train_imagenet_windows.py --model MODULE:FACTORY --data DIR --size_to_train 3% --masks hardest --tries 6
    torchrun --nproc_per_node=8 train_imagenet_windows.py --model torchvision:NAME --weights FILE --data DIR

Windows are hidden in the same way as by certify_imagenet_windows.py (PatchCleanser, Xiang, Mahloujifar and Mittal,
USENIX Security 2022). By default these are the two windows that a greedy search finds worst for each image. The images
are in DIR/train, or in DIR. The network's own transform prepares them once, in the same way as for certifying, and they
stay in memory as 8-bit pixels. The script writes a log and checkpoints/…_hidden_windows_….pth, which
certify_imagenet_windows.py takes as --weights.
"""

from patchcert import cli, finetune_pretrained


def main() -> None:
    finetune_pretrained(__doc__)


if __name__ == "__main__":
    cli.run(main)
