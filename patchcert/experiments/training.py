"""Training a base classifier, or an undefended network, as options describe it."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from patchcert import checkpoint, distributed
from patchcert.ablations.ablation import Ablation, Whole
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.ablations.windows import WindowPairs
from patchcert.cli import Parser
from patchcert.data import splits
from patchcert.data.augmentation import AUGMENTATIONS, Augmentation
from patchcert.data.folders import Images
from patchcert.engines.columns import COLUMN, LINES, STEMS, LinesNetwork, Shape
from patchcert.epochs import no_other_run
from patchcert.errors import UsageError, require_within
from patchcert.experiments import about
from patchcert.experiments.setting import (
    IMAGENET,
    add_save_every,
    add_setting,
    add_subset,
    add_windows,
    load_images,
    set_up,
)
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
from patchcert.training import loop
from patchcert.training.hidden_pairs import HiddenPair
from patchcert.training.objectives import EveryBand, Objective, OneCopy, WorstPair
from patchcert.training.recipes import FAST, RECIPES

RECIPE_OPTIONS = ("lr", "regularization", "end_epoch", "batch_size", "ablation_per", "amp", "filters_lr")
"""Options of the recipe's own names; not every script has the last one."""

PREPARED_ON = 5000
"""Training images that a network may look at, before the first step, for what no step trains."""


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
            help="images, one folder for each class",
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
        help="weight of the loss of single bands beside that of the worst pair of masks",
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
        help="learning rate of Muon, which trains the filters of convolutions. SGD trains the rest by --lr. 0: "
        "SGD trains all",
    )
    parser.recipe.add_argument(
        "--tries",
        type=positive_int,
        default=tries,
        metavar="N",
        help="random copies of each image; the network is trained on the one with the largest loss",
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
        help="measure N training images after each epoch, and do not train on them. They are evenly spaced, at most a "
        "tenth of all. 0 measures the test part",
    )


def _add_loss_power(parser: Parser, whose: str, which: str) -> None:
    less = f"0 is cross-entropy, and the nearer to 1, the less do images count {which}"
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
        help=f"change training images at random: none, or some of {','.join(AUGMENTATIONS)}, in this order",
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


def train(
    options: argparse.Namespace,
    ablation: Ablation | None,
    build_network: Callable[[], nn.Module],
    stem: str,
    details: str,
    augmentations: tuple[Augmentation, ...] = (),
) -> Path:
    """Train as the options of `training_parser` say; returns where the checkpoint lies.

    A run that is finished already stays as it is.

    Args:
        stem, details: see `checkpoint.run_name`.
    """
    set_up(options)
    if options.recipe != "paper":
        details += f"_recipe_{options.recipe}"
    if ablation is not None:
        ablation.to(options.device)
    smoothing = RECIPES[options.recipe].label_smoothing
    if getattr(options, "model", None) == COLUMN:
        objective = EveryBand(smoothing)
    else:
        objective = OneCopy(ablation, options.ablation_per, smoothing)
    return run_training(options, ablation, objective, build_network, stem, details, augmentations)


def train_masked(options: argparse.Namespace, shape: Shape, stem: str) -> Path:
    """Train a network for double masking as the options of `masked_training_parser` say; see `train`."""
    set_up(options)
    ablation = shape.ablation().to(options.device)
    ablation.require_fits("size_to_train", options.size_to_train)
    require_within("band_stride", options.band_stride, 1, options.band_size, "further apart, bands miss pixels")
    objective = WorstPair(ablation, options.size_to_train, options.band_weight, options.band_stride, options.loss_power)
    details = f"lines_{shape.lines}_size_{options.size_to_train}_band_{shape.band_size}"
    build = partial(LinesNetwork, shape)
    return run_training(options, ablation, objective, build, stem, details, options.augmentations)


def train_windows(
    options: argparse.Namespace, ablation: WindowPairs, build_network: Callable[[], nn.Module], stem: str, details: str
) -> Path:
    """Train a network for double masking of copies with hidden windows, by `windows_training_parser`; see `train`."""
    set_up(options)
    smoothing = RECIPES[options.recipe].label_smoothing
    objective = HiddenPair(ablation.hidden(), options.tries, options.easy_epochs, smoothing)
    details += f"_windows_{ablation.window_size}x{ablation.per_side}"
    return run_training(options, ablation, objective, build_network, stem, details, options.augmentations)


Parts = tuple[Images, Images, str]
"""What is trained on, what is measured after each epoch, and whether the latter is held_out or test."""


def load_parts(options: argparse.Namespace) -> Parts:
    """Images of the data set that the options name, on their device."""
    train_set, test_set = (
        splits.spread(load_images(options, part), options.subset).to(options.device) for part in (True, False)
    )
    return held_out_of(options, train_set) or (train_set, test_set, "test")


def held_out_of(options: argparse.Namespace, train_set: Images) -> Parts | None:
    """The training images in two parts, of which --held_out names the second; None where it has none."""
    count = min(getattr(options, "held_out", 0), len(train_set) // 10)
    return (*splits.hold_out(train_set, count), "held_out") if count else None


def run_training(
    options: argparse.Namespace,
    ablation: Ablation | HiddenWindows | None,
    objective: Objective,
    build_network: Callable[[], nn.Module],
    stem: str,
    details: str,
    augmentations: tuple[Augmentation, ...],
    load: Callable[[argparse.Namespace], Parts] = load_parts,
) -> Path:
    """Train what `build_network` makes to lower `objective`; see `train`.

    Args:
        ablation: what the checkpoint says of what the network saw.
    """
    name = checkpoint.run_name(stem, options.lr, options.regularization, details, options.end_epoch, options.resume)
    path = checkpoint.FOLDER / name
    with no_other_run([path]):
        _train_into(path, options, ablation, objective, build_network, augmentations, load)
    return path


def _train_into(
    path: Path,
    options: argparse.Namespace,
    ablation: Ablation | HiddenWindows | None,
    objective: Objective,
    build_network: Callable[[], nn.Module],
    augmentations: tuple[Augmentation, ...],
    load: Callable[[argparse.Namespace], Parts],
) -> None:
    torch.manual_seed(options.seed)
    network = build_network()
    resumed = _resumed(options, network, ablation)
    train_set, test_set, measured_on = load(options)
    distributed.require_images(min(len(train_set), len(test_set)))
    kind = about.of_run(options, network, ablation or Whole(*train_set.image_shape[1:]))
    if resumed:
        about.hold_against(options, kind, options.resume)
    recipe = replace(
        RECIPES[options.recipe],
        **{option: getattr(options, option) for option in RECIPE_OPTIONS if hasattr(options, option)},
        seed=options.seed,
        augmentations=augmentations,
    )
    network.to(options.device)
    if not resumed and hasattr(network, "prepare"):
        network.prepare(next(splits.spread(train_set, PREPARED_ON).batches(PREPARED_ON))[0])
    loop.train(
        network,
        objective,
        train_set,
        test_set,
        recipe,
        path,
        resumed,
        compiled=options.compile,
        start=_start(options, resumed),
        about=kind,
        overwrite=options.overwrite,
        origin=options.resume and Path(options.resume),
        save_every=options.save_every,
        measured_on=measured_on,
    )


def _resumed(options: argparse.Namespace, network: nn.Module, ablation: Ablation | HiddenWindows | None) -> dict | None:
    if options.resume is None:
        return None
    content = about.fill("resume", options, network, ablation)
    epoch = checkpoint.require_epoch("resume", Path(options.resume), content)
    if "position" in content:
        right = "stopped inside an epoch, where only the command that wrote it goes on; expected the end of one"
        raise UsageError("resume", options.resume, right)
    if epoch >= options.end_epoch:
        right = f"expected a checkpoint before --end_epoch {options.end_epoch}, this one is at {epoch}"
        raise UsageError("resume", options.resume, right)
    return content


def _start(options: argparse.Namespace, resumed: dict | None) -> str:
    """What tells the weights apart that training can begin with, but for those that the seed fixes."""
    if resumed is not None:
        return checkpoint.fingerprint(resumed["net"].values())
    return "torchvision's weights" if getattr(options, "pretrained", False) else "no checkpoint"
