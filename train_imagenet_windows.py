"""Fine-tune a pretrained network on images with two hidden windows, for double masking.

    python3 train_imagenet_windows.py --model timm:NAME --weights FILE --data DIR --classes imagenet
    python3 train_imagenet_windows.py --model MODULE:FACTORY --data DIR --size_to_train 3% --masks hardest --tries 6
    torchrun --nproc_per_node=8 train_imagenet_windows.py --model torchvision:NAME --weights FILE --data DIR

Windows are hidden as certify_imagenet_windows.py hides them (PatchCleanser, Xiang, Mahloujifar and Mittal, USENIX
Security 2022), by default the two that a greedy search finds worst for each image. Images are those in DIR/train,
or in DIR. The network's own transform makes them once, as it does for certifying, and memory keeps them as pixels of 8
bits. Writes checkpoints/…_hidden_windows_….pth, which certify_imagenet_windows.py takes as --weights, and a log.
"""

from patchcert import cli, finetune_pretrained


def main() -> None:
    finetune_pretrained(__doc__)


if __name__ == "__main__":
    cli.run(main)
