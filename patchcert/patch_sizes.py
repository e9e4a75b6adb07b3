"""Patch sizes as people ask for them: in pixels, as a share of the image, or every rectangle of an area."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from patchcert.errors import UsageError, require_count
from patchcert.patch import Patch


@dataclass(frozen=True)
class Share:
    """The smallest square of at least `percent` % of the image's pixels, as papers give sizes for ImageNet."""

    percent: float

    @property
    def size(self) -> str:
        return f"{self.percent:g}%"


@dataclass(frozen=True)
class Area:
    """All rectangles of at most `pixels` pixels. The adversary chooses one of them.

    Raises:
        ValueError: `pixels` is not a whole number of at least 1.
    """

    pixels: int

    def __post_init__(self) -> None:
        require_count("pixels", self.pixels, "of a rectangle")

    @property
    def size(self) -> str:
        return f"area:{self.pixels}"

    def __str__(self) -> str:
        return self.size


PatchSize = Patch | Share | Area


def require_patch_or_area(patch: object) -> None:
    """Raise UsageError unless `patch` is one, or the area of one."""
    if not isinstance(patch, (Patch, Area)):
        raise UsageError("patch", patch, "expected a Patch(height, width), or an Area(pixels)")


def shapes(size: PatchSize, height: int, width: int) -> list[Patch]:
    """The patches of this size in images of height × width pixels, without those that fit into another of them."""
    if isinstance(size, Patch):
        return [size]
    if isinstance(size, Share):
        side = math.ceil(math.sqrt(round(size.percent * height * width / 100, 6)))
        return [Patch(side, side)]
    return largest([Patch(rows, min(size.pixels // rows, width)) for rows in range(1, min(size.pixels, height) + 1)])


def in_words(size: int | str) -> str:
    """A size as results and options write it, as people read it: 5 × 5 for 5, 2 × 8 for 2x8, 2% of the pixels."""
    text = str(size)
    if text.endswith("%"):
        return f"{text} of the pixels"
    if text.startswith("area:"):
        return f"any rectangle of at most {text.removeprefix('area:')} pixels"
    rows, _, columns = text.partition("x")
    return f"{rows} × {columns or rows}"


def largest(patches: Sequence[Patch]) -> list[Patch]:
    """Those of the patches that fit into no other."""
    return [
        patch
        for patch in dict.fromkeys(patches)
        if not any(patch != other and patch.height <= other.height and patch.width <= other.width for other in patches)
    ]
