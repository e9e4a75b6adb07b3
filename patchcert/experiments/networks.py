"""The network that options name, or that a checkpoint describes."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from patchcert import checkpoint
from patchcert.ablations.ablation import Ablation
from patchcert.ablations.windows import BandsAndWindows
from patchcert.cli import Parser
from patchcert.engines.columns import COLUMN, LinesNetwork, Shape
from patchcert.engines.joint import JointNetwork
from patchcert.errors import UsageError
from patchcert.experiments import about
from patchcert.experiments.setting import class_count
from patchcert.option_values import positive_float, windows_or_none
from patchcert.patch import Patch
from patchcert.patch_sizes import PatchSize, Share, in_pixels, shapes
from patchcert.zoo import building, table
from patchcert.zoo.table import Variant

STAGES = {1: ((32, 64, 96, 128), (0, 1, 1, 1)), 3: ((64, 128, 256, 384), (1, 1, 2, 1))}
"""Channels and residual blocks of the stages of `--model column`, by the channels of the images."""

MOST_WEIGHT = 10
"""Of logits of copies with hidden windows beside those of bands."""

LEAST_SURE = 1
"""Lead of coarse windows' logits from which on finer ones are not asked."""

LINES = {"Band": "columns", "Row": "rows"}

SETTINGS = ("weight", "coarse_windows", "sure", "mirrored")
"""Options of how a network for windows goes together with one for bands."""


@dataclass(frozen=True)
class Part:
    """A network for some of the patch sizes that a run is asked about.

    Attributes:
        sizes: of the patches, as they were asked for.
        network: base classifier, or one of limited reach, that of `ablation`.
    """

    sizes: list[PatchSize]
    network: nn.Module
    ablation: Ablation


def add_joint(
    parser: Parser, weight: float = 5.0, coarse_windows: tuple[int, int] | None = None, mirrored: bool = False
) -> None:
    """The options of a network for windows beside the one for bands.

    A file that ships is known to go with some `SETTINGS`. Those here are for other files.
    """

    def otherwise(value: object) -> str:
        return f"(default: what goes with the file, if it ships; else {value})"

    settings = {"weight": weight, "coarse_windows": coarse_windows, "sure": 4.0, "mirrored": mirrored}
    parser.set_defaults(settings=settings)
    parser.add_argument(
        "--windows",
        required=True,
        metavar="NAME",
        help="the network for windows: a name, as for --checkpoint, or a path. For patches that are too large for its "
        "windows, another file is taken, if it ships with one",
    )
    parser.if_missing["--windows"] = checkpoint.there_are
    parser.add_argument(
        "--weight",
        type=positive_float,
        default=argparse.SUPPRESS,
        help=f"weight of the windows' logits, at most {MOST_WEIGHT}; the bands' logits have weight 1 "
        f"{otherwise(weight)}",
    )
    parser.add_argument(
        "--coarse_windows",
        type=windows_or_none,
        default=argparse.SUPPRESS,
        metavar="WxK",
        help="hide K × K windows of W × W pixels first, and the windows of --windows only where the lead is then below "
        f"--sure; or none {otherwise(_spoken(coarse_windows))}",
    )
    parser.add_argument(
        "--sure",
        type=positive_float,
        default=argparse.SUPPRESS,
        metavar="LEAD",
        help=f"lead of the best class, in logits, from which on the coarse windows suffice; at least {LEAST_SURE} "
        f"{otherwise(settings['sure'])}",
    )
    parser.add_argument(
        "--mirrored",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="run both networks on the mirror image, too, and take the mean; this takes twice the time "
        f"{otherwise('--mirrored' if mirrored else '--no-mirrored')}",
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


def joint_network(options: argparse.Namespace, patch: Patch | Share) -> tuple[JointNetwork, BandsAndWindows]:
    """The network for bands that `--checkpoint` describes, beside a filled one for windows against this patch.

    The windows are those in `--windows`, or in what ships for larger patches. The options get what was chosen.

    Raises:
        UsageError: one of the files is of another kind.
    """
    bands = _bands(options)
    chosen = _chosen(options, _variant(options, shapes(patch, bands.shape.height, bands.shape.width)))
    del options.settings
    vars(options).update(chosen)
    return _joined(options, bands, chosen)


def joint_networks(options: argparse.Namespace) -> list[Part]:
    """The same against all patches of `--size_to_certify`, one for each file with windows that these need.

    Where there are several, the options get `parts`, with what was chosen for each, in place of options of their own.

    Raises:
        UsageError: one of the files is of another kind.
    """
    bands = _bands(options)
    height, width = bands.shape.height, bands.shape.width
    sizes_of: dict[Variant | None, list[PatchSize]] = {}
    for size in options.size_to_certify:
        sizes_of.setdefault(_variant(options, shapes(size, height, width)), []).append(size)
    choices = [_chosen(options, variant) for variant in sizes_of]
    parts = [
        Part(sizes, *_joined(options, bands, chosen)) for sizes, chosen in zip(sizes_of.values(), choices, strict=True)
    ]
    vars(options).update(choices[0])
    del options.settings
    if len(parts) > 1:
        options.parts = [_note(options, *both) for both in zip(parts, choices, strict=True)]
        for name in choices[0]:
            delattr(options, name)
    return parts


def _bands(options: argparse.Namespace) -> LinesNetwork:
    bands, _ = masked_network(options)
    if bands.shape.lines != "both":
        raise UsageError("checkpoint", options.checkpoint, "expected a network for columns and rows, --lines both")
    return bands


def _variant(options: argparse.Namespace, patches: list[Patch]) -> Variant | None:
    """The classifier with windows of `--windows`, or from there on, that holds these patches; None of other files."""
    path = checkpoint.find("windows", options.windows).resolve()
    ships = path.parent == checkpoint.SHIPPED.resolve()
    variants = table.of_bands_and(path.name) if ships else ()
    return table.first_holding(variants, patches) if variants else None


def _chosen(options: argparse.Namespace, variant: Variant | None) -> dict[str, object]:
    """The file with windows and the `SETTINGS`, by the names of their options: those given, else the variant's."""
    given = {name: value for name, value in vars(options).items() if name in SETTINGS}
    if variant is None:
        return {"windows": options.windows} | options.settings | given
    usual = {name: getattr(variant, name) for name in SETTINGS}
    named = checkpoint.find("windows", options.windows).name == variant.windows
    file = options.windows if named else str(Path(options.windows).with_name(variant.windows))
    return {"windows": file} | usual | given


def _note(options: argparse.Namespace, part: Part, chosen: dict[str, object]) -> dict[str, object]:
    """What results say of a part: what its options would be in a run of its own."""
    files = argparse.Namespace(checkpoint=options.checkpoint, windows=chosen["windows"])
    said = {"sha256": about.digests(files), "run": about.of_run(options, part.network, part.ablation)}
    sizes = [in_pixels(size, part.ablation.height, part.ablation.width) for size in part.sizes]
    return {"size_to_certify": sizes, **chosen, "about": said}


def _joined(
    options: argparse.Namespace, bands: LinesNetwork, chosen: dict[str, object]
) -> tuple[JointNetwork, BandsAndWindows]:
    """Both networks as one, with the windows and `SETTINGS` that were `chosen`."""
    _require_tame(chosen)
    path = checkpoint.find("windows", chosen["windows"])
    windows, own = building.windows_network("windows", path, bands.shape.image_channels, bands.shape.classes)
    coarse, how = chosen["coarse_windows"], {name: chosen[name] for name in ("weight", "sure", "mirrored")}
    try:
        return building.joint(bands, windows, own, coarse, **how)
    except UsageError as error:
        wrong = ("windows", chosen["windows"]) if coarse in (None, own) else ("coarse_windows", _spoken(coarse))
        raise UsageError(*wrong, error) from error


def _require_tame(chosen: dict[str, object]) -> None:
    """Errors of rounding grow with --weight and as --sure shrinks, and the numerical margin does not."""
    weight, sure = chosen["weight"], chosen["sure"]
    if weight > MOST_WEIGHT:
        raise UsageError("weight", weight, f"expected at most {MOST_WEIGHT}, because rounding grows with it")
    if sure < LEAST_SURE:
        raise UsageError("sure", sure, f"expected at least {LEAST_SURE}, because rounding grows below it")


def _spoken(windows: tuple[int, int] | None) -> str:
    """Windows as options name them."""
    return "{}x{}".format(*windows) if windows else "none"


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
