"""Training a base classifier, or an undefended network, as options describe it."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from patchcert import checkpoint, distributed, results
from patchcert.cli import Parser
from patchcert.data import splits
from patchcert.data.augmentation import Augmentation
from patchcert.errors import UsageError
from patchcert.experiments.setting import IMAGENET, add_setting, add_subset, load_images, set_up
from patchcert.option_values import index, nonnegative_float, positive_float, positive_int
from patchcert.smoothing import training
from patchcert.smoothing.ablation import Ablation

RECIPE_OPTIONS = ("lr", "regularization", "end_epoch", "batch_size", "ablation_per", "amp")


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
    parser = Parser(description)
    parser.set_defaults(recipe="paper", ablation_per="batch")
    if data_sets == IMAGENET:
        parser.add_argument(
            "--trainpath", type=Path, default=Path("imagenet-train/train"), metavar="DIR", help="one folder a class"
        )
    parser.add_argument("--lr", type=positive_float, default=lr, help="learning rate")
    parser.add_argument("--regularization", type=nonnegative_float, default=regularization, help="weight decay")
    parser.add_argument("--end_epoch", type=index, default=end_epoch, help="index of the last epoch")
    parser.add_argument("--resume", metavar="NAME", help="checkpoint to go on from: its name or path")
    if ablated:
        parser.add_argument(
            "--ablation_per",
            choices=("batch", "sample"),
            default="batch",
            help="what shows a random ablation of its own",
        )
    parser.add_argument("--batch_size", type=positive_int, default=batch_size, help="images per step")
    add_setting(parser, data_sets)
    add_subset(parser)
    return parser


def add_recipe(parser: Parser) -> None:
    """--recipe; the options that a recipe has a value for start from it, here and in --help."""
    parser.add_argument(
        "--recipe", choices=training.RECIPES, default="paper", help="the paper's, or a fast one for a recent GPU"
    )
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--recipe", nargs="?")
    chosen = chooser.parse_known_args()[0].recipe
    if chosen == "fast":
        parser.set_defaults(**{name: getattr(training.FAST, name) for name in RECIPE_OPTIONS})


def train(
    options: argparse.Namespace,
    ablation: Ablation | None,
    build_network: Callable[[], nn.Module],
    stem: str,
    details: str,
    augmentations: tuple[Augmentation, ...] = (),
) -> Path:
    """Train as the options of `training_parser` say; returns where the checkpoint lies.

    Args:
        stem, details: see `checkpoint.run_name`.
    """
    if options.recipe != "paper":
        details += f"_recipe_{options.recipe}"
    name = checkpoint.run_name(stem, options.lr, options.regularization, details, options.end_epoch, options.resume)
    set_up(options)
    torch.manual_seed(options.seed)
    network = build_network()
    resumed = _resumed(options, network)
    train_set, test_set = (
        splits.spread(load_images(options, part), options.subset).to(options.device) for part in (True, False)
    )
    distributed.require_images(min(len(train_set), len(test_set)))
    recipe = replace(
        training.RECIPES[options.recipe],
        **{option: getattr(options, option) for option in RECIPE_OPTIONS},
        seed=options.seed,
        augmentations=augmentations,
    )
    path = checkpoint.FOLDER / name
    network.to(options.device)
    if ablation is not None:
        ablation.to(options.device)
    try:
        state = training.train(
            network, ablation, train_set, test_set, recipe, path, resumed, options.compile, _start(options, resumed)
        )
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the same command goes on after the last whole epoch") from stop
    if distributed.is_first():
        results.print_training(path, state)
    return path


def _resumed(options: argparse.Namespace, network: nn.Module) -> dict | None:
    if options.resume is None:
        return None
    content = checkpoint.load_network("resume", checkpoint.find("resume", options.resume), network)
    if not isinstance(content.get("epoch"), int):
        raise UsageError("resume", options.resume, "expected a checkpoint of a training script, it has no epoch")
    if content["epoch"] >= options.end_epoch:
        right = f"expected a checkpoint before --end_epoch {options.end_epoch}, this one is at {content['epoch']}"
        raise UsageError("resume", options.resume, right)
    return content


def _start(options: argparse.Namespace, resumed: dict | None) -> str:
    """What tells the weights apart that training can begin with, but for those that the seed fixes."""
    if resumed is not None:
        return checkpoint.fingerprint(resumed["net"].values())
    return "torchvision's weights" if getattr(options, "pretrained", False) else "no checkpoint"
