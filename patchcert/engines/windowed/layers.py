"""What each kind of layer computes where an ablated image differs from the empty one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from patchcert.engines.windowed.geometry import Kernel, Sliding, Window, Windows, disjoint, whole

Parts = list[Tensor]
"""What is computed of an activation: one (N, C, h, w) tensor for each of its windows."""


@dataclass
class Planned:
    """One layer for one ablation.

    Attributes:
        windows: where its output differs from the empty image's; None if the output is no activation map.
        run: (N, *inputs) → output; activation maps are Parts.
        constants: what is held for later runs.
        multiply_adds: per image.
    """

    windows: Windows | None
    run: Callable[..., Any]
    constants: Sequence[Tensor] = ()
    multiply_adds: int = 0


class Layer:
    """One operation of the network, and its result for the empty image.

    Args:
        empties: the operation's inputs for the empty image; activation maps are (1, C, H, W).
        function: the ordinary operation.
    """

    def __init__(self, empties: Sequence[Any], function: Callable[..., Any]):
        self.empties, self.function = empties, function
        self.output = function(*empties)
        self.overwrites = False  # set if nothing else reads its first input

    def planned(self, *windows: Windows | None) -> Planned:
        """The layer for inputs that differ from `empties` in `windows`."""
        raise NotImplementedError


class Ordinary(Layer):
    """An operation behind the last activation map: it runs as it is."""

    def planned(self, *windows: Windows | None) -> Planned:
        return Planned(None, lambda count, *inputs: self.function(*inputs))


class Shape(Layer):
    """A question about the shape of a map."""

    def planned(self, *windows: Windows | None) -> Planned:
        return Planned(None, lambda count, parts: self.function(self.empties[0].expand(count, -1, -1, -1)))


class Flatten(Layer):
    """Whole maps as vectors (N, C·H·W)."""

    def planned(self, *windows: Windows | None) -> Planned:
        paste = _paste(self.empties[0], windows[0], (whole(self.empties[0]),))
        return Planned(None, lambda count, parts: self.function(*paste(count, parts)))


class Pointwise(Layer):
    """An operation on each pixel alone: an activation function, batch norm, arithmetic with a number."""

    def planned(self, *windows: Windows | None) -> Planned:
        function = torch.relu_ if self.overwrites and self.function is torch.relu else self.function
        return Planned(windows[0], lambda count, parts: [function(part) for part in parts])


class Joint(Layer):
    """An operation on each pixel of several maps: a product, a concatenation of channels.

    Maps of one pixel apply to every pixel of the others; then the whole output differs.
    """

    def planned(self, *windows: Windows | None) -> Planned:
        changed = disjoint(window for of_input in windows for window in of_input)
        targets = [changed for _ in windows]
        if len({empty.shape[2:] for empty in self.empties}) > 1:
            changed = (whole(self.output),)
            targets = [(whole(empty),) for empty in self.empties]
        pastes = list(map(_paste, self.empties, windows, targets))

        def run(count: int, *inputs: Parts) -> Parts:
            pasted = [paste(count, parts) for paste, parts in zip(pastes, inputs, strict=True)]
            return [self.function(*parts) for parts in zip(*pasted, strict=True)]

        return Planned(changed, run)


class Sum(Layer):
    """The sum of two maps. What the second is around its windows is added as a constant."""

    def planned(self, *windows: Windows | None) -> Planned:
        into, added = windows
        targets = disjoint((*into, *added))
        paste = _paste(self.empties[0], into, targets)
        rest = _without(self.empties[1], added)
        around = [None if target in added else target.of(rest).clone() for target in targets]
        add = Tensor.add_ if self.overwrites else torch.add

        def total(target: Window, constant: Tensor | None, part: Tensor, others: Parts) -> Tensor:
            if constant is None:
                return add(part, others[added.index(target)])
            part = add(part, constant)
            for window, other in zip(added, others, strict=True):
                if not window.common(target).empty:
                    window.seen_from(target).of(part).add_(other)
            return part

        def run(count: int, one: Parts, other: Parts) -> Parts:
            pasted = zip(targets, around, paste(count, one), strict=True)
            return [total(target, constant, part, other) for target, constant, part in pasted]

        return Planned(targets, run, [constant for constant in around if constant is not None])


class Pool(Layer):
    """Maximum or average over the pixels under a kernel, read with their context.

    Args:
        unpadded: the operation without its padding.
        outside: what padding counts as: −∞ for a maximum, 0 for an average.
    """

    def __init__(self, empty: Tensor, function: Callable, unpadded: Callable, kernel: Kernel, outside: float):
        super().__init__([empty], function)
        self.unpadded, self.outside = unpadded, outside
        self.sliding = Sliding(kernel, empty, self.output)

    def planned(self, *windows: Windows | None) -> Planned:
        inputs = disjoint(windows[0], self.sliding.reached)
        outputs = tuple(self.sliding.reached(window) for window in inputs)
        reads = [self.sliding.read(output) for output in outputs]
        inside = tuple(read.common(whole(self.empties[0])) for read in reads)
        pads = [_margins(window, read) for window, read in zip(inside, reads, strict=True)]
        paste = _paste(self.empties[0], windows[0], inside)

        def run(count: int, parts: Parts) -> Parts:
            padded = zip(paste(count, parts), pads, strict=True)
            return [self.unpadded(_pad(part, pad, self.outside)) for part, pad in padded]

        return Planned(outputs, run)


class Convolution(Layer):
    """A convolution of maps, with the weight (C', C / groups, h, w) and the bias (C',)."""

    def __init__(self, empty: Tensor, weight: Tensor, bias: Tensor | None, kernel: Kernel, groups: int):
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias, self.kernel, self.groups = bias, kernel, groups
        super().__init__([empty], lambda maps: self._convolve(maps, kernel.padding, bias))
        self.sliding = Sliding(kernel, empty, self.output)

    def followed_by(self, norm: nn.BatchNorm2d) -> "Convolution":
        """This convolution and the batch norm behind it as one convolution."""
        weight, bias = fuse_conv_bn_weights(
            self.weight, self.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        return Convolution(self.empties[0], weight.detach(), bias.detach(), self.kernel, self.groups)

    def planned(self, *windows: Windows | None) -> Planned:
        inputs = disjoint(windows[0], self.sliding.reached)
        outputs = tuple(self.sliding.reached(window) for window in inputs)
        paste = _paste(self.empties[0], windows[0], inputs)
        offsets = [self._offset(window, output) for window, output in zip(inputs, outputs, strict=True)]

        def run(count: int, parts: Parts) -> Parts:
            known = zip(inputs, outputs, offsets, paste(count, parts), strict=True)
            return [self._part(*one) for one in known]

        taps = sum(self.sliding.taps(window) for window in inputs)
        multiply_adds = taps * self.weight[:, :, 0, 0].numel()
        return Planned(outputs, run, [offset for offset in offsets if offset is not None], multiply_adds)

    def _offset(self, window: Window, output: Window) -> Tensor | None:
        """(1, C', h', w'): what bias and the empty activation around `window` contribute; None if only the bias."""
        inside = self.sliding.read(output).common(whole(self.empties[0]))
        if window.common(inside) == inside:
            return None
        rest = inside.of(_without(self.empties[0], (window,)))
        return self._zeros_around(inside, output, rest, self.bias)

    def _part(self, window: Window, output: Window, offset: Tensor | None, part: Tensor) -> Tensor:
        if offset is None:
            return self._zeros_around(window, output, part, self.bias)
        return self._zeros_around(window, output, part, None).add_(offset)

    def _zeros_around(self, window: Window, output: Window, part: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution at `output` of the part in `window` with zeros around it.

        What is the same on both sides is left to the convolution's own padding, which costs no multiplications.
        """
        left, right, top, bottom = _margins(window, self.sliding.read(output))
        extents = [d * (k - 1) for d, k in zip(self.kernel.dilation, self.kernel.size, strict=True)]
        rows, columns = (
            max(0, min(*margins, extent))
            for margins, extent in zip(((top, bottom), (left, right)), extents, strict=True)
        )
        part = _pad(part, (left - columns, right - columns, top - rows, bottom - rows), 0)
        return self._convolve(part, (rows, columns), bias)

    def _convolve(self, maps: Tensor, padding: tuple[int, int], bias: Tensor | None) -> Tensor:
        kernel = self.kernel
        return F.conv2d(maps, self.weight, bias, kernel.stride, padding, kernel.dilation, self.groups)


class Linear(Layer):
    """A linear layer, weight (K, C, H, W), on flattened maps: the windows' share and a constant for the rest."""

    def __init__(self, empty: Tensor, weight: Tensor, bias: Tensor | None):
        flat = weight.flatten(1)  # once: of weights in channels-last order this is a copy
        super().__init__([empty], lambda maps: F.linear(maps.flatten(1), flat, bias))
        self.by_pixel = weight.permute(2, 3, 1, 0).contiguous()  # (H, W, C, K)

    def planned(self, *windows: Windows | None) -> Planned:
        offset = self.function(_without(self.empties[0], windows[0]))  # (1, K)
        pieces = [self._in_memory_order(window) for window in windows[0]]

        def run(count: int, parts: Parts) -> Tensor:
            total = offset.expand(count, -1)
            for part, piece in zip(parts, pieces, strict=True):
                for rows, weight in piece:
                    pixels = part[:, :, rows].permute(0, 2, 3, 1).flatten(1)  # (N, h·w·C)
                    total = torch.addmm(total, pixels, weight)
            return total

        pixels = sum((w.bottom - w.top) * (w.right - w.left) for w in windows[0])
        return Planned(None, run, [offset], pixels * self.by_pixel[0, 0].numel())

    def _in_memory_order(self, window: Window) -> list[tuple[slice, Tensor]]:
        """The window's rows and their weights (h·w·C, K), in as few pieces as need no copy of the weights."""
        height, (_, width, _, outputs) = window.bottom - window.top, self.by_pixel.shape
        step = height if window.right - window.left == width else 1
        return [
            (
                slice(row - window.top, row - window.top + step),
                self.by_pixel[row : row + step, window.left : window.right].reshape(-1, outputs),
            )
            for row in range(window.top, window.bottom, step)
        ]


def _paste(empty: Tensor, windows: Windows, targets: Windows) -> Callable[[int, Parts], Parts]:
    """A function (N, parts in `windows`) → parts in `targets`: the empty activation where no part lies."""
    return lambda count, parts: [_pasted(empty, windows, target, count, parts) for target in targets]


def _pasted(empty: Tensor, windows: Windows, target: Window, count: int, parts: Parts) -> Tensor:
    if target in windows:
        return parts[windows.index(target)]
    canvas = target.of(empty).expand(count, -1, -1, -1).clone(memory_format=torch.channels_last)
    for window, part in zip(windows, parts, strict=True):
        seen = window.common(target)
        if not seen.empty:
            seen.seen_from(target).of(canvas).copy_(seen.seen_from(window).of(part))
    return canvas


def _without(empty: Tensor, windows: Windows) -> Tensor:
    """The empty activation with zeros in `windows`."""
    rest = empty.clone()
    for window in windows:
        window.of(rest).zero_()
    return rest


def _margins(window: Window, outer: Window) -> tuple[int, int, int, int]:
    """How far `outer` extends beyond `window`: left, right, top, bottom, the order of `F.pad`."""
    return (
        window.left - outer.left,
        outer.right - window.right,
        window.top - outer.top,
        outer.bottom - window.bottom,
    )


def _pad(part: Tensor, margins: tuple[int, int, int, int], value: float) -> Tensor:
    """The part with margins of `value`; a negative margin cuts off."""
    return F.pad(part, margins, value=value) if any(margins) else part
