"""Train a classifier of MNIST digits that sees one square block.

    python3 train_mnist_block.py --block_size 4 --lr 0.01 --end_epoch 199
    python3 train_mnist_block.py --block_size 4 --lr 0.001 --end_epoch 399 \\
        --resume mnist_one_block_lr_0.01_regularization_0.0005_block_4_epoch_199.pth

This is like train_mnist_band.py, with a block in place of a band. The script writes
checkpoints/{dataset}_one_block_….pth.
"""

from patchcert import MNIST_LIKE, Block, class_count, cli, data_name, mnist_network, train, training_parser


def main() -> None:
    parser = training_parser(__doc__, MNIST_LIKE, lr=0.01, regularization=0.0005, end_epoch=199)
    parser.add_argument(
        "--block_size", type=int, default=4, help="s, the side of the block that an ablated image shows, in pixels"
    )
    options = parser.parse_args()
    classes = class_count(options)
    train(
        options,
        Block(28, 28, options.block_size),
        lambda: mnist_network(classes=classes),
        stem=f"{data_name(options)}_one_block",
        details=f"block_{options.block_size}",
    )


if __name__ == "__main__":
    cli.run(main)
