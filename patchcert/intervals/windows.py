"""Differences from the clean activations, kept only inside the window that a patch has reached."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcert.intervals.bounds import Box, Room, grown


@dataclass(frozen=True)
class Axis:
    """The rows, or the columns, that the windows of a lattice cover on a map of `extent` pixels.

    The window of a place begins at scale·t + offset and is `size` long. `scale` is the product of the strides that
    are still to come: every window then meets a strided convolution in the same phase, and one call serves all.

    Attributes:
        t: (P, B) int64, or (P, 1) where all columns share their places; it stays the same from layer to layer.
        least, most: of all t.
    """

    t: Tensor
    scale: int
    offset: int
    size: int
    extent: int
    least: int
    most: int

    @classmethod
    def around(cls, corners: Tensor, length: int, scale: int, extent: int) -> "Axis":
        """The smallest windows around patches that begin at `corners` (P, B) and are `length` long."""
        t, phase = corners // scale, corners % scale
        first, last, least, most = torch.stack([phase.min(), phase.max(), t.min(), t.max()]).tolist()
        return cls(t, scale, first, last - first + length, extent, least, most)

    @property
    def strip(self) -> slice:
        """What any of the windows covers of the map; one row, or column, where all of them lie outside."""
        first, last = self.scale * self.least + self.offset, self.scale * self.most + self.offset + self.size
        first = min(max(first, 0), self.extent - 1)
        return slice(first, max(min(last, self.extent), first + 1))

    def positions(self) -> Tensor:
        """(P, B, size) int64: what the windows cover. Some of it may lie outside the map."""
        starts = self.scale * self.t + self.offset
        return starts[..., None] + torch.arange(self.size, device=self.t.device)

    def through(self, layer: nn.Conv2d, dimension: int) -> tuple["Axis", int, int]:
        """The windows that a convolution reaches along its dimension 0 (rows) or 1 (columns).

        What lies outside the map in every window is left out.

        Returns:
            them, and how many zeros to put before and after the present windows so that the result is just these.
        """
        stride, padding = layer.stride[dimension], layer.padding[dimension]
        beyond = layer.dilation[dimension] * (layer.kernel_size[dimension] - 1)
        last = self.offset + self.size - 1
        scale, extent = self.scale // stride, (self.extent + 2 * padding - beyond - 1) // stride + 1
        first_reached = -((beyond - padding - self.offset) // stride)  # rounded up
        first_reached = max(first_reached, -scale * self.most)
        last_reached = min((last + padding) // stride, extent - 1 - scale * self.least)
        last_reached = max(last_reached, first_reached)  # a window of one pixel where the kernel skips all
        before = self.offset + padding - stride * first_reached
        after = stride * last_reached - padding + beyond - last
        reached = replace(self, scale=scale, offset=first_reached, size=last_reached - first_reached + 1, extent=extent)
        return reached, before, after


class RowsOfChannels:
    """Maps (N, C, H, W) as rows of C channels, so that a window's pixels are read in whole rows.

    Pixels outside the maps are one more row, filled with `outside`.
    """

    def __init__(self, maps: Tensor, outside: float):
        count, channels, height, width = maps.shape
        rows = maps.permute(0, 2, 3, 1).reshape(-1, channels)
        self.rows = torch.cat([rows, rows.new_full((1, channels), outside)])
        self.shape = (count, height, width, channels)

    def maps(self) -> Tensor:
        """(N, C, H, W)."""
        return self.rows[:-1].view(self.shape).permute(0, 3, 1, 2)

    def windows(self, rows: Axis, columns: Axis, images: Tensor) -> Tensor:
        """(P·B, C, a, b): the windows in the maps of `images` (B,)."""
        return self.at(self.index(rows, columns, images))

    def index(self, rows: Axis, columns: Axis, images: Tensor) -> Tensor:
        """(P·B, a, b) int64: the row of each pixel of the windows in the maps of `images` (B,)."""
        _, height, width, _ = self.shape
        whole = slice(0, height), slice(0, width)
        return pixels_of(rows, columns, images[None] * (height * width), len(self.rows) - 1, *whole)

    def at(self, index: Tensor) -> Tensor:
        """(P·B, C, a, b): what stands at an `index`."""
        return self.rows.index_select(0, index.flatten()).view(*index.shape, -1).permute(0, 3, 1, 2)


def pixels_of(rows: Axis, columns: Axis, first: Tensor, nowhere: int, on_rows: slice, on_columns: slice) -> Tensor:
    """(P·B, a, b) int64: where each pixel of the windows is in a list of maps of these rows and columns.

    Args:
        first: (P, B) or (1, B), where each box's map begins in the list.
        nowhere: the index of what is on no map.
    """
    row, column = rows.positions() - on_rows.start, columns.positions() - on_columns.start
    row, column = row[..., :, None], column[..., None, :]
    height, width = on_rows.stop - on_rows.start, on_columns.stop - on_columns.start
    on_map = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return (first[..., None, None] + row * width + column).where(on_map, nowhere).flatten(0, 1)


@dataclass(frozen=True)
class Kernel:
    """What a convolution multiplies differences with.

    Attributes:
        weight: W, which multiplies shifts, in the type that products are taken in.
        sizes: |W|, which multiplies radii, with the factor of the room for rounding.
    """

    layer: nn.Conv2d
    weight: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, layer: nn.Conv2d, room: Room | None, dtype: torch.dtype) -> "Kernel":
        """Of the room for rounding, only the factor; what is beside comes with the next ReLU."""
        return cls(layer, layer.weight.to(dtype), grown(layer.weight.abs(), room).to(dtype))


@dataclass(frozen=True)
class Windows:
    """How far a lattice of boxes is from the clean activations: centre = clean + shift, ends = centre ± radius.

    Attributes:
        shift, radius: (P·B, C, a, b); zero where a window lies outside the map.
        rows, columns: where the windows are; everywhere else both differences are zero.
    """

    shift: Tensor
    radius: Tensor
    rows: Axis
    columns: Axis

    @property
    def cover(self) -> bool:
        """Whether a window is as large as the map, so that there is nothing to save."""
        return self.rows.size * self.columns.size >= self.rows.extent * self.columns.extent

    def ready_for(self, kernel: Kernel) -> "Factors":
        """These windows as the convolution needs them: in the kernel's type, with zeros beside them where need be."""
        rows, top, bottom = self.rows.through(kernel.layer, 0)
        columns, left, right = self.columns.through(kernel.layer, 1)
        shift, radius, padding, beside = self.shift, self.radius, (top, left), (0, 0, 0, 0)
        if (top, left) != (bottom, right) or min(top, left) < 0:
            padding, beside = (0, 0), (left, right, top, bottom)
        shift, radius = (padded(x.to(kernel.weight.dtype), beside) for x in (shift, radius))
        return Factors(kernel, shift, radius, rows, columns, padding, beside)

    def ends(self, clean: Tensor, beside: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What a ReLU makes of the lower ends, of the upper ends and of the clean activations before it.

        Args:
            clean: (P·B, C, a, b), −∞ outside the map, so that all three are zero there.
            beside: (P·B, C, a, b), for rounding.

        Without gradients the caller has no more use for either.
        """
        centre, radius = clean + self.shift, self.radius if beside is None else beside.add_(self.radius)
        lower, upper = (centre - radius).relu_(), (centre + radius).relu_()
        return lower, upper, clean.relu() if torch.is_grad_enabled() else clean.relu_()

    def between(self, lower: Tensor, upper: Tensor, clean: Tensor) -> "Windows":
        """The differences of these ends from the clean activations."""
        return replace(self, shift=torch.lerp(lower, upper, 0.5).sub_(clean), radius=(upper - lower).div_(2))

    def merged(self, group: int) -> "Windows":
        """One window for each `group` windows that follow each other in the lattice: the smallest box around all.

        Every box contains the clean activation, so that a window is zero where it does not reach.
        """
        if group == 1:
            return self
        rows, row_index = _union(self.rows, group)
        columns, column_index = _union(self.columns, group)
        windows, places = len(self.shift), len(self.rows.t)
        lattice = (places, windows // places)
        groups = (lattice[0] // group, group, -1)
        pad = (0, 1, 0, 1)  # index −1 reads a zero
        row_index = row_index.expand(*lattice, -1).reshape(windows, 1, -1, 1)
        column_index = column_index.expand(*lattice, -1).reshape(windows, 1, 1, -1)
        window = torch.arange(windows, device=self.shift.device).view(-1, 1, 1, 1)
        channel = torch.arange(self.shift.shape[1], device=self.shift.device).view(1, -1, 1, 1)
        lower, upper = (
            F.pad(ends, pad)[window, channel, row_index, column_index].unflatten(0, groups)
            for ends in (self.shift - self.radius, self.shift + self.radius)
        )
        box = Box(lower.amin(dim=1).flatten(0, 1), upper.amax(dim=1).flatten(0, 1))
        return Windows(box.centre, box.radius, rows, columns)

    def on_maps(self, count: int, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Shift and radius on these rows and columns of whole maps, which hold all windows, for B = `count` columns.

        Both (P·B, H', W', C).
        """
        boxes, channels = self.shift.shape[:2]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        size = height * width
        first = size * torch.arange(boxes, device=self.shift.device).view(-1, count)
        index, maps = pixels_of(self.rows, self.columns, first, size * boxes, rows, columns).flatten(), []
        for windows in (self.shift, self.radius):
            pixels = windows.permute(0, 2, 3, 1).reshape(-1, channels)
            pixels = pixels.new_zeros(size * boxes + 1, channels).index_copy_(0, index, pixels)[:-1]
            maps.append(pixels.view(boxes, height, width, channels))
        return tuple(maps)

    def around(self, clean: Tensor, images: Tensor, error: Tensor | None = None) -> Box:
        """The boxes as whole maps (P·B, C, H, W), given the clean activations (N, C, H, W) of `images` (B,).

        Args:
            error: (N, C, H, W), how far executions on the clean images may be from these activations.
        """
        maps = self.on_maps(len(images), slice(0, self.rows.extent), slice(0, self.columns.extent))
        centre, radius = (x.permute(0, 3, 1, 2).unflatten(0, (-1, len(images))) for x in maps)
        centre = centre + clean[images]
        if error is not None:
            radius = radius + error[images]
        return Box.around(centre.flatten(0, 1), radius.flatten(0, 1))


@dataclass(frozen=True)
class Factors:
    """What a convolution multiplies, and where the result goes.

    Attributes:
        shift, radius: (P·B, C, a, b), in the kernel's type.
        rows, columns: of the result.
        padding: (rows, columns), what the convolution adds.
        beside: (left, right, top, bottom), what is already part of shift and radius.
    """

    kernel: Kernel
    shift: Tensor
    radius: Tensor
    rows: Axis
    columns: Axis
    padding: tuple[int, int]
    beside: tuple[int, int, int, int]

    def multiplied(self) -> Windows:
        """The differences after the convolution, W ∗ shift and |W| ∗ radius, in the larger windows it reaches."""
        layer = self.kernel.layer
        how = None, layer.stride, self.padding, layer.dilation, layer.groups
        shift, radius = F.conv2d(self.shift, self.kernel.weight, *how), F.conv2d(self.radius, self.kernel.sizes, *how)
        return Windows(shift, radius, self.rows, self.columns)


def padded(windows: Tensor, beside: Sequence[int]) -> Tensor:
    """Windows (B, C, a, b) with zeros beside them: left, right, top, bottom. Where fewer than 0, so much is cut off.

    Zeros come first, since of a window that a kernel skips everything may be cut off.
    """
    wider = F.pad(windows, [max(count, 0) for count in beside])
    return F.pad(wider, [min(count, 0) for count in beside]) if min(beside) < 0 else wider


def _union(axis: Axis, group: int) -> tuple[Axis, Tensor]:
    """The axis of the smallest windows around each `group` of windows, and what each of them has at its positions.

    The second is (P, B, size) int64: an index into the old window, or −1 where it does not reach.
    """
    t = axis.t.unflatten(0, (-1, group))  # (P / group, group, B)
    first = t.amin(dim=1)
    later = axis.scale * (t - first[:, None]).flatten(0, 1)
    union = replace(axis, t=first, size=axis.size + int(later.max()), most=int(first.max()))
    index = torch.arange(union.size, device=t.device) - later[..., None]
    return union, index.where((index >= 0) & (index < axis.size), -1)
