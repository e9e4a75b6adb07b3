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
from patchcert.data import splits
from patchcert.data.augmentation import Augmentation
from patchcert.data.folders import Images
from patchcert.engines.columns import COLUMN, LinesNetwork, Shape
from patchcert.epochs import no_other_run
from patchcert.errors import UsageError, require_within
from patchcert.experiments import about
from patchcert.experiments.setting import load_images, set_up
from patchcert.experiments.training_options import RECIPE_OPTIONS
from patchcert.training import loop
from patchcert.training.hidden_pairs import HiddenPair
from patchcert.training.objectives import EveryBand, Objective, OneCopy, WorstPair
from patchcert.training.recipes import RECIPES

PREPARED_ON = 5000
"""Training images that a network may look at, before the first step, for what no step trains."""


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
        right = "was saved inside an epoch, and only the command that wrote it continues it; expected the end of one"
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
