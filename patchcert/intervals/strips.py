"""Margin bounds where each place belongs to one image, as training draws them: windows of one phase together.

Places are sorted into strips of neighbouring rows, and those of a strip into groups that meet all strides in the same
phase. Windows of a group then fit closely. The linear layer behind the windows multiplies the rows of a strip, for all
of its boxes at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from patchcert.intervals.bounds import Box
from patchcert.intervals.patches import LIVE, PatchBounds, times_maps
from patchcert.intervals.places import Places
from patchcert.intervals.windows import Factors, Windows, padded, pixels_of

STRIPS, PER_STRIP = 4, 320
"""At most as many strips, and at least as many boxes in one: weights are read, and gradients added, for each strip."""

BOXES, FEW = 64, 16
"""How many boxes a group has on the CPU, so that they stay in the cache; those that are left are in groups of fewer.

There are no other numbers: with groups of many sizes, all of their convolutions together were slower.
"""


@dataclass(frozen=True)
class _Group:
    """Boxes start, …, start + count − 1 of a strip, in one phase.

    Attributes:
        places: (1, B), theirs, and the last one again until the group is full.
    """

    start: int
    count: int
    places: Places


@dataclass(frozen=True)
class _Strip:
    """Boxes whose maps have differences from clean activations on these rows alone.

    Attributes:
        boxes: (B,), numbers in the whole lattice.
        places: (1, B), those of the boxes.
    """

    boxes: Tensor
    places: Places
    groups: list[_Group]
    rows: slice


@dataclass(frozen=True)
class _Step:
    """What the gradients of a convolution and a ReLU need: see `Windows.ends`; `pixels` of the clean activations."""

    factors: Factors
    lower: Tensor
    upper: Tensor
    clean: Tensor
    pixels: Tensor


def applies(bounds: PatchBounds, places: Places) -> bool:
    """Whether these places can be computed in strips."""
    return bool(
        bounds.windowed and bounds.linear and not bounds.neighbor and not places.shared and not bounds.rooms.behind
    )


def bytes_per_image(bounds: PatchBounds) -> int:
    """What `Gradients` needs for an image beside its boxes: clean activations, as rows of channels too, and theirs."""
    return 3 * bounds.clean_bytes


@torch.no_grad()
def margins(bounds: PatchBounds, places: Places, max_memory: int) -> Tensor:
    """(P, B, K): `PatchBounds.margins` of all of the places, in about `max_memory` bytes."""
    count, columns = places.corners.shape[:2]
    found = bounds.clean_linear.new_empty(count * columns, bounds.network[-1].out_features)
    for strip in _strips(bounds, _in_a_row(places), max_memory):
        maps = _Maps(bounds, strip)
        for group in strip.groups:
            maps.take(group, _through_windows(bounds, group, None))
        found[strip.boxes] = bounds.margins_behind(maps.box(), strip.places)[0]
    return found.unflatten(0, (count, columns))


def _in_a_row(places: Places) -> Places:
    """The same places as columns (1, P·B)."""
    return Places(places.corners.flatten(0, 1)[None], places.images.repeat(len(places.corners)))


def _strips(bounds: PatchBounds, places: Places, max_memory: int) -> Iterator[_Strip]:
    """The boxes of columns (1, B) in strips."""
    corners, strides = places.corners[0], torch.tensor([bounds.stride(0), bounds.stride(1)]).to(places.corners)
    phases = corners % strides
    phase = phases[:, 0] * strides[1] + phases[:, 1]
    order = corners[:, 0].argsort(stable=True)
    at_once = max(max_memory // (LIVE * bounds.clean[-1].maps()[0].nbytes), 1)
    for boxes in order.split(min(max(-(-len(order) // STRIPS), PER_STRIP), at_once)):
        boxes = boxes[phase[boxes].argsort(stable=True)]
        groups, start = [], 0
        for part, size in _parts(phase[boxes]):
            some = boxes[start : start + part]
            filled = some[torch.arange(size, device=some.device).clamp(max=part - 1)]
            groups.append(_Group(start, part, _chosen(places, filled)))
            start += part
        own = _chosen(places, boxes)
        yield _Strip(boxes, own, groups, bounds.last_axis(own, 0).strip)


def _parts(phases: Tensor) -> Iterator[tuple[int, int]]:
    """How many of the boxes that follow each other are a group, given their sorted phases (B,), and its size."""
    for count in phases.unique_consecutive(return_counts=True)[1].tolist():
        if phases.device.type != "cpu":
            yield count, count
            continue
        yield from [(BOXES, BOXES)] * (count // BOXES)
        left = count % BOXES
        if left > BOXES - FEW:
            yield left, BOXES
        else:
            yield from [(FEW, FEW)] * (left // FEW)
            if left % FEW:
                yield left % FEW, FEW


def _chosen(places: Places, columns: Tensor) -> Places:
    return Places(places.corners[:, columns], places.images[columns])


def _through_windows(bounds: PatchBounds, group: _Group, steps: list[_Step] | None) -> Windows:
    """The differences behind the last ReLU; `steps` gains what gradients need."""
    windows, places = bounds.patch_windows(group.places, everywhere=True), group.places
    for kernel, before_relu in zip(bounds.kernels, bounds.clean, strict=True):
        factors = windows.ready_for(kernel)
        windows = factors.multiplied()
        pixels = before_relu.index(windows.rows, windows.columns, places.images)
        ends = windows.ends(before_relu.at(pixels))
        windows = windows.between(*ends)
        if steps is not None:
            steps.append(_Step(factors, *ends, pixels))
    return windows


class _Maps:
    """Shifts and radii of a strip's boxes on the rows of the strip, whole rows, as the linear layer multiplies them."""

    def __init__(self, bounds: PatchBounds, strip: _Strip):
        self.bounds, self.strip = bounds, strip
        weights, sizes = bounds.weights_by_pixel
        self.factors = weights[:, strip.rows], sizes[:, strip.rows]  # (D, a, W, C)
        self.shape = (len(strip.boxes), *self.factors[0].shape[1:])
        self.size, self.columns = self.shape[1] * self.shape[2], slice(0, self.shape[2])
        self.nowhere = len(strip.boxes) * self.size
        self.pixels = [weights.new_zeros(self.nowhere + 1, self.shape[3]) for _ in range(2)]

    def index(self, group: _Group, windows: Windows) -> Tensor:
        """(B·a·b,) int64: where the pixels of a group's windows are; nowhere for boxes that fill it up."""
        box = torch.arange(len(windows.shift), device=windows.shift.device)
        first = self.size * (group.start + box)[None]
        index = pixels_of(windows.rows, windows.columns, first, self.nowhere, self.strip.rows, self.columns)
        return index.where((box < group.count)[:, None, None], self.nowhere).flatten()

    def take(self, group: _Group, windows: Windows) -> None:
        """Put a group's windows onto the maps."""
        index = self.index(group, windows)
        for pixels, values in zip(self.pixels, (windows.shift, windows.radius), strict=True):
            pixels.index_copy_(0, index, values.to(pixels.dtype).permute(0, 2, 3, 1).reshape(len(index), -1))

    def box(self) -> Box:
        """(B, D) boxes behind flatten and linear."""
        centre, radius = (
            times_maps(pixels[:-1].view(self.shape), weights)
            for pixels, weights in zip(self.pixels, self.factors, strict=True)
        )
        return Box.around(self.bounds.clean_linear[self.strip.places.images] + centre, radius)


class Gradients:
    """What the parameters do to a sum of margins at columns of places, computed without PyTorch's record of it.

    What windows do to the clean activations adds up first, and then goes through the network once. With it, each
    shift and radius has half a gradient, since both ends of a box depend on it: g / 2 of the shift ± g / 2 of the
    radius are those of the ends.

    Args:
        bounds: made where PyTorch records gradients, for the clean activations.
    """

    def __init__(self, bounds: PatchBounds):
        self.bounds = bounds
        self.of_clean = [torch.zeros_like(clean.rows) for clean in bounds.clean]
        self.of_clean_linear = torch.zeros_like(bounds.clean_linear)
        with torch.no_grad():
            self.halves = [(kernel.weight / 2, kernel.sizes / 2) for kernel in bounds.kernels]
            self.of_kernels = [[torch.zeros_like(kernel.layer.weight) for _ in range(2)] for kernel in bounds.kernels]
            like = bounds.linear.weight
            self.of_linear = [like.new_zeros(weights.shape) for weights in bounds.weights_by_pixel]
        behind = bounds.network[2 * bounds.windowed + 2 :]
        self.of_rest = {parameter: torch.zeros_like(parameter) for parameter in behind.parameters()}

    def add(self, places: Places, weights: Tensor, max_memory: int) -> None:
        """Add those of margins at columns (1, B) of places, times `weights` (B, K)."""
        for strip in _strips(self.bounds, places, max_memory):
            self._add_strip(strip, weights[strip.boxes])

    @torch.no_grad()
    def _add_strip(self, strip: _Strip, weights: Tensor) -> None:
        maps, taken = _Maps(self.bounds, strip), []
        for group in strip.groups:
            windows = _through_windows(self.bounds, group, steps := [])
            maps.take(group, windows)
            taken.append((steps, maps.index(group, windows), windows))
        ends = maps.box()
        with torch.enable_grad():
            box = Box(ends.lower.requires_grad_(), ends.upper.requires_grad_())
            value = (self.bounds.margins_behind(box, strip.places)[0] * weights).sum()
            lower, upper, *rest = torch.autograd.grad(value, [box.lower, box.upper, *self.of_rest])
        for total, part in zip(self.of_rest.values(), rest, strict=True):
            total += part
        self.of_clean_linear.index_add_(0, strip.places.images, lower + upper)
        halves = self._through_linear(maps, lower + upper, upper - lower)
        for steps, index, windows in taken:
            of_windows = []
            for half in halves:
                rows = half.index_select(0, index).to(windows.shift.dtype)
                of_windows.append(rows.view(len(windows.shift), *windows.shift.shape[2:], -1).permute(0, 3, 1, 2))
            self._through_windows(steps, *of_windows)

    def _through_linear(self, maps: _Maps, *gradients: Tensor) -> list[Tensor]:
        """Half the gradients of both maps (B·a·W + 1, C), zero in the last row."""
        halves = []
        for gradient, pixels, weights, total in zip(gradients, maps.pixels, maps.factors, self.of_linear, strict=True):
            gradient = gradient.to(pixels.dtype)
            flat = pixels[:-1].view(len(gradient), -1)
            total[:, maps.strip.rows].flatten(1).add_(gradient.t() @ flat)
            torch.mm(gradient / 2, weights.flatten(1), out=flat)  # the maps are of no more use
            halves.append(pixels.index_fill_(0, torch.tensor(maps.nowhere, device=pixels.device), 0))
        return halves

    def _through_windows(self, steps: list[_Step], half_shift: Tensor, half_radius: Tensor) -> None:
        """From half the gradients behind the last ReLU (B, C, a, b) to the first layer."""
        relu = torch.ops.aten.threshold_backward
        for number, step in reversed([*enumerate(steps)]):
            lower = relu(half_shift - half_radius, step.lower, 0)
            upper = relu(half_shift + half_radius, step.upper, 0)
            shift, radius = lower + upper, upper.sub_(lower)
            of_clean = torch.sub(shift, relu(half_shift, step.clean, 0), alpha=2).permute(0, 2, 3, 1)
            self.of_clean[number].index_add_(0, step.pixels.flatten(), of_clean.reshape(-1, of_clean.shape[3]))
            sides = zip(
                (shift, radius), (step.factors.shift, step.factors.radius), self.halves[number],
                self.of_kernels[number], strict=True,
            )  # fmt: skip
            half_shift, half_radius = (self._through_convolution(step.factors, number > 0, *side) for side in sides)

    def _through_convolution(
        self, factors: Factors, wanted: bool, gradient: Tensor, values: Tensor, half: Tensor, total: Tensor
    ) -> Tensor | None:
        """Half the gradient of the `values` that were multiplied, if it is wanted; that of the weights is added."""
        layer = factors.kernel.layer
        of_values, of_weights, _ = torch.ops.aten.convolution_backward(
            gradient.to(values.dtype), values, half, None, layer.stride, factors.padding, layer.dilation, False,
            (0, 0), layer.groups, (wanted, True, False),
        )  # fmt: skip
        total += of_weights
        return padded(of_values.to(gradient.dtype), [-count for count in factors.beside]) if wanted else None

    @torch.no_grad()
    def of(self, parameters: list[Tensor]) -> list[Tensor]:
        """The gradients of these parameters, once nothing more is added."""
        bounds, found = self.bounds, dict(self.of_rest)
        for kernel, (of_weight, of_sizes) in zip(bounds.kernels, self.of_kernels, strict=True):
            found[kernel.layer.weight] = of_weight + of_sizes * kernel.layer.weight.sign()
        of_weight, of_sizes = self.of_linear
        of_weight.addcmul_(of_sizes, bounds.weights_by_pixel[0].sign().to(of_sizes.dtype))
        found[bounds.linear.weight] = of_weight.permute(0, 3, 1, 2).flatten(1)
        outputs = [*(clean.rows for clean in bounds.clean), bounds.clean_linear]
        totals = [*self.of_clean, self.of_clean_linear]
        through_clean = torch.autograd.grad(outputs, parameters, totals, allow_unused=True)
        return [
            found.get(parameter, 0) + (0 if clean is None else clean)
            for parameter, clean in zip(parameters, through_clean, strict=True)
        ]
