"""Train a classifier of whole CIFAR-10 images, the undefended one that attacks are measured on.

    python3 train_cifar_baseline.py --lr 0.1 --end_epoch 149
    python3 train_cifar_baseline.py --recipe fast

This is like train_cifar_band.py, without ablation, on 3 channels. The script writes checkpoints/cifar_baseline_….pth
and a log beside it.
"""

from patchcert import (
    CIFAR_LIKE,
    add_network,
    add_recipe,
    class_count,
    cli,
    data_name,
    random_crop,
    random_flip,
    train,
    training_parser,
)
from patchcert.small_networks import MODELS, cifar_resnet


def main() -> None:
    parser = training_parser(__doc__, CIFAR_LIKE, lr=0.1, regularization=0.0005, end_epoch=149, ablated=False)
    add_recipe(parser)
    add_network(parser, MODELS, "resnet18", image_size=32)
    options = parser.parse_args()
    classes = class_count(options)
    train(
        options,
        None,
        lambda: cifar_resnet(options.model, channels=3, classes=classes),
        stem=f"{data_name(options)}_baseline",
        details=f"model_{options.model}",
        augmentations=(random_crop, random_flip),
    )


if __name__ == "__main__":
    cli.run(main)
