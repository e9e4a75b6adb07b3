"""Rectangles of activation maps, and which of them a sliding kernel reaches and reads."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import NamedTuple

from torch import Tensor


class Window(NamedTuple):
    """Rows top … bottom−1 and columns left … right−1 of an activation map."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, maps: Tensor) -> Tensor:
        """The window's part (N, C, h, w) of whole maps (N, C, H, W), a view."""
        return maps[:, :, self.top : self.bottom, self.left : self.right]

    def seen_from(self, outer: "Window") -> "Window":
        """The same pixels counted from the corner of `outer`."""
        rows, columns = outer.top, outer.left
        return Window(self.top - rows, self.bottom - rows, self.left - columns, self.right - columns)

    def common(self, other: "Window") -> "Window":
        lows, highs = map(max, self[::2], other[::2]), map(min, self[1::2], other[1::2])
        return Window(*(bound for axis in zip(lows, highs, strict=True) for bound in axis))

    def around(self, other: "Window") -> "Window":
        """The smallest window that contains both."""
        lows, highs = map(min, self[::2], other[::2]), map(max, self[1::2], other[1::2])
        return Window(*(bound for axis in zip(lows, highs, strict=True) for bound in axis))

    @property
    def empty(self) -> bool:
        return self.top >= self.bottom or self.left >= self.right


Windows = tuple[Window, ...]


def windows_of(mask: Tensor) -> Windows:
    """The disjoint rectangles whose union is the mask (H, W) bool: runs of columns in runs of equal rows."""
    windows, top = [], 0
    for row, rows in groupby(mask.tolist()):
        bottom, left = top + len(list(rows)), 0
        for shown, columns in groupby(row):
            right = left + len(list(columns))
            windows += [Window(top, bottom, left, right)] if shown else []
            left = right
        top = bottom
    return tuple(windows)


def whole(maps: Tensor) -> Window:
    return Window(0, maps.shape[2], 0, maps.shape[3])


def disjoint(windows: Iterable[Window], image: Callable[[Window], Window] = lambda window: window) -> Windows:
    """The windows, joined until their images under `image` are disjoint; those with an empty image are left out."""
    windows = tuple(w for w in dict.fromkeys(windows) if not image(w).empty)
    for one, other in combinations(windows, 2):
        if not image(one).common(image(other)).empty:
            rest = (w for w in windows if w not in (one, other))
            return disjoint((*rest, one.around(other)), image)
    return windows


@dataclass(frozen=True)
class Axis:
    """How a kernel slides along one axis, from `size` inputs to `outputs` outputs."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    size: int
    outputs: int

    def reached(self, start: int, stop: int) -> tuple[int, int]:
        """First and end of the outputs that read any of the inputs start … stop−1."""
        first = -((self.dilation * (self.kernel - 1) - self.padding - start) // self.stride)
        return max(0, first), min(self.outputs, (stop - 1 + self.padding) // self.stride + 1)

    def read(self, first: int, end: int) -> tuple[int, int]:
        """Start and stop of the inputs that the outputs first … end−1 read, which may lie outside the map."""
        start = first * self.stride - self.padding
        return start, start + (end - 1 - first) * self.stride + self.dilation * (self.kernel - 1) + 1

    def taps(self, start: int, stop: int) -> int:
        """How often the inputs start … stop−1 are read."""
        return sum(
            start <= output * self.stride - self.padding + element * self.dilation < stop
            for output in range(self.outputs)
            for element in range(self.kernel)
        )


@dataclass(frozen=True)
class Kernel:
    """Size and steps of a sliding kernel, each as (rows, columns)."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    def axes(self, maps: Tensor, output: Tensor) -> tuple[Axis, Axis]:
        """How it slides from the maps (·, ·, H, W) to the output (·, ·, H', W')."""
        steps = zip(self.size, self.stride, self.padding, self.dilation, maps.shape[2:], output.shape[2:], strict=True)
        rows, columns = (Axis(*values) for values in steps)
        return rows, columns


class Sliding:
    """A kernel that slides over the rows and columns of a map."""

    def __init__(self, kernel: Kernel, maps: Tensor, output: Tensor):
        self.rows, self.columns = kernel.axes(maps, output)

    def reached(self, window: Window) -> Window:
        """The outputs that read any input in `window`."""
        return Window(*self.rows.reached(*window[:2]), *self.columns.reached(*window[2:]))

    def read(self, window: Window) -> Window:
        """The inputs that the outputs in `window` read; it may go beyond the map."""
        return Window(*self.rows.read(*window[:2]), *self.columns.read(*window[2:]))

    def taps(self, window: Window) -> int:
        return self.rows.taps(*window[:2]) * self.columns.taps(*window[2:])
