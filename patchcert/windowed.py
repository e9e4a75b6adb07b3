"""The base classifier on ablated images, computed only where they differ from the empty image.

An ablated image is zero (the empty image) outside its windows, the rectangles that its mask shows. Every
activation therefore equals the empty image's outside the windows' growing reach, and only the part inside has
to be computed. `WindowedNetwork` traces a convolutional network once (torch.fx), evaluates the empty image
once, and plans for each ablation which part of which layer it computes.

A convolution is linear: its output is that of the window alone, with zeros around it, plus what the empty
activation around the window contributes. The latter is the same for every image and is added as a constant
(the offset), so no multiplication is spent on a pixel outside the window.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from patchcert.ablation import Ablation
from patchcert.errors import UsageError

KEPT_BYTES = 1 << 30
"""Plans are kept for the next batch while their constants fit into this; further ones are made anew each time."""


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
Parts = list[Tensor]
"""What is computed of an activation: one (N, C, h, w) tensor for each of its windows."""


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


def _whole(maps: Tensor) -> Window:
    return Window(0, maps.shape[2], 0, maps.shape[3])


def _disjoint(windows: Iterable[Window], image: Callable[[Window], Window] = lambda window: window) -> Windows:
    """The windows, joined until their images under `image` are disjoint; those with an empty image are left out."""
    windows = tuple(w for w in dict.fromkeys(windows) if not image(w).empty)
    for one, other in combinations(windows, 2):
        if not image(one).common(image(other)).empty:
            rest = (w for w in windows if w not in (one, other))
            return _disjoint((*rest, one.around(other)), image)
    return windows


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
        paste = _paste(self.empties[0], windows[0], (_whole(self.empties[0]),))
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
        targets = [_disjoint(window for of_input in windows for window in of_input)] * len(windows)
        if len({empty.shape[2:] for empty in self.empties}) > 1:
            targets = [(_whole(empty),) for empty in self.empties]
        pastes = list(map(_paste, self.empties, windows, targets))

        def run(count: int, *inputs: Parts) -> Parts:
            pasted = [paste(count, parts) for paste, parts in zip(pastes, inputs, strict=True)]
            return [self.function(*parts) for parts in zip(*pasted, strict=True)]

        return Planned(max(targets), run)


class Sum(Layer):
    """The sum of two maps. What the second is around its windows is added as a constant."""

    def planned(self, *windows: Windows | None) -> Planned:
        into, added = windows
        targets = _disjoint((*into, *added))
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
        inputs = _disjoint(windows[0], self.sliding.reached)
        outputs = tuple(self.sliding.reached(window) for window in inputs)
        reads = [self.sliding.read(output) for output in outputs]
        inside = tuple(read.common(_whole(self.empties[0])) for read in reads)
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
        inputs = _disjoint(windows[0], self.sliding.reached)
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
        inside = self.sliding.read(output).common(_whole(self.empties[0]))
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
    """A linear layer with the weight (K, C, H, W) on flattened maps: the windows' share, and a constant for the rest."""

    def __init__(self, empty: Tensor, weight: Tensor, bias: Tensor | None):
        super().__init__([empty], lambda maps: F.linear(maps.flatten(1), weight.flatten(1), bias))
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


@dataclass(frozen=True)
class Value:
    """A value of the traced network.

    Attributes:
        step: the step that computes it; 0 is the image.
        empty: what it is for the empty image.
        is_map: whether it is an activation map, of which only windows are computed.
    """

    step: int
    empty: Any
    is_map: bool


@dataclass
class Step:
    """A layer and the steps whose results it reads."""

    layer: Layer
    inputs: tuple[int, ...]
    last_reads: set[int] = field(default_factory=set)  # inputs that no later step reads


class _Translator(fx.Interpreter):
    """Runs a traced network on the empty image and writes down its steps.

    Args:
        turned: whether rows and columns are exchanged in every map.
    """

    def __init__(self, network: fx.GraphModule, turned: bool):
        super().__init__(network)
        self.turned = turned
        self.steps: list[Step] = []
        self.extra_traceback = False
        self.writing = [name for name, module in network.named_modules() if getattr(module, "inplace", False)]
        for name in self.writing:
            network.get_submodule(name).inplace = False

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        return super().run_node(n)

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Value:
        module = self.fetch_attr(target)
        return self._operation(type(module).__name__, module, args, kwargs, target in self.writing)

    def call_function(self, target: Callable, args: tuple, kwargs: dict) -> Value:
        name = IN_PLACE.get(target.__name__, target.__name__)
        function = {"add": torch.add, "mul": torch.mul, "sub": torch.sub, "truediv": torch.div}.get(name, target)
        return self._operation(name, function, args, kwargs, name != target.__name__)

    def call_method(self, target: str, args: tuple, kwargs: dict) -> Value:
        name = target.rstrip("_")
        return self._operation(name, lambda x, *a, **k: getattr(x, name)(*a, **k), args, kwargs, name != target)

    def _operation(self, name: str, function: Callable, args: tuple, kwargs: dict, writes: bool) -> Value:
        """Record an operation; where it `writes` into its input, later readers of that input get its output."""
        writes |= kwargs.get("inplace", False)
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        if not any(value.is_map for value in _values_in((args, kwargs))):
            result = self.layer(Ordinary, function, *args, **kwargs)
        elif name in RULES:
            result = RULES[name](self, function, *args, **kwargs)
        else:
            raise _unknown(name)
        if writes:
            self.env[self.node.all_input_nodes[0]] = result
        return result

    def record(self, layer: Layer, *values: Value) -> Value:
        """Add the layer as the next step."""
        self.steps.append(Step(layer, tuple(value.step for value in values)))
        return Value(len(self.steps), layer.output, not isinstance(layer, Ordinary | Flatten | Shape | Linear))

    def layer(self, kind: type[Layer], function: Callable, *args: Any, **kwargs: Any) -> Value:
        """Record a layer that applies the function to the values among its arguments, the rest being fixed."""
        values = _values_in((args, kwargs))

        def call(*inputs: Any) -> Any:
            given = iter(inputs)
            args_given, kwargs_given = fx.node.map_aggregate(
                (args, kwargs), lambda a: next(given) if isinstance(a, Value) else a
            )
            return function(*args_given, **kwargs_given)

        return self.record(kind([value.empty for value in values], call), *values)

    def pair(self, value: int | Sequence[int]) -> tuple[int, int]:
        """What is given for height and width, as (rows, columns)."""
        height, width = value if isinstance(value, Sequence) else (value, value)
        return (width, height) if self.turned else (height, width)

    def module_of(self, node: fx.Node) -> type | None:
        return type(self.fetch_attr(node.target)) if node.op == "call_module" else None

    def upright(self, maps: Tensor) -> Tensor:
        return maps.transpose(2, 3) if self.turned else maps


def _values_in(arguments: Any) -> list[Value]:
    values: list[Value] = []
    fx.node.map_aggregate(arguments, lambda a: values.append(a) if isinstance(a, Value) else None)
    return values


def _unknown(what: str) -> UsageError:
    return UsageError("engine", "windowed", f"the network uses {what}, which it cannot do; --engine dense always works")


def _unchanged(translator: _Translator, function: Callable, value: Value, *args: Any, **kwargs: Any) -> Value:
    return value


def _pointwise(translator: _Translator, function: Callable, *args: Any, **kwargs: Any) -> Value:
    return translator.layer(Pointwise, function, *args, **kwargs)


def _relu(translator: _Translator, function: Callable, value: Value, *args: Any) -> Value:
    return translator.record(Pointwise([value.empty], torch.relu), value)


def _convolution(translator: _Translator, module: nn.Conv2d, value: Value) -> Value:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise _unknown(f"a convolution with {module.padding_mode} padding {module.padding}")
    kernel = Kernel(*map(translator.pair, (module.kernel_size, module.stride, module.padding, module.dilation)))
    weight = translator.upright(module.weight)
    return translator.record(Convolution(value.empty, weight, module.bias, kernel, module.groups), value)


def _batch_norm(translator: _Translator, module: nn.BatchNorm2d, value: Value) -> Value:
    """Folded into the convolution before it, if nothing else reads that."""
    before = translator.node.all_input_nodes[0]
    if len(before.users) > 1 or translator.module_of(before) is not nn.Conv2d:
        return _pointwise(translator, module, value)
    step = translator.steps[value.step - 1]
    step.layer = step.layer.followed_by(module)
    return Value(value.step, step.layer.output, True)


def _arithmetic(translator: _Translator, function: Callable, one: Any, other: Any, **kwargs: Any) -> Value:
    """With a number: on each pixel. With another map: a sum, or pixel by pixel."""
    values = _values_in((one, other))
    if len(values) == 1:
        return _pointwise(translator, function, one, other, **kwargs)
    if not all(value.is_map for value in values):
        raise _unknown(f"{function.__name__} of an activation map and another tensor")
    same_size = one.empty.shape == other.empty.shape
    kind = Sum if function is torch.add and same_size and not kwargs else Joint
    return translator.layer(kind, function, one, other, **kwargs)


def _concatenation(translator: _Translator, function: Callable, tensors: Sequence[Value], dim: int = 0) -> Value:
    if dim not in (1, -3):
        raise _unknown(f"a concatenation along dimension {dim}")
    return translator.layer(Joint, torch.cat, tensors, dim=1)


def _max_pool(
    translator: _Translator,
    function: Callable,
    value: Value,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    kernel = Kernel(*map(translator.pair, (kernel_size, stride or kernel_size, padding, dilation)))
    unpadded = partial(F.max_pool2d, kernel_size=kernel.size, stride=kernel.stride, dilation=kernel.dilation)
    whole = partial(unpadded, padding=kernel.padding, ceil_mode=ceil_mode)
    return translator.record(Pool(value.empty, whole, unpadded, kernel, float("-inf")), value)


def _average_pool(
    translator: _Translator,
    function: Callable,
    value: Value,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    kernel = Kernel(*map(translator.pair, (kernel_size, stride or kernel_size, padding)))
    if ceil_mode or divisor_override or (any(kernel.padding) and not count_include_pad):
        raise _unknown("an average pooling that does not divide by the size of its kernel")
    unpadded = partial(F.avg_pool2d, kernel_size=kernel.size, stride=kernel.stride)
    whole = partial(unpadded, padding=kernel.padding)
    return translator.record(Pool(value.empty, whole, unpadded, kernel, 0), value)


def _adaptive_average_pool(translator: _Translator, function: Callable, value: Value, output_size: Any) -> Value:
    size = translator.upright(value.empty).shape[2:]
    asked = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    pieces = [whole if piece is None else piece for piece, whole in zip(asked, size, strict=True)]
    if any(whole % piece for piece, whole in zip(pieces, size, strict=True)):
        raise _unknown(f"an adaptive pooling from {tuple(size)} to {tuple(pieces)}")
    kernel = tuple(whole // piece for piece, whole in zip(pieces, size, strict=True))
    return _average_pool(translator, F.avg_pool2d, value, kernel)


def _mean(translator: _Translator, function: Callable, value: Value, dim: Any = None, keepdim: bool = False) -> Value:
    if dim is None or {axis % 4 for axis in dim} != {2, 3}:
        raise _unknown(f"a mean over dimensions {dim}")
    pooled = _adaptive_average_pool(translator, function, value, 1)
    return pooled if keepdim else translator.record(Flatten([pooled.empty], lambda maps: maps.flatten(1)), pooled)


def _reshape(translator: _Translator, function: Callable, value: Value, *args: Any, **kwargs: Any) -> Value:
    """Flattening; it is left to the linear layers behind, if only they read it."""
    flatten = Flatten([value.empty], lambda maps: translator.upright(maps).flatten(1))
    sizes = fx.node.map_aggregate((args, kwargs), lambda a: a.empty if isinstance(a, Value) else a)
    if function(translator.upright(value.empty), *sizes[0], **sizes[1]).shape != flatten.output.shape:
        raise _unknown("a reshaping of activation maps that does not flatten them")
    users = map(translator.module_of, translator.node.users)
    return value if all(user is nn.Linear for user in users) else translator.record(flatten, value)


def _linear(translator: _Translator, module: nn.Linear, value: Value) -> Value:
    maps = translator.upright(value.empty)
    if module.in_features != maps[0].numel():
        raise _unknown("a linear layer on an activation map that is not flattened")
    weight = translator.upright(module.weight.view(-1, *maps.shape[1:]))
    return translator.record(Linear(value.empty, weight, module.bias), value)


def _shape(translator: _Translator, function: Callable, value: Value, *args: Any) -> Value:
    return translator.record(Shape([value.empty], lambda maps: function(translator.upright(maps), *args)), value)


def _module(rule: Callable, translator: _Translator, module: nn.Module, value: Value) -> Value:
    """The rule for a function, with the module's attributes as its arguments."""
    return rule(translator, module, value, **{name: getattr(module, name) for name in module.__constants__})


RULES: dict[str, Callable[..., Value]] = {
    **dict.fromkeys("Dropout Dropout2d Identity contiguous dropout dropout2d".split(), _unchanged),
    **dict.fromkeys("ELU GELU Hardsigmoid Hardswish Hardtanh LeakyReLU Mish ReLU6 SELU SiLU".split(), _pointwise),
    **dict.fromkeys("elu gelu hardsigmoid hardswish hardtanh leaky_relu mish relu6 selu silu".split(), _pointwise),
    **dict.fromkeys("Sigmoid Softplus Tanh neg sigmoid softplus tanh".split(), _pointwise),
    **dict.fromkeys("Flatten flatten reshape view".split(), _reshape),
    **dict.fromkeys("add mul sub truediv".split(), _arithmetic),
    **dict.fromkeys(("size", "getattr"), _shape),
    **dict.fromkeys(("ReLU", "relu"), _relu),
    "Conv2d": _convolution,
    "BatchNorm2d": _batch_norm,
    "Linear": _linear,
    "cat": _concatenation,
    "mean": _mean,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_average_pool,
    "MaxPool2d": partial(_module, _max_pool),
    "AvgPool2d": partial(_module, _average_pool),
    "AdaptiveAvgPool2d": partial(_module, _adaptive_average_pool),
}
IN_PLACE = {"iadd": "add", "imul": "mul", "isub": "sub", "itruediv": "truediv", "relu_": "relu"}


@dataclass
class Plan:
    """What is computed for one ablation: the steps' functions, the size of what they hold, and their cost per image."""

    runs: dict[int, Callable[..., Any]]
    bytes: int
    multiply_adds: int


class WindowedNetwork:
    """A base classifier that computes on each ablated image only what differs from the empty image.

    Args:
        network: a convolutional network (N, channels, H, W) → (N, K); it is copied.
        ablation: which pixels the ablated images show.
        channels: the network's input channels, 2C.

    Raises:
        UsageError: the network does something that cannot be evaluated in windows.
    """

    @torch.inference_mode()
    def __init__(self, network: nn.Module, ablation: Ablation, channels: int):
        self.ablation = ablation
        first = windows_of(ablation.masks(torch.tensor([0]))[0])[0]
        self.turned = first.bottom - first.top > first.right - first.left  # whole rows lie together in memory
        parameter = next(network.parameters())
        self.dtype = parameter.dtype
        empty = parameter.new_zeros(1, channels, ablation.height, ablation.width)
        self.steps = self._translated(network, self._laid_out(empty))
        self._note_readers()
        self.plans: dict[int, Plan] = {}
        self.kept_bytes = 0

    @torch.inference_mode()
    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """(N, A', K): the network's outputs for images (N, 2C, H, W) under the ablations `indices` (A',)."""
        images = self._laid_out(images.to(self.dtype))
        return torch.stack([self._run(self._plan(index), images) for index in indices.tolist()], dim=1)

    def multiply_adds(self, indices: Tensor) -> int:
        """Of all convolutions, and of the linear layers on maps, for one image under the ablations `indices`."""
        return sum(self._plan(index).multiply_adds for index in indices.tolist())

    def _laid_out(self, images: Tensor) -> Tensor:
        """Images (N, 2C, H, W) in the rows, columns and memory order in which the steps work."""
        turned = images.transpose(2, 3) if self.turned else images
        return turned.contiguous(memory_format=torch.channels_last)

    def _mask(self, index: int) -> Tensor:
        """(rows, columns) bool: what the ablation shows."""
        mask = self.ablation.masks(torch.tensor([index]))[0]
        return mask.T if self.turned else mask

    def _translated(self, network: nn.Module, empty: Tensor) -> dict[int, Step]:
        """The steps that the network's output depends on, in order."""
        try:
            traced = fx.symbolic_trace(copy.deepcopy(network).eval())
        except Exception as error:
            raise _unknown(f"Python that torch.fx cannot trace ({error})") from error
        translator = _Translator(traced, self.turned)
        output = translator.run(Value(0, empty, True))
        if output.is_map:
            raise _unknown("an activation map as its output")
        needed = {output.step}
        for number in range(output.step, 0, -1):
            needed.update(translator.steps[number - 1].inputs if number in needed else ())
        return {number: translator.steps[number - 1] for number in sorted(needed - {0})}

    def _note_readers(self) -> None:
        """Tell the steps which values may be overwritten and which are not needed after them."""
        readers = {}
        for number, step in self.steps.items():
            for i in step.inputs:
                readers.setdefault(i, []).append(number)
        for number, step in self.steps.items():
            step.layer.overwrites = step.inputs[0] != 0 and readers[step.inputs[0]] == [number]
            step.last_reads = {i for i in step.inputs if readers[i][-1] == number}

    def _plan(self, index: int) -> Plan:
        """The plan for the ablation `index`, kept if there is room."""
        if index in self.plans:
            return self.plans[index]
        plan = self._planned(windows_of(self._mask(index)))
        if self.kept_bytes + plan.bytes <= KEPT_BYTES:
            self.plans[index] = plan
            self.kept_bytes += plan.bytes
        return plan

    def _planned(self, shown: Windows) -> Plan:
        layers: dict[int, Planned] = {0: Planned(shown, lambda count, images: [w.of(images) for w in shown])}
        for number, step in self.steps.items():
            layers[number] = step.layer.planned(*(layers[i].windows for i in step.inputs))
        constants = [constant for layer in layers.values() for constant in layer.constants]
        return Plan(
            {number: layer.run for number, layer in layers.items()},
            sum(constant.nbytes for constant in constants),
            sum(layer.multiply_adds for layer in layers.values()),
        )

    def _run(self, plan: Plan, images: Tensor) -> Tensor:
        """(N, K): the network's outputs for images as `_laid_out` gives them."""
        values: dict[int, Any] = {0: plan.runs[0](len(images), images)}
        for number, step in self.steps.items():
            values[number] = plan.runs[number](len(images), *(values[i] for i in step.inputs))
            for i in step.last_reads:
                del values[i]
        return values[number]
