"""Train a classifier of MNIST digits that sees one band of rows.

    python3 train_mnist_row.py --band_size 4 --lr 0.01 --end_epoch 199
    python3 train_mnist_row.py --band_size 4 --lr 0.001 --end_epoch 399 \\
        --resume tmnist_one_band_lr_0.01_regularization_0.0005_band_4_epoch_199.pth

This is like train_mnist_band.py, with rows in place of columns. As in the paper, the network sees them as bands of
columns of the transposed image. The script writes checkpoints/t{dataset}_one_band_….pth.
"""

from patchcert import (
    COLUMN,
    MNIST_LIKE,
    Row,
    add_model,
    base_network,
    cli,
    data_name,
    mnist_network,
    train,
    training_parser,
)


def main() -> None:
    parser = training_parser(__doc__, MNIST_LIKE, lr=0.01, regularization=0.0005, end_epoch=199)
    add_model(parser, ("mnist", COLUMN), "mnist")
    parser.add_argument("--band_size", type=int, default=4, help="s, the number of rows that an ablated image shows")
    options = parser.parse_args()
    ablation = Row(28, 28, options.band_size)
    train(
        options,
        ablation,
        lambda: base_network(options, ablation, lambda classes: mnist_network(classes=classes), image_channels=1),
        stem=f"t{data_name(options)}_one_band",
        details=f"model_column_band_{options.band_size}" if options.model == COLUMN else f"band_{options.band_size}",
    )


if __name__ == "__main__":
    cli.run(main)
