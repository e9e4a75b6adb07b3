"""Ablated copies that show a choice of several aligned bands or blocks, one copy for every choice."""

import math

import torch
from torch import Tensor

from patchcert.ablations.ablation import Ablation, require_sides
from patchcert.errors import UsageError, require_within

MOST_ABLATIONS = 10**8
"""Ablated copies of one image for which anybody would wait."""


class _Combinations(Ablation):
    """Every choice of `keep` cells: C(cells, keep) ablations."""

    def _choose(self, keep: int, what: str) -> None:
        self.cell_count, self.what = int(self.cells.max()) + 1, what
        require_within("keep", keep, 1, self.cell_count, f"there are {self.cell_count} {what}")
        self.keep, self.count = keep, math.comb(self.cell_count, keep)
        if self.count > MOST_ABLATIONS:
            right = f"expected at most {MOST_ABLATIONS} ablations, {self.cell_count} {what} give {self.count}"
            raise UsageError("keep", keep, right)

    def __str__(self) -> str:
        return f"{self.count} choices of {self.keep} of {self.cell_count} {self.what}"

    def cells_shown(self, indices: Tensor) -> Tensor:
        """The combinatorial number system: index = Σ_j C(c_j, j) for the cells c_keep > … > c_1 that are shown."""
        shown = torch.zeros(len(indices), self.cell_count, dtype=torch.bool, device=indices.device)
        for j in range(self.keep, 0, -1):
            sizes = torch.tensor([math.comb(c, j) for c in range(self.cell_count)], device=indices.device)
            cell = torch.searchsorted(sizes, indices, right=True) - 1
            shown.scatter_(1, cell[:, None], True)
            indices = indices - sizes[cell]
        return shown


class MultiBand(_Combinations):
    """Copies that show `keep` of the ⌊W/b⌋ aligned bands of b columns (b = `bandwidth`).

    Columns beyond the last band are never shown.

    Args:
        height, width: H and W of the images, pixels.
        bandwidth: b, the number of columns in a band.
        keep: the number of bands that a copy shows.

    Raises:
        UsageError: a size is not a whole number of at least 1, or is larger than the image; there are fewer bands than
            `keep`, or more than 10⁸ copies.
    """

    def __init__(self, height: int, width: int, bandwidth: int, keep: int):
        require_sides(height, width)
        require_within("bandwidth", bandwidth, 1, width, f"images are {width} pixels wide")
        self.height, self.width, self.bandwidth = height, width, bandwidth
        self.cells = _aligned(width, bandwidth).expand(height, width)
        self._choose(keep, f"bands of {bandwidth} columns")


class MultiBlock(_Combinations):
    """Copies that show `keep` of the ⌊H/b⌋·⌊W/b⌋ aligned blocks of b × b pixels (b = `block_size`).

    Pixels beyond the last blocks are never shown.

    Args:
        height, width: H and W of the images, pixels.
        block_size: b, the number of pixels along a side of a block.
        keep: the number of blocks that a copy shows.

    Raises:
        UsageError: a size is not a whole number of at least 1, or is larger than the image; there are fewer blocks than
            `keep`, or more than 10⁸ copies.
    """

    def __init__(self, height: int, width: int, block_size: int, keep: int):
        require_sides(height, width)
        require_within("block_size", block_size, 1, min(height, width), f"images are {height} × {width} pixels")
        self.height, self.width, self.block_size = height, width, block_size
        rows, columns = _aligned(height, block_size)[:, None], _aligned(width, block_size)
        on_grid = (rows >= 0) & (columns >= 0)
        self.cells = torch.where(on_grid, rows * (width // block_size) + columns, -1)
        self._choose(keep, f"blocks of {block_size} × {block_size} pixels")


def _aligned(size: int, step: int) -> Tensor:
    """(size,) int64: the number of the aligned piece of `step` pixels; −1 in the remainder that fills none."""
    pieces = torch.arange(size) // step
    return pieces.where(pieces < size // step, -1)
