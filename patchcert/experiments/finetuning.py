"""Training a network that somebody pretrained on images without two windows, as options describe it."""

import argparse
import re
from pathlib import Path

from torch import nn

from patchcert import checkpoint, distributed, messages
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.cli import Parser
from patchcert.data import class_numbers, folders, listing, splits
from patchcert.data.dataset import Dataset
from patchcert.engines.dropped_tokens import DROP
from patchcert.engines.plain import PlainNetwork
from patchcert.errors import UsageError, called
from patchcert.experiments.pretrained import add_pretrained, images_of, network_of
from patchcert.experiments.setting import ANY, data_name, set_up
from patchcert.experiments.training import Parts, held_out_of, run_training
from patchcert.experiments.training_options import add_augmentations, add_held_out, training_parser
from patchcert.option_values import one_patch_size, positive_int
from patchcert.patch_sizes import shapes
from patchcert.pretrained.preparation import Preparation
from patchcert.training.hidden_pairs import HiddenPair
from patchcert.training.recipes import FINETUNE

TRIES = 3
"""Random pairs that are looked at where --tries does not say how many."""


def pretrained_training_parser(description: str) -> Parser:
    """The options of training a network that somebody pretrained."""
    recipe = FINETUNE
    parser = training_parser(
        description, ANY, recipe.lr, recipe.regularization, recipe.end_epoch, recipe.batch_size, ablated=False
    )
    parser.set_defaults(recipe="finetune", dataset="folder", amp=True)
    add_pretrained(parser)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="the weights to begin with: a state_dict, or a checkpoint with one (default: the network's own)",
    )
    parser.recipe.add_argument(
        "--size_to_train",
        type=one_patch_size,
        default="2%",
        help="patch to train against: 32, 2x8 (rows × columns) or 2%% of the pixels",
    )
    parser.recipe.add_argument("--per_side", type=positive_int, default=6, help="k: there are k × k hidden windows")
    parser.recipe.add_argument(
        "--masks",
        choices=("greedy", "random", "hardest"),
        default="greedy",
        help="which two windows are hidden in training images. greedy: the window that raises the loss most, and then "
        "the worst second one; random: a random pair; hardest: the worst of some random pairs. greedy tries every "
        "third window along each side, and then those around the worst of these",
    )
    parser.recipe.add_argument(
        "--tries", type=positive_int, metavar="N", help=f"number of random pairs for --masks hardest (default: {TRIES})"
    )
    add_held_out(parser)
    add_augmentations(parser, "random_flip")
    return parser


def finetune(options: argparse.Namespace) -> Path:
    """Train as the options of `pretrained_training_parser` say; returns where the checkpoint lies."""
    if options.tries and options.masks != "hardest":
        raise UsageError("tries", options.tries, f"expected with --masks hardest, not with --masks {options.masks}")
    if options.hidden == DROP:
        raise UsageError("hidden", DROP, "expected a colour: networks are trained on painted pixels")
    set_up(options)
    plain, preparation = network_of(options)
    if plain.drops_tokens:
        raise UsageError("model", options.model, "drops hidden tokens; expected a PlainNetwork that paints them")
    _require_weights(options, plain.network)
    (patch,) = shapes(options.size_to_train, *preparation.size)
    with called(patch="size_to_train"):
        windows = HiddenWindows.for_patch(*preparation.size, patch, options.per_side)
    if distributed.is_first():
        messages.print_network(plain.description)
    network = plain.to(options.device).network
    network.description = plain.description
    return run_training(
        options,
        windows,
        _objective(options, plain, windows),
        lambda: network,
        stem=f"{data_name(options)}_hidden_windows",
        details=f"model_{_as_file_name(options.model)}_size_{windows.shapes[0]}_windows_{options.per_side}"
        f"_masks_{options.masks}",
        augmentations=options.augmentations,
        load=lambda options: _parts(options, preparation, plain),
    )


def _require_weights(options: argparse.Namespace, network: nn.Module) -> None:
    """Raise UsageError if there is nothing to train."""
    if not any(weight.requires_grad for weight in network.parameters()):
        raise UsageError("model", options.model, "expected weights to train: none of the network's takes a gradient")


def _objective(options: argparse.Namespace, plain: PlainNetwork, windows: HiddenWindows) -> HiddenPair:
    settings = {
        "model": plain.description["name"],
        "weights": checkpoint.fingerprint(plain.network.state_dict().values()),
        "hidden": plain.description["hidden"],
        "masks": options.masks,
    }
    tries = {"greedy": None, "random": 1, "hardest": options.tries or TRIES}[options.masks]
    smoothing = FINETUNE.label_smoothing
    return HiddenPair(windows, tries, label_smoothing=smoothing, coarse=True, ask=plain.ask, settings=settings)


def _as_file_name(model: str) -> str:
    """What `--model` names, less the path to a folder."""
    return re.sub(r"[^\w.-]+", "_", f"{model.partition(':')[0]}_{Path(model.partition(':')[2]).name}")


def _parts(options: argparse.Namespace, preparation: Preparation, network: PlainNetwork) -> Parts:
    """Images as the network is shown them, made once; those of --data itself, where it has no parts, are to train on.

    The test part is read only if it is measured.
    """
    parted = options.dataset != "folder" or class_numbers.has_parts(options.data)
    train_set = _held(options, preparation, network, train=parted)
    found = held_out_of(options, train_set)
    if found:
        return found
    if not parted:
        right = f"{options.data} has no test/ to measure, expected training images to hold out"
        raise UsageError("held_out", options.held_out, f"{right}, at most a tenth of the {len(train_set)}")
    if options.dataset == "folder":
        _require_same_classes(options)
    return train_set, _held(options, preparation, network, train=False), "test"


def _held(options: argparse.Namespace, preparation: Preparation, network: PlainNetwork, train: bool) -> Dataset:
    """A part of the data set, or as many of its images as --subset says, kept as pixels on the device."""
    images = splits.spread(images_of(options, preparation, network, train), options.subset)
    if isinstance(images, folders.PictureFolder):
        images = folders.held(images, "data", options.data)
    return images.to(options.device)


def _require_same_classes(options: argparse.Namespace) -> None:
    """Of folders without a file of their numbers; and say how many files are in both parts."""
    parts = options.data / "train", options.data / "test"
    different = None if options.classes else listing.difference("data", *parts)
    if different:
        raise UsageError("data", options.data, f"expected the same classes in train/ and test/, {different}")
    in_both = listing.count_in_both(options.data) if distributed.is_first() else 0
    if in_both:
        messages.print_in_both(options.data, in_both)
