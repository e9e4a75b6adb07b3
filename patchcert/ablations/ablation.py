"""Which pixels each ablated copy of an image shows, and which copies a patch can touch.

Levine and Feizi, "(De)Randomized Smoothing for Certifiable Defense against Patch Attacks", NeurIPS 2020,
sections 2 and 3. Every ablation here is one idea: the image is divided into cells (a column, a row, a
pixel, an aligned band or block) and each ablated copy shows some of the cells. Masks, encodings, touched
copies and their largest number Δ follow from that alone.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from patchcert.errors import UsageError, require_count, require_within
from patchcert.patch import Patch, require_fits
from patchcert.patch_sizes import Area, shapes

CHUNK = 4096
"""Ablations whose masks are held at the same time where all of them are looked at."""

MOST_PAIRS = 4096
"""Pairs of places that exact certificates may look at: votes are counted for each of them, image and class."""


class Ablation(ABC):
    """A family of `count` ablated copies of an H × W image.

    A subclass says how the image is divided into cells and which cells each copy shows. `str()` describes the copies.

    Attributes:
        height, width: H and W, pixels.
        count: A, the number of ablated copies.
        drawn: training draws from the first so many copies; None means from all.
        cells: (H, W) int64, the cell that each pixel belongs to; −1 if no copy ever shows the pixel.
        cell_count: the number of cells.
    """

    height: int
    width: int
    count: int
    drawn: int | None = None
    cells: Tensor
    cell_count: int

    def to(self, device: torch.device | str) -> Self:
        """Keep the geometry on `device`, where masks are then made."""
        self.cells = self.cells.to(device)
        return self

    @abstractmethod
    def cells_shown(self, indices: Tensor) -> Tensor:
        """(A', cells) bool: which cells the ablations `indices` (A',) show."""

    def masks(self, indices: Tensor | None = None) -> Tensor:
        """(A', H, W) bool: True where the ablations `indices` (A',), by default all, show the pixel."""
        shown = self.cells_shown(self._every() if indices is None else indices)
        with_hidden = torch.cat([shown, shown.new_zeros(len(shown), 1)], dim=1)  # cell −1 is the last column
        return with_hidden[:, self.cells]

    def as_seen(self, pictures: Tensor) -> Tensor:
        """Images, copies or masks (…, H, W) the way up in which the network gets them."""
        return pictures

    def patch_cells(self, patch: Patch) -> Tensor:
        """(L, cells) bool: the cells that `patch` covers at each of its L = (H−m₁+1)(W−m₂+1) places, row-major.

        Raises:
            UsageError: the patch does not fit into the image.
        """
        sets, numbers = self.distinct_places(patch)
        return sets[numbers]

    def distinct_places(self, patch: Patch) -> tuple[Tensor, Tensor]:
        """What sets of cells `patch` covers, and which of them at each of its L places, row-major.

        Places differ only in the runs of equal rows and columns that the patch meets, so that few are looked at.

        Returns:
            (D, cells) bool, and (L,) int64 below D.

        Raises:
            UsageError: the patch does not fit into the image.
        """
        self.require_fits("size_to_certify", patch)
        (in_rows, rows, row_of), (in_columns, columns, column_of) = (
            _runs_met(cells, length) for cells, length in ((self.cells, patch.height), (self.cells.T, patch.width))
        )
        cells = self.cells[rows][:, columns].flatten()
        covered = (in_rows[:, None, :, None] & in_columns[None, :, None, :]).flatten(0, 1).flatten(1).to(torch.uint8)
        sets = covered.new_zeros(len(covered), self.cell_count + 1)  # cell −1 is the last column
        sets.scatter_reduce_(1, cells.where(cells >= 0, self.cell_count).expand_as(covered), covered, "amax")
        numbers = row_of[:, None] * len(in_columns) + column_of
        return sets[:, :-1].bool(), numbers.flatten()

    def require_fits(self, option: str, patch: Patch) -> None:
        """Raise UsageError unless `patch`, which an option names, fits into the image."""
        require_fits(option, patch, self.height, self.width)

    def require_size(self, images: Tensor) -> None:
        """Raise ValueError unless `images` (…, H, W) have the size of those that the copies are made of."""
        if images.shape[-2:] != (self.height, self.width):
            found = " × ".join(map(str, images.shape[-2:]))
            raise ValueError(f"images have {found} pixels, the ablated copies {self.height} × {self.width}")

    def touched_by(self, patch: Patch) -> Tensor:
        """(L, A) bool: whether `patch` at place ℓ meets a visible pixel of ablation a, (mask_a & patch_ℓ).any().

        The places are those of `patch_cells`.
        """
        sets, numbers = self.distinct_places(patch)
        return self.touching(sets, self._every())[numbers]

    def touching(self, patch_cells: Tensor, indices: Tensor) -> Tensor:
        """(L, A') bool: whether the cells `patch_cells` (L, cells) meet those that ablations `indices` show."""
        shown = self.cells_shown(indices)
        return patch_cells.float() @ shown.T.float() > 0

    def places(self, patch: Patch | Area, patches: int = 1) -> Tensor:
        """(L, cells) bool: the distinct sets of cells that `patches` (1 or 2) such patches cover together.

        An area is every rectangle of it; those that fit into another one add nothing and are left out.

        Two at one place are left out where there is another place: with one of them there they cover more.

        Raises:
            UsageError: a patch does not fit into the image, or there are too many pairs.
        """
        single = self._single_places(patch)
        if patches == 1 or len(single) == 1:
            return single
        return _unions(single, patch, "patches", patches, "exact").unique(dim=0)

    def pairs_of_places(self, patch: Patch | Area, patches: int = 1) -> Tensor:
        """(L(L+1)/2, cells) bool: what pairs ℓ ≤ ℓ' of the L `places` cover, the upper triangle row by row.

        Raises:
            UsageError: a patch does not fit into the image, or there are too many pairs.
        """
        return _unions(self.places(patch, patches), patch, "certificate", "masking", "masking", with_itself=True)

    def _single_places(self, patch: Patch | Area) -> Tensor:
        """(L, cells) bool: the distinct sets of cells that one of them covers."""
        of_shapes = shapes(patch, self.height, self.width)
        return torch.cat([self.distinct_places(shape)[0] for shape in of_shapes]).unique(dim=0)

    def most_touched(self, patch: Patch | Area, patches: int = 1) -> int:
        """Δ: the most ablations that `patches` (1 or 2) such patches touch together (section 3 of the paper)."""
        single = self._single_places(patch)
        touched = torch.zeros(len(single), len(single) if patches == 2 else 1, dtype=torch.int64, device=single.device)
        for indices in self.chunks():
            hit = self.touching(single, indices).double()  # counts are exact, under autocast too
            of_each = hit.sum(dim=1, keepdim=True)
            touched += (of_each if patches == 1 else of_each + of_each.T - hit @ hit.T).to(torch.int64)
        return int(touched.max())

    def chunks(self, size: int = CHUNK) -> Iterator[Tensor]:
        """Yield the indices 0 … A−1 as int64 tensors of at most `size`."""
        for start in range(0, self.count, size):
            yield torch.arange(start, min(start + size, self.count), device=self.cells.device)

    def families(self) -> "list[Ablation]":
        """This ablation divided into families, in order, whose copies a patch touches independently of one another."""
        return [self]

    def description(self) -> dict[str, str | int]:
        """Its kind, and what it was made from, which it keeps under the same names; `described` makes it again."""
        return {"kind": type(self).__name__} | {name: getattr(self, name) for name in parameters(type(self))}

    def _every(self) -> Tensor:
        return torch.arange(self.count, device=self.cells.device)


class Band(Ablation):
    """Copies that show `band_size` (s) adjacent columns. One band begins at each column and may wrap around the border.

    Args:
        height, width: H and W of the images, pixels.
        band_size: s, the number of columns that a copy shows.

    Raises:
        UsageError: a size is not a whole number of at least 1, or is larger than the image.
    """

    def __init__(self, height: int, width: int, band_size: int):
        require_sides(height, width)
        require_within("band_size", band_size, 1, width, f"images are {width} pixels wide")
        self.height, self.width, self.band_size = height, width, band_size
        self.count = self.cell_count = width
        self.cells = torch.arange(width).expand(height, width)

    def __str__(self) -> str:
        return f"{self.count} bands of {self.band_size} columns"

    def cells_shown(self, indices: Tensor) -> Tensor:
        return _run_from(indices, self.band_size, self.width)


class Row(Ablation):
    """Copies that show `band_size` (s) adjacent rows. One band begins at each row and may wrap around the border.

    As in the paper, the network sees them as bands of columns of the transposed image. Patches and masks are upright.

    Args:
        height, width: H and W of the images, pixels.
        band_size: s, the number of rows that a copy shows.

    Raises:
        UsageError: a size is not a whole number of at least 1, or is larger than the image.
    """

    def __init__(self, height: int, width: int, band_size: int):
        require_sides(height, width)
        require_within("band_size", band_size, 1, height, f"images are {height} pixels high")
        self.height, self.width, self.band_size = height, width, band_size
        self.count = self.cell_count = height
        self.cells = torch.arange(height)[:, None].expand(height, width)

    def __str__(self) -> str:
        return f"{self.count} bands of {self.band_size} rows"

    def cells_shown(self, indices: Tensor) -> Tensor:
        return _run_from(indices, self.band_size, self.height)

    def as_seen(self, pictures: Tensor) -> Tensor:
        """(…, W, H): transposed."""
        return pictures.transpose(-2, -1)


class BandAndRow(Ablation):
    """All copies of `Band`, followed by all copies of `Row`.

    A place of a patch is a range of columns and a range of rows. The two are chosen independently.

    Args:
        height, width: H and W of the images, pixels.
        band_size: s, the number of columns or rows that a copy shows.

    Raises:
        UsageError: a size is not a whole number of at least 1, or is larger than the image.
    """

    def __init__(self, height: int, width: int, band_size: int):
        require_sides(height, width)
        self.height, self.width, self.band_size = height, width, band_size
        self.count, self.cell_count = width + height, height * width
        self.cells = torch.arange(height * width).view(height, width)
        self.families()

    def __str__(self) -> str:
        return " and ".join(map(str, self.families()))

    def families(self) -> list[Ablation]:
        kinds = (Band, Row)
        return [kind(self.height, self.width, self.band_size).to(self.cells.device) for kind in kinds]

    def cells_shown(self, indices: Tensor) -> Tensor:
        shown = [family.masks().flatten(1) for family in self.families()]
        return torch.cat(shown)[indices]


class Block(Ablation):
    """Copies that show a square of s × s pixels (s = `block_size`). One square begins at each pixel, row by row.

    Squares may wrap around the border.

    Args:
        height, width: H and W of the images, pixels.
        block_size: s, the number of pixels along a side of the square.

    Raises:
        UsageError: a size is not a whole number of at least 1, or is larger than the image.
    """

    def __init__(self, height: int, width: int, block_size: int):
        require_sides(height, width)
        require_within("block_size", block_size, 1, min(height, width), f"images are {height} × {width} pixels")
        self.height, self.width, self.block_size = height, width, block_size
        self.count = self.cell_count = height * width
        self.cells = torch.arange(height * width).view(height, width)

    def __str__(self) -> str:
        return f"{self.count} blocks of {self.block_size} × {self.block_size} pixels"

    def cells_shown(self, indices: Tensor) -> Tensor:
        rows = _run_from(indices // self.width, self.block_size, self.height)
        columns = _run_from(indices % self.width, self.block_size, self.width)
        return (rows[:, :, None] & columns[:, None, :]).flatten(1)


class Whole(Ablation):
    """One copy that shows everything: no ablation, as one of its kind."""

    def __init__(self, height: int, width: int):
        require_sides(height, width)
        self.height, self.width = height, width
        self.count = self.cell_count = 1
        self.cells = torch.zeros(height, width, dtype=torch.int64)

    def __str__(self) -> str:
        return "no defence"

    def cells_shown(self, indices: Tensor) -> Tensor:
        return torch.ones(len(indices), 1, dtype=torch.bool, device=indices.device)


def require_sides(height: int, width: int) -> None:
    """Raise UsageError unless these can be the sides of an image."""
    require_count("height", height, "pixels of the image")
    require_count("width", width, "pixels of the image")


def parameters(kind: type[Ablation]) -> list[str]:
    """What an ablation of this kind is made from: height, width and sizes of its own, all whole numbers."""
    return list(inspect.signature(kind).parameters)


def encode(images: Tensor) -> Tensor:
    """Encode images (N, C, H, W) as (N, 2C, H, W), with the channels (x, 1 − x) of section 4 of the paper.

    To get an ablated copy, multiply the result by a mask. A hidden pixel is then (0, 0). No shown pixel
    has this encoding.

    Raises:
        ValueError: the images hold whole numbers, so 1 − x would not be a pixel.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() != 4:
        found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise ValueError(f"images are {found}, expected a tensor (N, C, H, W) of floats in [0, 1]")
    positive = images + 0.0  # −0 becomes 0: where it is hidden, −0 times 0 would be another zero
    return torch.cat([positive, 1 - positive], dim=1)


def _unions(
    sets: Tensor, patch: Patch | Area, option: str, value: object, kind: str, with_itself: bool = False
) -> Tensor:
    """(pairs, cells) bool: the unions of two of the `sets` (L, cells), row by row of the upper triangle.

    Raises:
        UsageError: there are too many for certificates of this `kind`; the `option` asked for pairs.
    """
    first, second = torch.triu_indices(len(sets), len(sets), offset=0 if with_itself else 1, device=sets.device)
    if len(first) > MOST_PAIRS:
        fits = f"{kind} certificates take at most {MOST_PAIRS}; those by margin any number"
        raise UsageError(option, value, f"patches of {patch} have {len(first)} pairs of places here and {fits}")
    return sets[first] | sets[second]


def _runs_met(cells: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which runs of equal rows of `cells` (H, W) so many adjacent rows meet.

    Returns:
        (D, runs) bool, the distinct sets of runs; (runs,) the first row of each; (H−length+1,) the set of each place.
    """
    begins = torch.cat([cells.new_ones(1, dtype=torch.bool), (cells[1:] != cells[:-1]).any(dim=1)])
    run = begins.cumsum(dim=0) - 1
    first_and_last = torch.stack([run[: len(run) - length + 1], run[length - 1 :]], dim=1)
    met, number = first_and_last.unique(dim=0, return_inverse=True)
    every = torch.arange(int(run[-1]) + 1, device=cells.device)
    return (met[:, :1] <= every) & (every <= met[:, 1:]), begins.nonzero().squeeze(1), number


def _run_from(starts: Tensor, length: int, size: int) -> Tensor:
    """(A', size) bool: True at the `length` positions from each of `starts` (A',) on, modulo `size`."""
    return (torch.arange(size, device=starts.device) - starts[:, None]) % size < length
