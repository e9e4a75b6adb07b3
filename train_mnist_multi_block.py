"""Train a classifier of MNIST digits that sees several aligned blocks.

    python3 train_mnist_multi_block.py --block_size 4 --keep 4 --lr 0.01 --end_epoch 199
    python3 train_mnist_multi_block.py --block_size 4 --keep 4 --lr 0.001 --end_epoch 399 \\
        --resume mnist_block_fixed_exact_lr_0.01_regularization_0.0005_block_4_keep_4_epoch_199.pth

This is like train_mnist_band.py, with `keep` of the aligned blocks. The script writes
checkpoints/{dataset}_block_fixed_exact_….pth.
"""

from patchcert import MNIST_LIKE, MultiBlock, class_count, cli, data_name, mnist_network, train, training_parser


def main() -> None:
    parser = training_parser(__doc__, MNIST_LIKE, lr=0.01, regularization=0.0005, end_epoch=199)
    parser.add_argument("--block_size", type=int, default=4, help="b, the side of a block, in pixels")
    parser.add_argument("--keep", type=int, default=4, help="number of blocks that an ablated image shows")
    options = parser.parse_args()
    classes = class_count(options)
    train(
        options,
        MultiBlock(28, 28, options.block_size, options.keep),
        lambda: mnist_network(classes=classes),
        stem=f"{data_name(options)}_block_fixed_exact",
        details=f"block_{options.block_size}_keep_{options.keep}",
    )


if __name__ == "__main__":
    cli.run(main)
