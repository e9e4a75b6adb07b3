"""Which layers have bounds that leave room for rounding, and whether a network is made of such layers alone."""

import torch
from torch import Tensor, nn

from patchcert.as_written import PLAIN, of_its_own, unwritten

BOUNDED: dict[type[nn.Module], dict[str, object]] = {
    nn.Conv2d: {"padding_mode": "zeros"},
    nn.Linear: {},
    nn.ReLU: {},
    nn.Flatten: {"start_dim": 1, "end_dim": -1},
    nn.MaxPool2d: {"return_indices": False},
}
"""The layers with bounds, and what settings these bounds are for."""

REPLACED = "torch.nn.utils.fuse_conv_bn_eval and fuse_linear_bn_eval make one layer of it and the layer before"


def require_bounded(network: nn.Sequential) -> None:
    """Raise ValueError unless bounds know all that `network` computes, in eval mode; the message names what they miss.

    Layers must be of the classes in `BOUNDED`, or of classes that compute as these do, and nothing may change what they
    compute: no hooks, nor methods of an instance. Their weights are float32, the same whenever they are asked for.
    """
    besides = unwritten(network)
    if besides:
        raise ValueError(f"the network has {besides}; its bounds would be those of another one")
    if any(part._compiled_call_impl is not None for part in network.modules()):
        raise ValueError("the network was compiled, expected it as it was before compile()")
    _known(nn.Sequential, "the network", network)
    for name, layer in network.named_children():
        where = f"layer {name}, a {type(layer).__name__},"
        kind = next((base for base in type(layer).__mro__ if base in BOUNDED), None)
        if kind is None:
            known = ", ".join(base.__name__ for base in BOUNDED)
            instead = f"; {REPLACED}" if isinstance(layer, nn.modules.batchnorm._BatchNorm) else ""
            raise ValueError(f"{where} has no interval bounds, expected {known}{instead}")
        _known(kind, where, layer)
        for setting, expected in BOUNDED[kind].items():
            if getattr(layer, setting) != expected:
                raise ValueError(f"{where} has {setting} {getattr(layer, setting)}, expected {expected}")
        if isinstance(layer, nn.Linear | nn.Conv2d):
            _require_weights(where, layer)


def _known(kind: type[nn.Module], where: str, layer: nn.Module) -> None:
    """Raise ValueError if the layer's own class says otherwise than `kind`, which it is derived from, what it does."""
    own = of_its_own(layer, kind)
    if own:
        raise ValueError(f"{where} has a {own} of its own: bounds know that of {kind.__name__} alone")


def _require_weights(where: str, layer: nn.Linear | nn.Conv2d) -> None:
    """Raise ValueError unless weights and biases are float32, of the layer's shape, and do not change by themselves."""
    if isinstance(layer, nn.Linear):
        shape = (layer.out_features, layer.in_features)
    else:
        shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    for name, expected in (("weight", shape), ("bias", shape[:1])):
        tensor: Tensor | None = getattr(layer, name)
        if tensor is None and name == "bias":
            continue
        if type(tensor) not in PLAIN or tensor.dtype != torch.float32 or tensor.shape != expected:
            found = f"{type(tensor).__name__} {getattr(tensor, 'dtype', '')} {tuple(getattr(tensor, 'shape', ()))}"
            raise ValueError(f"{where} has a {name} {found}, expected a plain tensor of float32 {tuple(expected)}")
        again = getattr(layer, name)
        if not torch.equal(tensor.view(torch.int32), again.view(torch.int32)):  # bits, since a NaN equals nothing
            raise ValueError(f"{where} has another {name} each time it is asked for")
