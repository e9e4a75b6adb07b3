"""Train a network of limited reach on MNIST digits for double masking: columns, rows or both.

    python3 train_mnist_band_masked.py
    python3 train_mnist_band_masked.py --lines columns --size_to_train 2 --end_epoch 9

One pass computes all bands of an image. The loss is that of the certificate itself: it depends on the label's lead at
the worst pair of masks. The script writes checkpoints/{dataset}_masked_band_….pth and a log beside it.
"""

from patchcert import MNIST_LIKE, Shape, class_count, cli, data_name, masked_training_parser, train_masked


def main() -> None:
    parser = masked_training_parser(__doc__, MNIST_LIKE, "32,64,96,128", "0,1,1,1", lr=0.1, end_epoch=19)
    options = parser.parse_args()
    images = {"height": 28, "width": 28, "image_channels": 1}
    bands = {"band_size": options.band_size, "lines": options.lines, "stem": options.stem}
    shape = Shape(options.channels, options.blocks, **bands, **images, classes=class_count(options))
    train_masked(options, shape, stem=f"{data_name(options)}_masked_band")


if __name__ == "__main__":
    cli.run(main)
