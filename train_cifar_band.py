"""Train a classifier of CIFAR-10 images that sees one band of columns.

    python3 train_cifar_band.py --band_size 4 --lr 0.1 --end_epoch 199
    python3 train_cifar_band.py --band_size 4 --recipe fast
    torchrun --nproc_per_node=8 train_cifar_band.py --band_size 4 --recipe fast
    python3 train_cifar_band.py --dataset folder --data DIR --image_size 32 --band_size 4

This is the base classifier of (de)randomized smoothing (Levine and Feizi, NeurIPS 2020, section 4). Images are cropped
and mirrored at random. The recipes are in patchcert/training/recipes.py. The script writes
checkpoints/cifar_one_band_….pth and a log.
"""

from patchcert import (
    CIFAR_LIKE,
    COLUMN,
    Band,
    add_network,
    add_recipe,
    base_network,
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
    add_network(parser, (*MODELS, COLUMN), "resnet18", image_size=32)
    parser.add_argument("--band_size", type=int, default=4, help="s, the number of columns that an ablated image shows")
    options = parser.parse_args()
    ablation = Band(options.image_size, options.image_size, options.band_size)
    train(
        options,
        ablation,
        lambda: base_network(options, ablation, lambda classes: cifar_resnet(options.model, 6, classes), 3),
        stem=f"{data_name(options)}_one_band",
        details=f"model_{options.model}_band_{options.band_size}",
        augmentations=(random_crop, random_flip),
    )


if __name__ == "__main__":
    cli.run(main)
