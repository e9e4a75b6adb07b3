"""What is known of each network that ships: its files, its settings, and what was counted of it. Needs no torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from patchcert.errors import UsageError
from patchcert.patch import Patch

FILE = Path(__file__).with_name("models.json")

USUAL = 5
"""Pixels on a side of the patch that published numbers are about."""


@dataclass(frozen=True)
class Counted:
    """How many of all test images, as shares of 1, against one square patch.

    Attributes:
        patch: its side, pixels.
        clean: classified correctly without a patch.
        certified: correctly, and no such patch changes that.
    """

    patch: int
    clean: float
    certified: float


@dataclass(frozen=True)
class Variant:
    """One classifier: files and settings.

    Attributes:
        holds: side of the largest square patch that it is made for, pixels.
        results: the file in docs/results that what was counted comes from, or would come from.
        counted_on: which images that were, if it was.
        votes: the name of the checkpoint of a network whose copies vote,
        threshold: with this θ; or
        bands, windows: names of checkpoints for double masking, of which there is one at least.
        weight, coarse_windows, sure, mirrored: how the two go together, see `engines.joint`.
    """

    holds: int
    results: str
    counted: tuple[Counted, ...]
    counted_on: str | None = None
    votes: str | None = None
    threshold: float | None = None
    bands: str | None = None
    windows: str | None = None
    weight: float = 1.0
    coarse_windows: tuple[int, int] | None = None
    sure: float = 4.0
    mirrored: bool = False

    @property
    def files(self) -> list[str]:
        return [name for name in (self.votes, self.bands, self.windows) if name]


@dataclass(frozen=True)
class Model:
    """A network that ships.

    Attributes:
        dataset: the name of the data set that it was trained on.
        defence: in words.
        variants: for small patches first; each patch is answered by the first one that holds it.
    """

    name: str
    dataset: str
    defence: str
    variants: tuple[Variant, ...]

    @property
    def usual_patch(self) -> Patch:
        """5 × 5 pixels, or the largest square that it holds."""
        return Patch(min(USUAL, self.variants[-1].holds))

    def variant(self, patch: Patch) -> Variant:
        """The classifier against this patch, see `first_holding`."""
        return first_holding(self.variants, [patch])

    def counted(self) -> list[Counted]:
        """For every patch size that was counted, upwards."""
        return [counted for variant in self.variants for counted in variant.counted]

    def describe(self) -> str:
        """Several lines: what it is, from which files it is made, and what was measured."""
        lines = [f"{self.name}: {self.defence}", f"trained on {self.dataset}"]
        for variant in self.variants:
            lines.append(f"patches up to {_square(variant.holds)}: {', '.join(variant.files)}{_settings(variant)}")
        if self.counted():
            lines += [f"measured on {v.counted_on} (docs/results/{v.results})" for v in self.variants if v.counted]
            rows = [[_square(c.patch), _percent(c.clean), _percent(c.certified)] for c in self.counted()]
            lines += _aligned([["patch", "clean", "certified"], *rows])
        else:
            lines.append("not measured")
        return "\n".join(lines)


def first_holding(variants: Sequence[Variant], patches: Sequence[Patch]) -> Variant:
    """The first of the classifiers that holds these patches; the last one if none does, for its maker to refuse."""
    side = max(max(patch.height, patch.width) for patch in patches)
    return next((variant for variant in variants if side <= variant.holds), variants[-1])


@cache
def models() -> dict[str, Model]:
    """All networks that ship, by their names."""
    return {name: _model(name, **entry) for name, entry in json.loads(FILE.read_text(encoding="utf-8")).items()}


def named(name: str) -> Model:
    """The network of this name.

    Raises:
        UsageError: there is none; the message lists those that there are.
    """
    found = models().get(name) if isinstance(name, str) else None
    if found is None:
        raise UsageError("name", name, f"expected one of {', '.join(models())}")
    return found


def of_bands_and(windows: str) -> tuple[Variant, ...]:
    """The classifier of bands and of the windows in the file called `windows`, and after it those for larger patches.

    None if no such file ships for use beside bands.
    """
    for model in models().values():
        files = [variant.bands and variant.windows for variant in model.variants]
        if windows in files:
            return model.variants[files.index(windows) :]
    return ()


def overview() -> str:
    """A line for each network: what was measured against the usual patch."""
    rows = [["name", "patch", "clean", "certified", "what it is"]]
    for model in models().values():
        side = model.usual_patch.height
        counted = next((c for c in model.counted() if c.patch == side), None)
        shares = [_percent(counted.clean), _percent(counted.certified)] if counted else ["not measured", ""]
        rows.append([model.name, _square(side), *shares, f"{model.dataset}, {model.defence}"])
    return "\n".join(_aligned(rows))


def _model(name: str, dataset: str, defence: str, variants: list[dict[str, Any]]) -> Model:
    return Model(name, dataset, defence, tuple(_variant(**variant) for variant in variants))


def _variant(counted: list[dict[str, Any]], coarse_windows: list[int] | None = None, **settings: Any) -> Variant:
    coarse = None if coarse_windows is None else (coarse_windows[0], coarse_windows[1])
    return Variant(counted=tuple(Counted(**row) for row in counted), coarse_windows=coarse, **settings)


def _settings(variant: Variant) -> str:
    """How copies vote, or how two networks go together, in words."""
    if variant.votes:
        return f" (θ = {variant.threshold:g})"
    if not (variant.bands and variant.windows):
        return ""
    said = [f"weight {variant.weight:g}"]
    if variant.coarse_windows:
        size, per_side = variant.coarse_windows
        said.append(f"{per_side**2} coarse windows of {_square(size)} pixels first")
    if variant.mirrored:
        said.append("each image and its mirror image")
    return f" ({', '.join(said)})"


def _square(side: int) -> str:
    return f"{side} × {side}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
