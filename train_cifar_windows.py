"""Train a classifier of CIFAR-10 images with two hidden square windows, for double masking.

    python3 train_cifar_windows.py
    python3 train_cifar_windows.py --window_size 7 --per_side 6
    python3 train_cifar_windows.py --dataset folder --data DIR --image_size 32

The windows are placed as in PatchCleanser (Xiang, Mahloujifar and Mittal, USENIX Security 2022): wherever a patch lies,
some window covers it. An image is certified if it is classified correctly whichever pair of windows is hidden. So the
last part of the training uses the hardest of some random pairs. After each epoch, a greedy search looks for the hardest
pair of windows in some training images that no step uses. 16 windows of 11 × 11 pixels cover patches up to 5 × 5, 36 of
7 × 7 cover patches up to 3 × 3. The script writes checkpoints/cifar_windows_….pth and a log.
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
from patchcert.small_networks import MODELS_OF_COPIES, network_of_copies


def main() -> None:
    parser = windows_training_parser(
        __doc__,
        CIFAR_LIKE,
        recipe="windows",
        end_epoch=29,
        tries=3,
        easy_epochs=20,
        augmentations="alternating_flip,random_shift",
    )
    add_network(parser, MODELS_OF_COPIES, "pooled", image_size=32)
    options = parser.parse_args()
    classes = class_count(options)
    train_windows(
        options,
        WindowPairs(options.image_size, options.image_size, options.window_size, options.per_side),
        lambda: network_of_copies(options.model, channels=6, classes=classes),
        stem=f"{data_name(options)}_windows",
        details=f"model_{options.model}",
    )


if __name__ == "__main__":
    cli.run(main)
