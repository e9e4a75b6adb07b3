"""Train a classifier of CIFAR-10 pictures of which two square windows are hidden, for double masking.

    python3 train_cifar_windows.py --amp
    python3 train_cifar_windows.py --amp --tries 3 --loss_power 0.3 --lr 0.15 --end_epoch 41 --resume NAME
    python3 train_cifar_windows.py --amp --tries 3 --window_size 9 --per_side 6 --lr 0.08 --end_epoch 73 --resume NAME
    python3 train_cifar_windows.py --dataset folder --data DIR --image_size 32

The masks of PatchCleanser (Xiang, Mahloujifar and Mittal, USENIX Security 2022): whatever a patch shows, some window
hides it. Certified is what every pair of windows leaves right, so that training ends with the hardest of some random
pairs. Writes checkpoints/cifar_windows_….pth and a log.
"""

from patchcert import (
    CIFAR_LIKE,
    WindowPairs,
    add_network,
    class_count,
    cli,
    data_name,
    train_windows,
    windows_training_parser,
)
from pytorch_cifar import MODELS, cifar_resnet


def main() -> None:
    parser = windows_training_parser(__doc__, CIFAR_LIKE, lr=0.1, end_epoch=29)
    add_network(parser, MODELS, "resnet14", image_size=32)
    options = parser.parse_args()
    classes = class_count(options)
    train_windows(
        options,
        WindowPairs(options.image_size, options.image_size, options.window_size, options.per_side),
        lambda: cifar_resnet(options.model, channels=6, classes=classes),
        stem=f"{data_name(options)}_windows",
        details=f"model_{options.model}",
    )


if __name__ == "__main__":
    cli.run(main)
