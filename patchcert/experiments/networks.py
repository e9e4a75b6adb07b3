"""The network that options name, or that a checkpoint describes."""

import argparse
from collections.abc import Callable

from torch import nn

from patchcert.errors import UsageError
from patchcert.experiments.setting import class_count
from patchcert.smoothing.ablation import Ablation
from patchcert.smoothing.columns import COLUMN, LinesNetwork, Shape

STAGES = {1: ((32, 64, 96, 128), (0, 1, 1, 1)), 3: ((64, 128, 256, 384), (1, 1, 2, 1))}
"""Channels and residual blocks of the stages of `--model column`, by the channels of the images."""

LINES = {"Band": "columns", "Row": "rows"}


def base_network(
    options: argparse.Namespace, ablation: Ablation, build: Callable[[int], nn.Module], image_channels: int
) -> nn.Module:
    """The base classifier that `--model` names, with random weights.

    Args:
        build: makes any but the column network, for a number of classes.
        image_channels: of the data set's images.

    Raises:
        UsageError: the checkpoint's column network is one for other bands or another number of classes.
    """
    if options.model != COLUMN:
        return build(class_count(options))
    if options.about["checkpoint"]:
        network = described_network(options)
        network.require(ablation)
        _require_classes(options, network)
        return network
    channels, blocks = STAGES[image_channels]
    bands = {"band_size": ablation.band_size, "lines": LINES[type(ablation).__name__]}
    images = {"height": ablation.height, "width": ablation.width, "image_channels": image_channels}
    return LinesNetwork(Shape(channels, blocks, **bands, **images, classes=class_count(options)))


def masked_network(options: argparse.Namespace) -> tuple[LinesNetwork, Ablation]:
    """The network for double masking that the checkpoint describes, with random weights, and its copies.

    The options get the size of the pictures that it wants.

    Raises:
        UsageError: see `described_network`.
    """
    network = described_network(options)
    options.image_size = network.shape.height
    _require_classes(options, network)
    return network, network.shape.ablation()


def described_network(options: argparse.Namespace) -> LinesNetwork:
    """The network for bands that the checkpoint describes, with random weights.

    Raises:
        UsageError: it describes none that answers for all bands in one pass.
    """
    said = options.about["checkpoint"] or {}
    try:
        return LinesNetwork(Shape.described(said.get("network", {})))
    except ValueError as error:
        right = "expected a checkpoint of train_*_band_masked.py or of --model column"
        raise UsageError(*_source(options), f"{error}; {right}") from error


def _require_classes(options: argparse.Namespace, network: LinesNetwork) -> None:
    found, wanted = network.shape.classes, class_count(options)
    if found != wanted:
        raise UsageError(*_source(options), f"it tells {found} classes apart, the data set has {wanted}")


def _source(options: argparse.Namespace) -> tuple[str, str]:
    """The option that names a checkpoint, and its value."""
    option = "checkpoint" if "checkpoint" in options else "resume"
    return option, getattr(options, option)
