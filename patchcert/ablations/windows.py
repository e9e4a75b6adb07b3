"""Ablated copies that show everything but one window or two, by themselves and beside bands."""

import math
from typing import Self

import torch
from torch import Tensor

from patchcert.ablations.ablation import Ablation, BandAndRow, require_sides
from patchcert.ablations.hidden_windows import HiddenWindows, even_spans, shortest_length
from patchcert.errors import UsageError, require_within
from patchcert.patch import Patch, require_fits
from patchcert.patch_sizes import PatchSize, require_patch_size, shapes

MOST_PER_SIDE = 8
"""Windows along each side of an image: 64 of them, 2,016 pairs."""


class WindowPairs(Ablation):
    """Copies that hide one or two of k × k square windows of w × w pixels, which lie evenly over the image.

    There is a copy for each pair of the k² windows (k = `per_side`), followed by a copy for each single window. These
    are the masks of PatchCleanser (Xiang, Mahloujifar and Mittal, USENIX Security 2022). A patch fits if, wherever it
    lies, some window covers it.

    Args:
        height, width: H and W of the images, pixels.
        window_size: w, the number of pixels along a side of a window.
        per_side: k, the number of windows along each side of the image.

    Attributes:
        side: k, the number of windows along each side of the image.

    Raises:
        UsageError: a number is not a whole number of at least 1, windows are larger than the image, or k is below 2.
    """

    def __init__(self, height: int, width: int, window_size: int, per_side: int):
        require_sides(height, width)
        require_within("window_size", window_size, 1, min(height, width), f"images are {height} × {width} pixels")
        require_within("per_side", per_side, 2, MOST_PER_SIDE, "windows along each side")
        self._lay(height, width, window_size, per_side, side=per_side)
        if min(self._held()) < 1:
            raise UsageError("per_side", per_side, f"so many windows of {window_size} pixels leave gaps between them")

    @classmethod
    def for_patch(cls, height: int, width: int, patch: PatchSize, per_side: int) -> Self:
        """The smallest k × k square windows (k = `per_side`) that hold `patch` wherever it lies.

        For an `Area` they hold all of its rectangles, for a `Share` the square that it is.

        Raises:
            UsageError: the patch does not fit into the image, or only windows larger than the image would hold it.
        """
        require_sides(height, width)
        require_patch_size(patch)
        require_within("per_side", per_side, 2, MOST_PER_SIDE, "windows along each side")
        lengths = []
        for shape in shapes(patch, height, width):
            require_fits("patch", shape, height, width)
            sides = ((height, shape.height), (width, shape.width))
            lengths += [shortest_length(*side, per_side) for side in sides]
        return cls(height, width, max(lengths), per_side)

    def _lay(self, height: int, width: int, window_size: int, per_side: int, side: int) -> None:
        self.height, self.width, self.window_size, self.per_side = height, width, window_size, per_side
        self.side, self.drawn = side, math.comb(side**2, 2)
        self.count = self.drawn + side**2
        row, column = (_stretches(*self._spans(size), size) for size in (height, width))
        self.cells = row[:, None] * (int(column[-1]) + 1) + column
        self.cell_count = int(self.cells[-1, -1]) + 1

    def __str__(self) -> str:
        size = self.window_size
        return f"{self.count} copies without one or two of {self.per_side**2} windows of {size} × {size} pixels"

    def windows(self) -> Tensor:
        """The pixels of each window, (k², H, W) bool."""
        return self._cells_hidden()[:, self.cells]

    def hidden(self) -> HiddenWindows:
        """The same windows as `HiddenWindows` of ordinary images. They hold the largest patch that these hold."""
        rows, columns = (torch.stack(self._spans(size), dim=1) for size in (self.height, self.width))
        rectangles = torch.cat([rows.repeat_interleave(self.side, dim=0), columns.repeat(self.side, 1)], dim=1)
        return HiddenWindows(self.height, self.width, rectangles, [Patch(*self._held())])

    def _cells_hidden(self) -> Tensor:
        """(k², cells) bool: the cells in each window."""
        hidden = []
        for size in (self.height, self.width):
            starts, ends = self._spans(size)
            stretches = _stretches(starts, ends, size)
            of_window = torch.arange(int(stretches[-1]) + 1)
            hidden.append((stretches[starts][:, None] <= of_window) & (of_window <= stretches[ends - 1][:, None]))
        rows, columns = hidden  # (k, stretches) bool each
        return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1).flatten(1).to(self.cells.device)

    def cells_shown(self, indices: Tensor) -> Tensor:
        windows = self._cells_hidden()
        first, second = self.windows_hidden()[:, indices]
        return ~(windows[first] | windows[second])

    def windows_hidden(self) -> Tensor:
        """The two windows that each copy hides, (2, A) int64. For a single window, both are the same."""
        windows = torch.arange(self.side**2, device=self.cells.device)
        pairs = torch.triu_indices(self.side**2, self.side**2, offset=1, device=self.cells.device)
        return torch.cat([pairs, windows.expand(2, -1)], dim=1)

    def copy_numbers(self) -> Tensor:
        """The number of the copy that hides two windows, (k², k²) int64. The diagonal has the copies that hide one."""
        first, second = self.windows_hidden()
        numbers = torch.empty(self.side**2, self.side**2, dtype=torch.int64, device=self.cells.device)
        numbers[first, second] = numbers[second, first] = self._every()
        return numbers

    def require_fits(self, option: str, patch: Patch) -> None:
        super().require_fits(option, patch)
        rows, columns = self._held()
        if patch.height > rows or patch.width > columns:
            held = f"expected at most {rows} × {columns} pixels: some window covers such a patch wherever it lies"
            raise UsageError(option, patch, held + self._advice(patch))

    def _advice(self, patch: Patch) -> str:
        """Which windows would hold a patch that these do not."""
        wanted = WindowPairs.for_patch(self.height, self.width, patch, self.per_side).window_size
        return f"; {self.per_side} windows along each side cover it if they have at least {wanted} pixels"

    def _held(self) -> tuple[int, int]:
        """Rows and columns of the largest patch that some window holds at every place, at most those of the image."""
        sides = [(size, *self._spans(size)) for size in (self.height, self.width)]
        return tuple(min(size, int((ends[:-1] - starts[1:]).amin()) + 1) for size, starts, ends in sides)

    def holding(self, patch: Patch) -> tuple[Tensor, Tensor]:
        """For each row at which `patch` can begin, the first of the k rows of windows that hold it; likewise for
        columns.

        Raises:
            UsageError: at some place, no window holds it.
        """
        self.require_fits("size_to_certify", patch)
        sides = (self.height, patch.height), (self.width, patch.width)
        return tuple(self._first_holding(*side).to(self.cells.device) for side in sides)

    def _first_holding(self, size: int, length: int) -> Tensor:
        """(size − length + 1,) int64: of the windows along a side the first to hold `length` pixels from there on."""
        places, (starts, ends) = torch.arange(size - length + 1)[:, None], self._spans(size)
        return ((starts <= places) & (places + length <= ends)).int().argmax(dim=1)

    def _spans(self, size: int) -> tuple[Tensor, Tensor]:
        """(k,) each: where the windows begin and end along a side of `size` pixels, from its one end to its other."""
        return even_spans(size, self.window_size, self.per_side).unbind(dim=1)


class RefinedPairs(WindowPairs):
    """Everything but one or two windows, each where one of the `coarse` and one of the `fine` windows overlap.

    Whoever sees the image without two coarse windows sees no more of it than these copies show, nor does who sees it
    without two fine ones. The windows here are the overlaps that hold every patch that both kinds hold.

    Attributes:
        coarse, fine: windows of `window_size` and of `fine_size` pixels.
        of_coarse, of_fine: (k²,) int64, the number of the coarse and of the fine window that each window lies in.

    Raises:
        UsageError: there are no such windows, images are not square, or windows overlap in too many ways or in one.
    """

    def __init__(self, height: int, width: int, window_size: int, per_side: int, fine_size: int, fine_per_side: int):
        if height != width:
            raise UsageError("window_size", window_size, f"expected square images to refine, not {height} × {width}")
        self.coarse = WindowPairs(height, width, window_size, per_side)
        self.fine = WindowPairs(height, width, fine_size, fine_per_side)
        self.fine_size, self.fine_per_side = fine_size, fine_per_side
        kinds = self.coarse, self.fine
        held = min(*self.coarse._held(), *self.fine._held())
        holding = torch.stack([kind._first_holding(width, held) for kind in kinds]).unique(dim=1)  # (2, k)
        side = holding.shape[1]
        if side == 1:
            right = f"as large as the image, and so are the windows of {window_size}; expected one kind that is smaller"
            raise UsageError("fine_size", fine_size, right)
        if side > MOST_PER_SIDE:
            right = f"{side} overlaps with the finer windows along each side, expected at most {MOST_PER_SIDE}"
            raise UsageError("per_side", per_side, right)
        self.of_coarse, self.of_fine = (
            (along[:, None] * kind.per_side + along).flatten() for kind, along in zip(kinds, holding, strict=True)
        )
        coarse, fine = (torch.stack(kind._spans(width))[:, along] for kind, along in zip(kinds, holding, strict=True))
        self._overlaps = torch.maximum(coarse[0], fine[0]), torch.minimum(coarse[1], fine[1])
        self._lay(height, width, window_size, per_side, side)

    def __str__(self) -> str:
        return f"{self.coarse}, refined by {self.fine}"

    def _spans(self, size: int) -> tuple[Tensor, Tensor]:
        return self._overlaps

    def _advice(self, patch: Patch) -> str:
        return ""


class BandsAndWindows(Ablation):
    """All copies of `BandAndRow`, and after them those of `WindowPairs`; patches are those that fit the windows.

    With `fine_size` and `fine_per_side` windows are refined, and copies those of `RefinedPairs`.
    """

    def __init__(
        self,
        height: int,
        width: int,
        band_size: int,
        window_size: int,
        per_side: int,
        fine_size: int = 0,
        fine_per_side: int = 0,
    ):
        self.height, self.width, self.band_size = height, width, band_size
        self.window_size, self.per_side = window_size, per_side
        self.fine_size, self.fine_per_side = fine_size, fine_per_side
        self.bands = BandAndRow(height, width, band_size)
        if fine_size:
            self.windows = RefinedPairs(height, width, window_size, per_side, fine_size, fine_per_side)
        else:
            self.windows = WindowPairs(height, width, window_size, per_side)
        self.count, self.cell_count = self.bands.count + self.windows.count, height * width
        self.cells = self.bands.cells

    def __str__(self) -> str:
        return f"{self.bands} and {self.windows}"

    def to(self, device: torch.device | str) -> Self:
        self.bands.to(device)
        self.windows.to(device)
        return super().to(device)

    def cells_shown(self, indices: Tensor) -> Tensor:
        shown = [part.masks().flatten(1) for part in (self.bands, self.windows)]
        return torch.cat(shown)[indices]

    def require_fits(self, option: str, patch: Patch) -> None:
        self.windows.require_fits(option, patch)


def _stretches(starts: Tensor, ends: Tensor, size: int) -> Tensor:
    """(size,) int64: positions numbered by the stretch that they are in, from one end of a window to the next."""
    borders = torch.cat([starts, ends]).unique()
    borders = borders[(borders > 0) & (borders < size)]
    return torch.searchsorted(borders, torch.arange(size), right=True)
