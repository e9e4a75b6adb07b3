"""Train a classifier of whole MNIST digits, the undefended one that attacks are measured on.

    python3 train_mnist_baseline.py --lr 0.01 --end_epoch 19
    python3 train_mnist_baseline.py --dataset digits --end_epoch 59

This is like train_mnist_band.py, without ablation, on 1 channel. The script writes checkpoints/{dataset}_baseline_….pth
and a log beside it.
"""

from patchcert import MNIST_LIKE, class_count, cli, data_name, mnist_network, train, training_parser


def main() -> None:
    parser = training_parser(__doc__, MNIST_LIKE, lr=0.01, regularization=0.0005, end_epoch=19, ablated=False)
    options = parser.parse_args()
    classes = class_count(options)
    train(
        options,
        None,
        lambda: mnist_network(channels=1, classes=classes),
        stem=f"{data_name(options)}_baseline",
        details="",
    )


if __name__ == "__main__":
    cli.run(main)
