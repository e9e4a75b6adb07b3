"""How a box of inputs moves through a network: elementwise lower and upper bounds, one rule per layer.

Interval bound propagation, Gowal et al., arXiv 1810.12715, section 3; the merged last layer is their section 3.1.
Everything is float32. A bound is therefore exact up to rounding, about 1e-6 of the activations' size; it is
never computed in reduced precision (see `exact_float32`), because rounding is not part of the certificate.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Box:
    """All tensors between `lower` and `upper`, elementwise, both of one shape (B, …)."""

    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, centre: Tensor, radius: Tensor) -> "Box":
        """The box centre ± radius."""
        return cls(centre - radius, centre + radius)

    @classmethod
    def around_temporary(cls, centre: Tensor, radius: Tensor) -> "Box":
        """centre ± radius in the memory of both, where no gradients need them; the caller has no more use for them."""
        if torch.is_grad_enabled():
            return cls.around(centre, radius)
        lower = centre - radius
        return cls(lower, centre.add_(radius))

    @property
    def centre(self) -> Tensor:
        """mid = (u + l) / 2."""
        return (self.upper + self.lower) / 2

    @property
    def radius(self) -> Tensor:
        """rad = (u − l) / 2."""
        return (self.upper - self.lower) / 2


@singledispatch
def through(layer: nn.Module, box: Box) -> Box:
    """The box of all outputs of `layer` on inputs from `box` (B, …): the rule for the layer's type.

    Raises:
        TypeError: there is no rule for this type of layer.
    """
    known = ", ".join(sorted(kind.__name__ for kind in through.registry if kind is not object))
    raise TypeError(f"no interval bound for a {type(layer).__name__} layer; there are rules for {known}")


@through.register
def _sequential(layer: nn.Sequential, box: Box) -> Box:
    for inner in layer:
        box = through(inner, box)
    return box


@through.register
def _linear(layer: nn.Linear, box: Box) -> Box:
    """W·mid + b ± |W|·rad."""
    return Box.around(layer(box.centre), F.linear(box.radius, layer.weight.abs()))


@through.register
def _convolution(layer: nn.Conv2d, box: Box) -> Box:
    """W·mid + b ± |W|·rad, with convolutions for products."""
    require_zero_padding(layer)
    return Box.around(layer(box.centre), absolute_convolution(layer, box.radius))


@through.register
def _batch_norm(layer: nn.modules.batchnorm._BatchNorm, box: Box) -> Box:
    """In eval mode a scale and a shift per channel."""
    if layer.training:
        raise TypeError("batch norm has interval bounds in eval mode only; in training mode it mixes images")
    scale = (layer.running_var + layer.eps).rsqrt()
    if layer.affine:
        scale = scale * layer.weight.abs()
    per_channel = (1, -1) + (1,) * (box.lower.dim() - 2)
    return Box.around(layer(box.centre), box.radius * scale.view(per_channel))


@through.register(nn.ReLU)
@through.register(nn.Flatten)
@through.register(nn.AvgPool2d)
@through.register(nn.MaxPool2d)
def _increasing(layer: nn.Module, box: Box) -> Box:
    """Layers that never fall where their inputs rise map the ends of a box to its ends."""
    return Box(layer(box.lower), layer(box.upper))


def require_zero_padding(layer: nn.Conv2d) -> None:
    """Raise TypeError for a convolution that pads with anything but zeros, whose radius has another rule."""
    if layer.padding_mode != "zeros":
        raise TypeError(f"convolutions have interval bounds with padding_mode zeros only, not {layer.padding_mode}")


def absolute_convolution(layer: nn.Conv2d, radius: Tensor, padding: int | tuple | str | None = None) -> Tensor:
    """|W| ∗ radius with the layer's stride and, unless another is given, its padding."""
    padding = layer.padding if padding is None else padding
    return F.conv2d(radius, layer.weight.abs(), None, layer.stride, padding, layer.dilation, layer.groups)


def margins(last: nn.Linear, box: Box, labels: Tensor) -> Tensor:
    """(P, N, K): lower bounds of logit_y − logit_c, the last layer merged with the margin matrix C_y.

    Row c of C_y is e_y − e_c; C_y·W as one layer is tighter than subtracting the bounds of two logits. A lower
    bound takes the lower end where the merged weight is positive and the upper end where it is negative.

    Args:
        box: (P, N, D) inputs of the last layer, P boxes for each of N labels.
        labels: (N,) y.
    """
    weight = (last.weight[:, None] - last.weight).transpose(1, 2)  # (y, D, K): C_y · W for each label y
    lower = torch.bmm(box.lower.transpose(0, 1), weight.clamp(min=0).index_select(0, labels))  # (N, P, K)
    lower = torch.baddbmm(lower, box.upper.transpose(0, 1), weight.clamp(max=0).index_select(0, labels))
    if last.bias is not None:
        lower = lower + (last.bias[labels][:, None] - last.bias)[:, None]
    return lower.transpose(0, 1)


def robust_loss(worst: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the worst margins m (N, K), m_y = 0: Chiang et al., arXiv 2003.06693, section 4."""
    return F.cross_entropy(-worst, labels)


def certified(worst: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: every margin m_c (N, K) but the label's own is positive."""
    own = F.one_hot(labels, worst.shape[1]).bool()
    return ((worst > 0) | own).all(dim=1)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products inside are computed in full float32, without the TF32 that GPUs use for convolutions by default."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before
