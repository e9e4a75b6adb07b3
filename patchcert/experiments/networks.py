"""The network that options name, or that a checkpoint describes."""

import argparse
from collections.abc import Callable

from torch import nn

from patchcert import checkpoint
from patchcert.ablations.ablation import Ablation
from patchcert.ablations.windows import BandsAndWindows
from patchcert.cli import Parser
from patchcert.engines.columns import COLUMN, LinesNetwork, Shape
from patchcert.engines.joint import JointNetwork
from patchcert.errors import UsageError
from patchcert.experiments.setting import class_count
from patchcert.option_values import positive_float, windows_or_none
from patchcert.zoo import building

STAGES = {1: ((32, 64, 96, 128), (0, 1, 1, 1)), 3: ((64, 128, 256, 384), (1, 1, 2, 1))}
"""Channels and residual blocks of the stages of `--model column`, by the channels of the images."""

MOST_WEIGHT = 10
"""Of logits of copies with hidden windows beside those of bands."""

LEAST_SURE = 1
"""Lead of coarse windows' logits from which on finer ones are not asked."""

LINES = {"Band": "columns", "Row": "rows"}


def add_joint(parser: Parser, weight: float = 5.0, coarse_windows: str = "none", mirrored: bool = False) -> None:
    """The options of a network for windows beside the one for bands, with these defaults."""
    parser.add_argument(
        "--windows",
        required=True,
        metavar="NAME",
        help="the network for windows: a name, as for --checkpoint, or a path",
    )
    parser.if_missing["--windows"] = checkpoint.there_are
    parser.add_argument(
        "--weight",
        type=positive_float,
        default=weight,
        help="weight of the windows' logits; the bands' logits have weight 1",
    )
    parser.add_argument(
        "--coarse_windows",
        type=windows_or_none,
        default=coarse_windows,
        metavar="WxK",
        help="hide K × K windows of W × W pixels first, and the windows of --windows only where the lead is then below "
        "--sure; or none",
    )
    parser.add_argument(
        "--sure",
        type=positive_float,
        default=4.0,
        metavar="LEAD",
        help="lead of the best class, in logits, from which on the coarse windows suffice",
    )
    parser.add_argument(
        "--mirrored",
        action=argparse.BooleanOptionalAction,
        default=mirrored,
        help="run both networks on the mirror image, too, and take the mean; this takes twice the time",
    )


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

    The options get the size of the images that it wants.

    Raises:
        UsageError: see `described_network`.
    """
    network = described_network(options)
    options.image_size = network.shape.height
    _require_classes(options, network)
    return network, network.shape.ablation()


def joint_network(options: argparse.Namespace) -> tuple[JointNetwork, BandsAndWindows]:
    """The network for bands that `--checkpoint` describes, beside that for windows in `--windows`, which is filled.

    Raises:
        UsageError: one of the files is of another kind.
    """
    _require_tame(options)
    bands, _ = masked_network(options)
    if bands.shape.lines != "both":
        raise UsageError("checkpoint", options.checkpoint, "expected a network for columns and rows, --lines both")
    path = checkpoint.find("windows", options.windows)
    windows, own = building.windows_network("windows", path, bands.shape.image_channels, bands.shape.classes)
    coarse, how = options.coarse_windows, {name: getattr(options, name) for name in ("weight", "sure", "mirrored")}
    try:
        return building.joint(bands, windows, own, coarse, **how)
    except UsageError as error:
        refined = coarse not in (None, own)
        wrong = ("coarse_windows", "{}x{}".format(*coarse)) if refined else ("windows", options.windows)
        raise UsageError(*wrong, error) from error


def _require_tame(options: argparse.Namespace) -> None:
    """Errors of rounding grow with --weight and as --sure shrinks, and the numerical margin does not."""
    if options.weight > MOST_WEIGHT:
        raise UsageError("weight", options.weight, f"expected at most {MOST_WEIGHT}, because rounding grows with it")
    if options.sure < LEAST_SURE:
        raise UsageError("sure", options.sure, f"expected at least {LEAST_SURE}, because rounding grows below it")


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
        raise UsageError(*_source(options), f"it has {found} classes, the data set has {wanted}")


def _source(options: argparse.Namespace) -> tuple[str, str]:
    """The option that names a checkpoint, and its value."""
    option = "checkpoint" if "checkpoint" in options else "resume"
    return option, getattr(options, option)
