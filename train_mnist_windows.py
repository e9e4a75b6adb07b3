"""Train a classifier of MNIST digits of which two square windows are hidden, for double masking.

    python3 train_mnist_windows.py
    python3 train_mnist_windows.py --window_size 10 --per_side 4

The masks of PatchCleanser (Xiang, Mahloujifar and Mittal, USENIX Security 2022): whatever a patch shows, some window
hides it. Certified is what every pair of windows leaves right, so that the hardest of some random pairs is trained on.
36 windows of 8 × 8 pixels hold patches up to 5 × 5, as do 16 of 10 × 10. Writes
checkpoints/{dataset}_windows_….pth and a log.
"""

from patchcert import (
    MNIST_LIKE,
    WindowPairs,
    class_count,
    cli,
    data_name,
    mnist_network,
    train_windows,
    windows_training_parser,
)


def main() -> None:
    parser = windows_training_parser(__doc__, MNIST_LIKE, lr=0.02, end_epoch=29)
    parser.set_defaults(window_size=8, per_side=6, tries=3, augmentations="random_crop,random_turn")
    options = parser.parse_args()
    classes = class_count(options)
    train_windows(
        options,
        WindowPairs(28, 28, options.window_size, options.per_side),
        lambda: mnist_network(classes=classes),
        stem=f"{data_name(options)}_windows",
        details="model_mnist",
    )


if __name__ == "__main__":
    cli.run(main)
