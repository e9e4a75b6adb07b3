"""Train a classifier of CIFAR-10 images that sees one square block.

    python3 train_cifar_block.py --block_size 4 --lr 0.1 --end_epoch 199
    python3 train_cifar_block.py --block_size 4 --recipe fast
    torchrun --nproc_per_node=8 train_cifar_block.py --block_size 4 --recipe fast
    python3 train_cifar_block.py --dataset folder --data DIR --image_size 32 --block_size 4

This is the base classifier of (de)randomized smoothing (Levine and Feizi, NeurIPS 2020, section 4). Images are cropped
and mirrored at random. The recipes are in patchcert/training/recipes.py. The script writes
checkpoints/cifar_one_block_….pth and a log.
"""

from patchcert import (
    CIFAR_LIKE,
    Block,
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
    parser = training_parser(__doc__, CIFAR_LIKE, lr=0.1, regularization=0.0005, end_epoch=199)
    add_recipe(parser)
    add_network(parser, MODELS, "resnet18", image_size=32)
    parser.add_argument(
        "--block_size", type=int, default=4, help="s, the side of the block that an ablated image shows, in pixels"
    )
    options = parser.parse_args()
    classes = class_count(options)
    train(
        options,
        Block(options.image_size, options.image_size, options.block_size),
        lambda: cifar_resnet(options.model, channels=6, classes=classes),
        stem=f"{data_name(options)}_one_block",
        details=f"model_{options.model}_block_{options.block_size}",
        augmentations=(random_crop, random_flip),
    )


if __name__ == "__main__":
    cli.run(main)
