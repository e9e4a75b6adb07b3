"""The options of scripts that train."""

import argparse
from pathlib import Path

from patchcert.cli import Parser
from patchcert.data.augmentation import AUGMENTATIONS, Augmentation
from patchcert.engines.columns import LINES, STEMS
from patchcert.experiments import about
from patchcert.experiments.setting import IMAGENET, add_save_every, add_setting, add_subset, add_windows
from patchcert.option_values import (
    fraction,
    index,
    nonnegative_float,
    one_patch,
    positive_float,
    positive_int,
    several_of,
    whole_numbers,
)
from patchcert.training.recipes import FAST, RECIPES

RECIPE_OPTIONS = ("lr", "regularization", "end_epoch", "batch_size", "ablation_per", "amp", "filters_lr")
"""Options of the recipe's own names; not every script has the last one."""


def training_parser(
    description: str,
    data_sets: tuple[str, ...],
    lr: float,
    regularization: float,
    end_epoch: int,
    batch_size: int = 128,
    ablated: bool = True,
) -> Parser:
    """The options of every training script; the script adds those of its ablation, if it has one."""
    parser = about.CheckpointParser(description, "resume")
    parser.set_defaults(recipe="paper", ablation_per="batch")
    if data_sets == IMAGENET:
        parser.data.add_argument(
            "--trainpath",
            type=Path,
            default=Path("imagenet-train/train"),
            metavar="DIR",
            help="folder with a subfolder of images for each class",
        )
    parser.recipe.add_argument("--lr", type=positive_float, default=lr, help="learning rate")
    parser.recipe.add_argument("--regularization", type=nonnegative_float, default=regularization, help="weight decay")
    length = parser.recipe.add_mutually_exclusive_group()
    length.add_argument(
        "--end_epoch",
        type=index,
        default=end_epoch,
        help="number of the last epoch; epochs count from 0, so 9 means ten epochs",
    )
    length.add_argument(
        "--epochs",
        type=_last_of_epochs,
        dest="end_epoch",
        default=argparse.SUPPRESS,
        metavar="N",
        help="number of epochs, including those before --resume; the same as --end_epoch N-1",
    )
    parser.add_argument("--resume", metavar="NAME", help="start from the weights of this checkpoint: its name or path")
    parser.add_argument(
        "--overwrite", action="store_true", help="train again, and replace a finished run or what another run left"
    )
    if ablated:
        parser.recipe.add_argument(
            "--ablation_per",
            choices=("batch", "sample"),
            default="batch",
            help="draw one random ablation for each batch, or one for each image",
        )
    add_save_every(parser)
    parser.recipe.add_argument("--batch_size", type=positive_int, default=batch_size, help="images in a step")
    add_setting(parser, data_sets)
    add_subset(parser)
    return parser


def _last_of_epochs(text: str) -> int:
    """The number, from 0 on, of the last of so many epochs."""
    return positive_int(text) - 1


def masked_training_parser(
    description: str, data_sets: tuple[str, ...], channels: str, blocks: str, lr: float, end_epoch: int
) -> Parser:
    """The options of every script that trains a network for double masking."""
    parser = training_parser(description, data_sets, lr, regularization=0.0005, end_epoch=end_epoch, ablated=False)
    parser.set_defaults(recipe="masked")
    parser.add_argument("--lines", choices=LINES, default="both", help="bands of columns, of rows, or of both")
    parser.add_argument("--band_size", type=positive_int, default=4, help="s, the number of columns or rows in a band")
    parser.recipe.add_argument("--size_to_train", type=one_patch, default="5", help="patch to train against: 5 or 2x8")
    parser.recipe.add_argument(
        "--band_weight",
        type=nonnegative_float,
        default=0.5,
        help="weight of the loss of single bands; the loss of the worst pair of masks has weight 1",
    )
    _add_loss_power(parser, "of the worst pair of masks", "that are far from being certified")
    parser.recipe.add_argument(
        "--band_stride",
        type=positive_int,
        default=1,
        metavar="N",
        help="a training step looks at every N-th band, starting from a random one. Certifying looks at all bands",
    )
    add_augmentations(parser, "none")
    parser.add_argument(
        "--stem",
        choices=STEMS,
        default="shared",
        help="first layers: shared by neighbouring bands, or separate for each band",
    )
    parser.add_argument("--channels", type=whole_numbers, default=channels, help="channels of the network's stages")
    parser.add_argument("--blocks", type=whole_numbers, default=blocks, help="residual blocks of each stage")
    return parser


def windows_training_parser(
    description: str,
    data_sets: tuple[str, ...],
    recipe: str,
    end_epoch: int,
    tries: int,
    easy_epochs: int,
    augmentations: str,
) -> Parser:
    """The options of every script that trains a network on copies with hidden windows, for double masking."""
    start = RECIPES[recipe]
    parser = training_parser(
        description, data_sets, start.lr, start.regularization, end_epoch, start.batch_size, ablated=False
    )
    parser.set_defaults(recipe=recipe, amp=True)
    add_windows(parser)
    parser.recipe.add_argument(
        "--filters_lr",
        type=nonnegative_float,
        default=start.filters_lr,
        help="learning rate of Muon, which trains the filters of convolutions. SGD trains the rest with --lr. 0: "
        "SGD trains all",
    )
    parser.recipe.add_argument(
        "--tries",
        type=positive_int,
        default=tries,
        metavar="N",
        help="number of random copies of each image; the network is trained on the copy with the largest loss",
    )
    parser.recipe.add_argument(
        "--easy_epochs",
        type=index,
        default=easy_epochs,
        metavar="N",
        help="the first N epochs train on one random copy of each image",
    )
    add_held_out(parser)
    add_augmentations(parser, augmentations)
    return parser


def add_held_out(parser: Parser) -> None:
    """--held_out, of which training images are measured."""
    parser.data.add_argument(
        "--held_out",
        type=index,
        default=300,
        metavar="N",
        help="measure this many training images after each epoch, and do not train on them. They are evenly "
        "spaced, and at most a tenth of all. 0 measures the test part",
    )


def _add_loss_power(parser: Parser, whose: str, which: str) -> None:
    less = f"0 is cross-entropy; the closer to 1, the less weight is given to images {which}"
    parser.recipe.add_argument(
        "--loss_power",
        type=fraction,
        default=0.0,
        metavar="Q",
        help=f"q of the generalised cross-entropy {whose}: {less}",
    )


def add_augmentations(parser: Parser, default: str) -> None:
    """--augmentations, with such a default."""
    parser.recipe.add_argument(
        "--augmentations",
        type=_augmentations,
        default=default,
        metavar="NAMES",
        help=f"change training images at random: none, or some of {','.join(AUGMENTATIONS)}, in the order given",
    )


def _augmentations(text: str) -> tuple[Augmentation, ...]:
    """Names with commas; none for none."""
    names = [] if text == "none" else several_of(AUGMENTATIONS, f"none, or some of {','.join(AUGMENTATIONS)}")(text)
    return tuple(AUGMENTATIONS[name] for name in names)


def add_recipe(parser: Parser) -> None:
    """--recipe; the options that a recipe has a value for start from it, here and in --help."""
    parser.recipe.add_argument(
        "--recipe",
        choices=("paper", "fast"),
        default="paper",
        help="the paper's recipe, or a fast one for a recent GPU",
    )
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--recipe", nargs="?")
    chosen = chooser.parse_known_args()[0].recipe
    if chosen == "fast":
        parser.set_defaults(**{name: getattr(FAST, name) for name in RECIPE_OPTIONS})
