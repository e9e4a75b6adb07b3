"""From a network to its layers: a torch.fx trace, interpreted on the empty image.

Layers and functions have rules by what they are, not by what they are called: `torch.ao.nn.qat.Conv2d`, as any subclass
of `nn.Conv2d`, is another layer, and a user's own `relu` another function.
"""

import builtins
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from patchcert.engines.windowed.layers import (
    Convolution,
    Flatten,
    Joint,
    Kernel,
    Layer,
    Linear,
    Ordinary,
    Pointwise,
    Pool,
    Shape,
    Sum,
)
from patchcert.engines.windowed.traces import BeyondWindowsError

Operation = type[nn.Module] | Callable | str
"""The class of a layer, a function, or the name of a method of tensors."""


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


class Translator(fx.Interpreter):
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
        return self._operation(type(module), module, args, kwargs, target in self.writing)

    def call_function(self, target: Callable, args: tuple, kwargs: dict) -> Value:
        function = IN_PLACE.get(target, target)
        return self._operation(function, function, args, kwargs, function is not target)

    def call_method(self, target: str, args: tuple, kwargs: dict) -> Value:
        name = target.rstrip("_")
        return self._operation(name, lambda x, *a, **k: getattr(x, name)(*a, **k), args, kwargs, name != target)

    def _operation(self, what: Operation, function: Callable, args: tuple, kwargs: dict, writes: bool) -> Value:
        """Record an operation; where it `writes` into its input, later readers of that input get its output."""
        writes |= kwargs.get("inplace", False)
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        if not any(value.is_map for value in _values_in((args, kwargs))):
            result = self.layer(Ordinary, function, *args, **kwargs)
        elif what not in RULES:
            raise BeyondWindowsError(_name_of(what))
        elif _holds_tensors((args, kwargs)):
            raise BeyondWindowsError(f"{_name_of(what)} of an activation map and a tensor of its own")
        else:
            result = RULES[what](self, function, *args, **kwargs)
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


def _holds_tensors(arguments: Any) -> bool:
    found: list[Tensor] = []
    fx.node.map_aggregate(arguments, lambda a: found.append(a) if isinstance(a, Tensor) else None)
    return bool(found)


def _name_of(what: Operation) -> str:
    """As it is called, and where it comes from unless that is `torch.nn`, or a method of tensors."""
    name = what if isinstance(what, str) else what.__name__
    known = isinstance(what, str) or getattr(nn, name, None) is what
    return name if known else f"{what.__module__}.{name}"


def _values_in(arguments: Any) -> list[Value]:
    values: list[Value] = []
    fx.node.map_aggregate(arguments, lambda a: values.append(a) if isinstance(a, Value) else None)
    return values


def _unchanged(translator: Translator, function: Callable, value: Value, *args: Any, **kwargs: Any) -> Value:
    return value


def _pointwise(translator: Translator, function: Callable, *args: Any, **kwargs: Any) -> Value:
    if len(_values_in((args, kwargs))) > 1:
        raise BeyondWindowsError("an operation whose bounds or slopes are computed from its own input")
    return translator.layer(Pointwise, function, *args, **kwargs)


def _relu(translator: Translator, function: Callable, value: Value, *args: Any) -> Value:
    return translator.record(Pointwise([value.empty], torch.relu), value)


def _convolution(translator: Translator, module: nn.Conv2d, value: Value) -> Value:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise BeyondWindowsError(f"a convolution with {module.padding_mode} padding {module.padding}")
    kernel = Kernel(*map(translator.pair, (module.kernel_size, module.stride, module.padding, module.dilation)))
    weight = translator.upright(module.weight)
    return translator.record(Convolution(value.empty, weight, module.bias, kernel, module.groups), value)


def _batch_norm(translator: Translator, module: nn.BatchNorm2d, value: Value) -> Value:
    """Folded into the convolution before it, if nothing else reads that."""
    if module.running_mean is None:
        raise BeyondWindowsError("batch norm without running statistics")
    before = translator.node.all_input_nodes[0]
    if len(before.users) > 1 or translator.module_of(before) is not nn.Conv2d:
        return _pointwise(translator, module, value)
    step = translator.steps[value.step - 1]
    step.layer = step.layer.followed_by(module)
    return Value(value.step, step.layer.output, True)


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    """The rule for `operation`: with a number, on each pixel; with another map, a sum or pixel by pixel."""

    def rule(translator: Translator, function: Callable, one: Any, other: Any, **kwargs: Any) -> Value:
        values = _values_in((one, other))
        if kwargs or not all(value.is_map for value in values) or not all(map(_known_operand, (one, other))):
            what = f"{operation.__name__} of an activation map and something else than a number or a map"
            raise BeyondWindowsError(what)
        if len(values) == 1:
            return translator.layer(Pointwise, operation, one, other)
        same_size = one.empty.shape == other.empty.shape
        return translator.layer(Sum if operation is operator.add and same_size else Joint, operation, one, other)

    return rule


def _known_operand(operand: Any) -> bool:
    return isinstance(operand, Value | int | float)


def _concatenation(translator: Translator, function: Callable, tensors: Sequence[Value], dim: int = 0) -> Value:
    if dim not in (1, -3):
        raise BeyondWindowsError(f"a concatenation along dimension {dim}")
    return translator.layer(Joint, torch.cat, tensors, dim=1)


def _max_pool(
    translator: Translator,
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
    padded = partial(unpadded, padding=kernel.padding, ceil_mode=ceil_mode)
    return translator.record(Pool(value.empty, padded, unpadded, kernel, float("-inf")), value)


def _average_pool(
    translator: Translator,
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
        raise BeyondWindowsError("an average pooling that does not divide by the size of its kernel")
    unpadded = partial(F.avg_pool2d, kernel_size=kernel.size, stride=kernel.stride)
    padded = partial(unpadded, padding=kernel.padding)
    return translator.record(Pool(value.empty, padded, unpadded, kernel, 0), value)


def _adaptive_average_pool(translator: Translator, function: Callable, value: Value, output_size: Any) -> Value:
    size = translator.upright(value.empty).shape[2:]
    asked = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    pieces = [whole if piece is None else piece for piece, whole in zip(asked, size, strict=True)]
    if any(whole % piece for piece, whole in zip(pieces, size, strict=True)):
        raise BeyondWindowsError(f"an adaptive pooling from {tuple(size)} to {tuple(pieces)}")
    kernel = tuple(whole // piece for piece, whole in zip(pieces, size, strict=True))
    return _average_pool(translator, F.avg_pool2d, value, kernel)


def _mean(translator: Translator, function: Callable, value: Value, dim: Any = None, keepdim: bool = False) -> Value:
    if not isinstance(dim, Sequence) or {axis % 4 for axis in dim} != {2, 3}:
        raise BeyondWindowsError(f"a mean over dimensions {dim}")
    pooled = _adaptive_average_pool(translator, function, value, 1)
    return pooled if keepdim else translator.record(Flatten([pooled.empty], lambda maps: maps.flatten(1)), pooled)


def _reshape(translator: Translator, function: Callable, value: Value, *args: Any, **kwargs: Any) -> Value:
    """Flattening; it is left to the linear layers behind, if only they read it."""
    flatten = Flatten([value.empty], lambda maps: translator.upright(maps).flatten(1))
    sizes = fx.node.map_aggregate((args, kwargs), lambda a: a.empty if isinstance(a, Value) else a)
    if function(translator.upright(value.empty), *sizes[0], **sizes[1]).shape != flatten.output.shape:
        raise BeyondWindowsError("a reshaping of activation maps that does not flatten them")
    users = map(translator.module_of, translator.node.users)
    return value if all(user is nn.Linear for user in users) else translator.record(flatten, value)


def _linear(translator: Translator, module: nn.Linear, value: Value) -> Value:
    maps = translator.upright(value.empty)
    if module.in_features != maps[0].numel():
        raise BeyondWindowsError("a linear layer on an activation map that is not flattened")
    weight = translator.upright(module.weight.view(-1, *maps.shape[1:]))
    return translator.record(Linear(value.empty, weight, module.bias), value)


def _shape(translator: Translator, function: Callable, value: Value, *args: Any) -> Value:
    return translator.record(Shape([value.empty], lambda maps: function(translator.upright(maps), *args)), value)


def _attribute(translator: Translator, function: Callable, value: Value, name: str) -> Value:
    if name not in ("shape", "ndim", "dtype", "device"):
        raise BeyondWindowsError(f"the attribute {name} of an activation map")
    return _shape(translator, function, value, name)


def _module(rule: Callable, translator: Translator, module: nn.Module, value: Value) -> Value:
    """The rule for a function, with the module's attributes as its arguments."""
    return rule(translator, module, value, **{name: getattr(module, name) for name in module.__constants__})


def _dropout(translator: Translator, function: Callable, value: Value, p: float = 0.5, training: bool = True) -> Value:
    if training:
        raise BeyondWindowsError("dropout that goes on in evaluation mode")
    return value


def _rules(rule: Callable[..., Value], names: str) -> dict[Operation, Callable[..., Value]]:
    """The rule for all that PyTorch or Python call by one of these names: layers, functions, methods of tensors."""
    called = [getattr(home, name) for name in names.split() for home in HOMES if hasattr(home, name)]
    return dict.fromkeys([*called, *names.split()], rule)


HOMES = (nn, F, torch, operator, builtins)
RULES: dict[Operation, Callable[..., Value]] = {
    **_rules(_unchanged, "Dropout Dropout2d Identity contiguous"),
    **_rules(_dropout, "dropout dropout2d"),
    **_rules(
        _pointwise, "ELU GELU Hardsigmoid Hardswish Hardtanh LeakyReLU Mish ReLU6 SELU Sigmoid SiLU Softplus Tanh"
    ),
    **_rules(
        _pointwise, "elu gelu hardsigmoid hardswish hardtanh leaky_relu mish relu6 selu sigmoid silu softplus tanh"
    ),
    **_rules(_pointwise, "abs clamp neg"),
    **_rules(_relu, "ReLU relu"),
    **_rules(_reshape, "Flatten flatten reshape view"),
    **_rules(_attribute, "getattr"),
    **_rules(_shape, "size"),
    **_rules(_arithmetic(operator.add), "add"),
    **_rules(_arithmetic(operator.sub), "sub"),
    **_rules(_arithmetic(operator.mul), "mul"),
    **_rules(_arithmetic(operator.truediv), "div truediv"),
    **_rules(_concatenation, "cat"),
    **_rules(_mean, "mean"),
    **_rules(_max_pool, "max_pool2d"),
    **_rules(_average_pool, "avg_pool2d"),
    **_rules(_adaptive_average_pool, "adaptive_avg_pool2d"),
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.Linear: _linear,
    nn.MaxPool2d: partial(_module, _max_pool),
    nn.AvgPool2d: partial(_module, _average_pool),
    nn.AdaptiveAvgPool2d: partial(_module, _adaptive_average_pool),
}
IN_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
}
