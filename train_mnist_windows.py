"""Train a classifier of MNIST digits with two hidden square windows, for double masking.

    python3 train_mnist_windows.py
    python3 train_mnist_windows.py --window_size 5 --per_side 7

The windows are placed as in PatchCleanser (Xiang, Mahloujifar and Mittal, USENIX Security 2022): wherever a patch lies,
some window covers it. An image is certified if it is classified correctly whichever pair of windows is hidden. So the
last part of the training uses the hardest of some random pairs. After each epoch, a greedy search looks for the hardest
pair of windows in some training images that no step uses. 36 windows of 8 × 8 pixels cover patches up to 5 × 5, 49 of
5 × 5 cover patches up to 2 × 2. The script writes checkpoints/{dataset}_windows_….pth and a log.
"""

from patchcert import (
    MNIST_LIKE,
    WindowPairs,
    add_model,
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
        MNIST_LIKE,
        recipe="windows",
        end_epoch=14,
        tries=3,
        easy_epochs=4,
        augmentations="random_crop,random_turn",
    )
    add_model(parser, MODELS_OF_COPIES, "resnet14_half")
    parser.set_defaults(window_size=8, per_side=6)
    options = parser.parse_args()
    classes = class_count(options)
    train_windows(
        options,
        WindowPairs(28, 28, options.window_size, options.per_side),
        lambda: network_of_copies(options.model, channels=2, classes=classes),
        stem=f"{data_name(options)}_windows",
        details=f"model_{options.model}",
    )


if __name__ == "__main__":
    cli.run(main)
