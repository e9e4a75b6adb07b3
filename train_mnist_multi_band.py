"""Train a classifier of MNIST digits that sees several aligned bands of columns.

    python3 train_mnist_multi_band.py --bandwidth 2 --keep 2 --lr 0.01 --end_epoch 199
    python3 train_mnist_multi_band.py --bandwidth 2 --keep 2 --lr 0.001 --end_epoch 399 \\
        --resume mnist_bands_lr_0.01_regularization_0.0005_keep_2_bandwidth_2_epoch_199.pth

This is like train_mnist_band.py, with `keep` of the bands of `bandwidth` columns. The script writes
checkpoints/{dataset}_bands_….pth.
"""

from patchcert import MNIST_LIKE, MultiBand, class_count, cli, data_name, mnist_network, train, training_parser


def main() -> None:
    parser = training_parser(__doc__, MNIST_LIKE, lr=0.01, regularization=0.0005, end_epoch=199)
    parser.add_argument("--bandwidth", type=int, default=2, help="b, the number of columns in a band")
    parser.add_argument("--keep", type=int, default=2, help="number of bands that an ablated image shows")
    options = parser.parse_args()
    classes = class_count(options)
    train(
        options,
        MultiBand(28, 28, options.bandwidth, options.keep),
        lambda: mnist_network(classes=classes),
        stem=f"{data_name(options)}_bands",
        details=f"keep_{options.keep}_bandwidth_{options.bandwidth}",
    )


if __name__ == "__main__":
    cli.run(main)
