"""Networks for evaluation alone: each normalisation is folded into the convolution before it.

Where nothing else reads what a convolution gives, convolution and normalisation are one convolution with other weights.
Which they are is read from the trace of the network's operations, and not guessed from the names of its layers.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from patchcert import networks
from patchcert.engines.windowed.traces import BeyondWindowsError, traced


class NotFoldedError(ValueError):
    """A network that stays as it is; the message says why."""


class Folded(nn.Module):
    """What a network computes, from its inputs to its outputs, with fewer operations.

    Args:
        operations: these.
        description: what the network says of itself.
    """

    def __init__(self, operations: fx.GraphModule, description: dict):
        super().__init__()
        self.operations, self.description = operations, description
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        return self.operations.forward(*inputs)  # to call the module would print its code where it fails


@torch.no_grad()
def folded(network: nn.Module) -> Folded:
    """A copy of `network`, with the same outputs up to rounding.

    Raises:
        NotFoldedError: nothing of it can be folded, or its operations are not known.
    """
    try:
        operations = traced(network, None)
    except BeyondWindowsError as error:
        raise NotFoldedError(f"it uses {error.what}") from error
    found = [_fold(operations, node) for node in list(operations.graph.nodes)]
    if not any(found):
        raise NotFoldedError("it has no convolution whose output only a normalisation uses")
    for node in list(operations.graph.nodes):
        if node.op == "get_attr" and not node.users:
            operations.graph.erase_node(node)
    still_read = fx.GraphModule(operations, operations.graph)  # with the weights that are, and no others
    return Folded(still_read, networks.description(network))


@dataclass(frozen=True)
class _Normalisation:
    """(x − mean) / √(variance + eps) · weight + bias, each (K,); without weight and bias where they are None."""

    mean: Tensor
    variance: Tensor
    eps: float
    weight: Tensor | None
    bias: Tensor | None

    def after(self, weight: Tensor, bias: Tensor | None) -> tuple[nn.Parameter, nn.Parameter]:
        """Weight and bias of the convolution that is this one behind another one."""
        return fuse_conv_bn_weights(weight, bias, self.mean, self.variance, self.eps, self.weight, self.bias)


def _fold(operations: fx.GraphModule, node: fx.Node) -> bool:
    """Fold `node` into the convolution before it, if it is a normalisation that alone reads one. Returns whether."""
    normalisation = _normalisation(operations, node)
    before = node.args[0] if normalisation and node.args else None
    if not isinstance(before, fx.Node) or list(before.users) != [node]:
        return False
    if before.op == "call_module" and type(operations.get_submodule(before.target)) is nn.Conv2d:
        convolution = copy.deepcopy(operations.get_submodule(before.target))  # there may be other calls of it
        convolution.weight, convolution.bias = normalisation.after(convolution.weight, convolution.bias)
        before.target = _added(operations, convolution)
    elif before.op == "call_function" and before.target is torch.conv2d and len(before.args) >= 3:
        shown, *weights = before.args[:3]
        tensors = _tensors(operations, weights)
        if tensors is None:
            return False
        with operations.graph.inserting_before(before):
            made = [operations.graph.get_attr(_added(operations, tensor)) for tensor in normalisation.after(*tensors)]
        before.args = (shown, *made, *before.args[3:])
    else:
        return False
    node.replace_all_uses_with(before)
    operations.graph.erase_node(node)
    return True


def _normalisation(operations: fx.GraphModule, node: fx.Node) -> _Normalisation | None:
    """What `node` does, if that is a normalisation by statistics that were learnt."""
    if node.op == "call_module":
        layer = operations.get_submodule(node.target)
        if type(layer) is not nn.BatchNorm2d or layer.running_mean is None:
            return None
        return _Normalisation(layer.running_mean, layer.running_var, layer.eps, layer.weight, layer.bias)
    if node.op != "call_function" or node.target is not F.batch_norm:
        return None
    given = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
    given.apply_defaults()
    _, *arguments, by_batch, _, eps = given.arguments.values()
    tensors = _tensors(operations, arguments)
    if tensors is None or by_batch is not False or isinstance(eps, fx.Node):
        return None
    mean, variance, *factors = tensors
    return _Normalisation(mean, variance, eps, *factors)


def _tensors(operations: fx.GraphModule, arguments: Sequence[Any]) -> list[Tensor | None] | None:
    """The tensors of the network that an operation is given, or None for each; None if one of them is computed."""
    tensors = []
    for argument in arguments:
        if argument is None:
            tensors.append(None)
        elif isinstance(argument, fx.Node) and argument.op == "get_attr":
            *parents, name = argument.target.split(".")
            tensors.append(getattr(operations.get_submodule(".".join(parents)), name))
        else:
            return None
    return tensors


def _added(operations: fx.GraphModule, what: nn.Module | nn.Parameter) -> str:
    """The name under which the operations find it from now on."""
    name = next(name for name in map("folded_{}".format, count()) if not hasattr(operations, name))
    setattr(operations, name, what)
    return name
