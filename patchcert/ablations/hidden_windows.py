"""Windows of which one hides every patch, wherever it lies: the masks of PatchCleanser, by arithmetic.

Xiang, Mahloujifar and Mittal, "PatchCleanser: Certifiably Robust Defense against Adversarial Patches for Any Image
Classifier", USENIX Security 2022, section 3. Nothing here grows with the number of pixels but the masks that are asked
for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from patchcert.ablations.ablation import require_sides
from patchcert.errors import UsageError, called, require_within
from patchcert.patch import Patch, require_fits
from patchcert.patch_sizes import PatchSize, largest, require_patch_size, shapes

MOST_PER_SIDE = 16
"""Windows along each side of an image: 256 of them, 32,640 pairs."""

NOTHING = -1
"""The number of the window that hides nothing."""


class HiddenWindows:
    """Rectangles of an H × W image, to be hidden one or two at a time.

    Attributes:
        height, width: H and W, pixels.
        rectangles: (M, 4) int64: for each window the first row, the row after the last, the first column, and the
            column after the last.
        shapes: the patches that the windows hold: wherever one of them lies, some window covers it.

    Raises:
        ValueError: an argument is of another kind, or at some place no window covers one of the `shapes`.
    """

    def __init__(self, height: int, width: int, rectangles: Tensor, shapes: Sequence[Patch]):
        require_sides(height, width)
        _require_rectangles(rectangles)
        if not isinstance(shapes, Sequence) or not all(isinstance(patch, Patch) for patch in shapes):
            raise UsageError("shapes", shapes, "expected a list of Patch(height, width)")
        self.height, self.width, self.shapes = height, width, tuple(shapes)
        self.rectangles = rectangles
        for patch in shapes:
            if not self.holds(patch):
                raise ValueError(f"patches of {patch}: at some place no window covers them")

    @classmethod
    def for_patch(cls, height: int, width: int, patch: PatchSize, per_side: int) -> "HiddenWindows":
        """The smallest k × k windows (k = `per_side`) that hold `patch` wherever it lies.

        For an `Area`, see `for_shapes`. For a `Share` they hold the square that it is.

        Raises:
            UsageError: the patch does not fit into the image, or the windows would hide the whole image.
        """
        require_sides(height, width)
        require_patch_size(patch)
        with called(size_to_certify="patch"):
            return cls.for_shapes(height, width, shapes(patch, height, width), per_side)

    @classmethod
    def for_shapes(cls, height: int, width: int, shapes: Sequence[Patch], per_side: int) -> "HiddenWindows":
        """Windows for several shapes of patches: k × k windows for each shape that fits into no other.

        Raises:
            UsageError: see `for_patch`.
        """
        require_within("per_side", per_side, 2, MOST_PER_SIDE, "windows along each side")
        families = [_grid(height, width, patch, per_side) for patch in largest(shapes)]
        rectangles = torch.cat(families).unique(dim=0)
        return cls(height, width, rectangles, shapes)

    @property
    def count(self) -> int:
        """M, the number of windows."""
        return len(self.rectangles)

    def __str__(self) -> str:
        sizes = {(bottom - top, right - left) for top, bottom, left, right in self.rectangles.tolist()}
        if len(sizes) > 1:
            return f"{self.count} windows of {len(sizes)} shapes"
        ((rows, columns),) = sizes
        return f"{self.count} windows of {rows} × {columns} pixels"

    def description(self) -> dict[str, str | int]:
        """What a checkpoint says about the windows."""
        return {"kind": type(self).__name__, "height": self.height, "width": self.width, "windows": self.count}

    def covering(self, patch: Patch) -> Tensor:
        """Whether each window covers `patch` if it begins in that row and column, (M, rows, columns) bool."""
        rows, columns = self._covering(patch)
        return rows[:, :, None] & columns[:, None, :]

    def holds(self, patch: Patch) -> bool:
        """Whether some window covers `patch` wherever it lies in the image."""
        if patch.height > self.height or patch.width > self.width:
            return False
        rows, columns = self._covering(patch)
        return bool((rows.T.float() @ columns.float() > 0).all())

    def _covering(self, patch: Patch) -> tuple[Tensor, Tensor]:
        """(M, rows) and (M, columns) bool: whether each window covers the rows, and the columns, from there on."""
        top, bottom, left, right = self.rectangles.T[..., None]
        rows, columns = torch.arange(self.height - patch.height + 1), torch.arange(self.width - patch.width + 1)
        return (top <= rows) & (rows + patch.height <= bottom), (left <= columns) & (columns + patch.width <= right)

    def most_hidden(self) -> int:
        """The number of pixels of the largest window."""
        top, bottom, left, right = self.rectangles.T
        return int(((bottom - top) * (right - left)).max())

    def hidden(self, pairs: Tensor) -> Tensor:
        """The pixels that the windows `pairs` (B, 2) hide, (B, H, W) bool; `NOTHING` hides none."""
        nothing = torch.zeros(1, 4, dtype=torch.int64)
        top, bottom, left, right = torch.cat([self.rectangles, nothing]).to(pairs.device)[pairs].unbind(dim=2)
        rows, columns = (torch.arange(size, device=pairs.device) for size in (self.height, self.width))
        in_rows = (top[..., None] <= rows) & (rows < bottom[..., None])  # (B, 2, H)
        in_columns = (left[..., None] <= columns) & (columns < right[..., None])  # (B, 2, W)
        return (in_rows[..., :, None] & in_columns[..., None, :]).any(dim=1)


def _require_rectangles(rectangles: object) -> None:
    """Raise UsageError unless they are one window or more."""
    if isinstance(rectangles, Tensor):
        if rectangles.dtype == torch.int64 and rectangles.shape[1:] == (4,) and len(rectangles):
            return
        found = f"{rectangles.dtype} {tuple(rectangles.shape)}"
    else:
        found = f"a {type(rectangles).__name__}"
    raise UsageError("rectangles", found, "expected a tensor (M, 4) of int64, a row for each window")


def _grid(height: int, width: int, patch: Patch, per_side: int) -> Tensor:
    """(k², 4) int64: the windows for one shape, row by row."""
    require_fits("size_to_certify", patch, height, width)
    if (patch.height, patch.width) == (height, width):
        raise UsageError("size_to_certify", patch, "expected a patch smaller than the image")
    rows, columns = (
        even_spans(size, shortest_length(size, length, per_side), per_side).unique(dim=0)
        for size, length in ((height, patch.height), (width, patch.width))
    )
    return torch.cat([rows.repeat_interleave(len(columns), dim=0), columns.repeat(len(rows), 1)], dim=1)


def even_spans(size: int, length: int, count: int) -> Tensor:
    """(k, 2): where `count` spans of `length` pixels begin and end, evenly from the one end of `size` to the other."""
    starts = (size - length) * torch.arange(count) // (count - 1)
    return torch.stack([starts, starts + length], dim=1)


def shortest_length(size: int, patch: int, count: int) -> int:
    """The least length for which some of `count` even spans of `size` pixels holds `patch` adjacent ones, anywhere.

    Neighbours then begin at most so far apart that what one does not hold the next one does.
    """
    lengths = range(patch, size + 1)
    return next(w for w in lengths if even_spans(size, w, count)[:, 0].diff().max() <= w - patch + 1)
