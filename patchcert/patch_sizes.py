"""Patch sizes as people ask for them: in pixels, as a share of the image, or every rectangle of an area."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeVar

from patchcert.errors import UsageError, require_count
from patchcert.patch import Patch

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The smallest square of at least `percent` % of the image's pixels, as papers give sizes for ImageNet.

    Which square that is depends on the size of the images: 2 % of 224 × 224 pixels are 32 × 32.

    Raises:
        ValueError: `percent` is not a number above 0 and below 100.
    """

    percent: float

    def __post_init__(self) -> None:
        if isinstance(self.percent, bool) or not isinstance(self.percent, Real) or not 0 < self.percent < 100:
            raise UsageError("percent", self.percent, "expected a share above 0 % and below 100 %, such as 2")

    @property
    def size(self) -> str:
        return f"{self.percent:.15g}%"  # so that a file that is read gives the same square

    def __str__(self) -> str:
        return self.size


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


def require_patch_size(patch: object) -> None:
    """Raise UsageError unless `patch` is a patch, a share of the pixels or an area."""
    if not isinstance(patch, PatchSize):
        raise UsageError("patch", patch, "expected a Patch(height, width), a Share(percent) or an Area(pixels)")


def in_pixels(size: T | Share, height: int, width: int) -> T | Patch:
    """The size itself, but for a share the square that it is in images of height × width pixels."""
    return shapes(size, height, width)[0] if isinstance(size, Share) else size


def without_repeats(sizes: Sequence[PatchSize], height: int, width: int) -> list[PatchSize]:
    """The sizes, each once: in images of 224 × 224 pixels, of 2% and 32 the second is left out."""
    first: dict[PatchSize, PatchSize] = {}
    for size in sizes:
        first.setdefault(in_pixels(size, height, width), size)
    return list(first.values())


def shapes(size: PatchSize, height: int, width: int) -> list[Patch]:
    """The patches of this size in images of height × width pixels, without those that fit into another of them."""
    if isinstance(size, Patch):
        return [size]
    if isinstance(size, Share):
        side = max(1, math.ceil(math.sqrt(round(size.percent * height * width / 100, 6))))
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


def described(size: PatchSize, height: int, width: int) -> str:
    """A size as people read it, of images of height × width pixels; of a share the square, too: 2% (32 × 32)."""
    words = in_words(in_pixels(size, height, width).size)
    return f"{size} ({words})" if isinstance(size, Share) else words


def largest(patches: Sequence[Patch]) -> list[Patch]:
    """Those of the patches that fit into no other."""
    return [
        patch
        for patch in dict.fromkeys(patches)
        if not any(patch != other and patch.height <= other.height and patch.width <= other.width for other in patches)
    ]
