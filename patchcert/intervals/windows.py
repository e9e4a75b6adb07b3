"""Differences from the clean activations, kept only inside the window that a patch has reached."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcert.intervals.bounds import Box, Room, absolute_convolution


@dataclass(frozen=True)
class Axis:
    """The rows, or the columns, that the windows of a lattice cover on a map of `extent` pixels.

    The window of a place begins at scale·t + offset and is `size` long. `scale` is the product of the strides that
    are still to come: every window then meets a strided convolution in the same phase, and one call serves all.

    Attributes:
        t: (P, B) int64, or (P, 1) where all columns share their places; it stays the same from layer to layer.
    """

    t: Tensor
    scale: int
    offset: int
    size: int
    extent: int

    def positions(self) -> Tensor:
        """(P, B, size) int64: what the windows cover. Some of it may lie outside the map."""
        starts = self.scale * self.t + self.offset
        return starts[..., None] + torch.arange(self.size, device=self.t.device)

    def through(self, layer: nn.Conv2d, dimension: int) -> tuple["Axis", int, int]:
        """The windows that a convolution reaches along its dimension 0 (rows) or 1 (columns).

        Returns:
            them, and how many zeros to put before and after the present windows so that the result is just these.
        """
        stride, padding = layer.stride[dimension], layer.padding[dimension]
        beyond = layer.dilation[dimension] * (layer.kernel_size[dimension] - 1)
        last = self.offset + self.size - 1
        first_reached = -((beyond - padding - self.offset) // stride)  # rounded up
        last_reached = (last + padding) // stride
        before = self.offset + padding - stride * first_reached
        after = stride * last_reached - padding + beyond - last
        extent = (self.extent + 2 * padding - beyond - 1) // stride + 1
        size = last_reached - first_reached + 1
        return Axis(self.t, self.scale // stride, first_reached, size, extent), before, after


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
        pixels, on_map = pixels_of(rows, columns)
        _, height, width, _ = self.shape
        index = images[:, None, None] * (height * width) + pixels
        return index.where(on_map, len(self.rows) - 1).flatten(0, 1)

    def at(self, index: Tensor) -> Tensor:
        """(P·B, C, a, b): what stands at an `index`."""
        return self.rows.index_select(0, index.flatten()).view(*index.shape, -1).permute(0, 3, 1, 2)


def pixels_of(rows: Axis, columns: Axis) -> tuple[Tensor, Tensor]:
    """The index of each window's pixels in the flattened map, and which are on the map: both (P, B, a, b)."""
    row, column = rows.positions()[..., :, None], columns.positions()[..., None, :]
    on_map = (row >= 0) & (row < rows.extent) & (column >= 0) & (column < columns.extent)
    return row * columns.extent + column, on_map


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

    def convolved(self, layer: nn.Conv2d, room: Room | None = None) -> "Windows":
        """The differences after a convolution, W ∗ shift and |W| ∗ radius, in the larger windows it reaches.

        Of the room for rounding, only the factor; what is beside comes with the next ReLU.
        """
        rows, top, bottom = self.rows.through(layer, 0)
        columns, left, right = self.columns.through(layer, 1)
        shift, radius, padding = self.shift, self.radius, (top, left)
        if (top, left) != (bottom, right) or min(top, left) < 0:
            shift, radius = (F.pad(x, (left, right, top, bottom)) for x in (shift, radius))
            padding = (0, 0)
        shift = F.conv2d(shift, layer.weight, None, layer.stride, padding, layer.dilation, layer.groups)
        return Windows(shift, absolute_convolution(layer, radius, padding, room), rows, columns)

    def rectified(self, clean: Tensor, beside: Tensor | None = None) -> "Windows":
        """The differences after a ReLU, given the clean activations before it (P·B, C, a, b).

        Clean activations outside the map are −∞: the ReLU makes both differences zero there.

        Args:
            beside: (P·B, C, a, b), for rounding, of which this function disposes.
        """
        in_place = not torch.is_grad_enabled()  # all tensors below are this function's own, but for self's
        centre, radius = clean + self.shift, self.radius if beside is None else beside.add_(self.radius)
        lower, upper = F.relu(centre - radius, in_place), F.relu(centre + radius, in_place)
        middle, radius = torch.lerp(lower, upper, 0.5), (upper - lower) / 2
        return replace(self, shift=middle - clean.relu(), radius=radius)

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

    def on_maps(self, count: int) -> tuple[Tensor, Tensor]:
        """Shift and radius as whole maps, both (P·B, H, W, C), for B = `count` columns."""
        pixels, on_map = pixels_of(self.rows, self.columns)
        boxes, channels = self.shift.shape[:2]
        size = self.rows.extent * self.columns.extent
        first = size * torch.arange(boxes, device=pixels.device).view(-1, count, 1, 1)
        index = (first + pixels).where(on_map, size * boxes).flatten()  # the last row is for what is on no map
        maps = []
        for windows in (self.shift, self.radius):
            rows = windows.permute(0, 2, 3, 1).reshape(-1, channels)
            rows = rows.new_zeros(size * boxes + 1, channels).index_copy_(0, index, rows)[:-1]
            maps.append(rows.view(boxes, self.rows.extent, self.columns.extent, channels))
        return tuple(maps)

    def around(self, clean: Tensor, images: Tensor, error: Tensor | None = None) -> Box:
        """The boxes as whole maps (P·B, C, H, W), given the clean activations (N, C, H, W) of `images` (B,).

        Args:
            error: (N, C, H, W), how far executions on the clean images may be from these activations.
        """
        centre, radius = (x.permute(0, 3, 1, 2).unflatten(0, (-1, len(images))) for x in self.on_maps(len(images)))
        centre = centre + clean[images]
        if error is not None:
            radius = radius + error[images]
        return Box.around(centre.flatten(0, 1), radius.flatten(0, 1))


def _union(axis: Axis, group: int) -> tuple[Axis, Tensor]:
    """The axis of the smallest windows around each `group` of windows, and what each of them has at its positions.

    The second is (P, B, size) int64: an index into the old window, or −1 where it does not reach.
    """
    t = axis.t.unflatten(0, (-1, group))  # (P / group, group, B)
    first = t.amin(dim=1)
    later = axis.scale * (t - first[:, None]).flatten(0, 1)
    union = replace(axis, t=first, size=axis.size + int(later.max()))
    index = torch.arange(union.size, device=t.device) - later[..., None]
    return union, index.where((index >= 0) & (index < axis.size), -1)
