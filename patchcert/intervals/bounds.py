"""How a box of inputs moves through a network: elementwise lower and upper bounds, one rule per layer.

Interval bound propagation, Gowal et al., arXiv 1810.12715, section 3; the merged last layer is their section 3.1.
By itself a bound is exact up to the rounding of float32, about 1e-6 of the activations' size, and so does for training;
certificates leave `Room` for it, see `rounding`. Nothing is computed in reduced precision
(see `arithmetic.exact_float32`).
"""

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


@dataclass(frozen=True)
class Room:
    """How much wider the boxes behind a linear layer or convolution are than their definition, for rounding.

    Attributes:
        factor: by which the radii grow that the layer multiplies.
        beside: (N, …), for each image, what is added to the radii of the layer's outputs.
    """

    factor: float
    beside: Tensor

    def of(self, images: Tensor) -> "Room":
        """The room for boxes of `images` (B,), in turn."""
        return Room(self.factor, self.beside[images])


def grown(radius: Tensor, room: Room | None) -> Tensor:
    """The `radius` (B, …) that a layer multiplies."""
    return radius if room is None else radius * room.factor


def widened(radius: Tensor, room: Room | None) -> Tensor:
    """The radius (B, …) of a layer's outputs, in its own memory; box b is of image b modulo N."""
    if room is not None:
        radius.unflatten(0, (-1, len(room.beside))).add_(room.beside)
    return radius


@singledispatch
def through(layer: nn.Module, box: Box, room: Room | None = None) -> Box:
    """The box of all outputs of `layer` on inputs from `box` (B, …): the rule for the layer's type.

    Args:
        room: for rounding, where there are no gradients; of linear layers and convolutions.

    Raises:
        TypeError: there is no rule for this type of layer.
    """
    known = ", ".join(sorted(kind.__name__ for kind in through.registry if kind is not object))
    raise TypeError(f"no interval bound for a {type(layer).__name__} layer; there are rules for {known}")


@through.register
def _sequential(layer: nn.Sequential, box: Box, room: None = None) -> Box:
    for inner in layer:
        box = through(inner, box)
    return box


@through.register(nn.Linear)
@through.register(nn.Conv2d)
def _affine(layer: nn.Linear | nn.Conv2d, box: Box, room: Room | None = None) -> Box:
    """W·mid + b ± |W|·rad, with convolutions for products."""
    radius = widened(times_absolute(layer, grown(box.radius, room)), room)
    return Box.around(layer(box.centre), radius)


@through.register(nn.ReLU)
@through.register(nn.Flatten)
@through.register(nn.MaxPool2d)
def _increasing(layer: nn.Module, box: Box, room: None = None) -> Box:
    """Layers that never fall where their inputs rise map the ends of a box to its ends."""
    return Box(layer(box.lower), layer(box.upper))


def require_zero_padding(layer: nn.Conv2d) -> None:
    """Raise TypeError for a convolution that pads with anything but zeros, whose radius has another rule."""
    if layer.padding_mode != "zeros":
        raise TypeError(f"convolutions have interval bounds with padding_mode zeros only, not {layer.padding_mode}")


def times_absolute(layer: nn.Linear | nn.Conv2d, sizes: Tensor) -> Tensor:
    """|W|·sizes."""
    if isinstance(layer, nn.Linear):
        return F.linear(sizes, layer.weight.abs())
    require_zero_padding(layer)
    return F.conv2d(sizes, layer.weight.abs(), None, layer.stride, layer.padding, layer.dilation, layer.groups)


def margins(last: nn.Linear, box: Box, labels: Tensor, room: Room | None = None) -> Tensor:
    """(P, N, K): lower bounds of logit_y − logit_c, the last layer merged with the margin matrix C_y.

    Row c of C_y is e_y − e_c; C_y·W as one layer is tighter than subtracting the bounds of two logits. A lower
    bound takes the lower end where the merged weight is positive and the upper end where it is negative.

    Args:
        box: (P, N, D) inputs of the last layer, P boxes for each of N labels.
        labels: (N,) y.
        room: for rounding, which takes |W| · (upper − lower) times its factor, and beside (N, K), from the bounds;
            those that are not finite become minus infinity.
    """
    weight = (last.weight[:, None] - last.weight).transpose(1, 2)  # (y, D, K): C_y · W for each label y
    below, above = weight.clamp(min=0), weight.clamp(max=0)
    if room is not None:
        sizes = room.factor * last.weight.abs().amax(dim=0)[:, None]
        below, above = below + sizes, above - sizes
    lower = torch.bmm(box.lower.transpose(0, 1), below.index_select(0, labels))  # (N, P, K)
    lower = torch.baddbmm(lower, box.upper.transpose(0, 1), above.index_select(0, labels))
    if room is not None:
        lower = lower - room.beside[:, None]
    if last.bias is not None:
        lower = lower + (last.bias[labels][:, None] - last.bias)[:, None]
    if room is not None:
        lower = lower.where(lower.isfinite(), -torch.inf)  # before a minimum over places hides that it is not
    return lower.transpose(0, 1)


def robust_loss(worst: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the worst margins m (N, K), m_y = 0: Chiang et al., arXiv 2003.06693, section 4."""
    return F.cross_entropy(-worst, labels)


def certified(worst: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: every margin m_c (N, K) but the label's own is positive, and finite."""
    return leads(worst, labels) > 0


def leads(margins: Tensor, labels: Tensor) -> Tensor:
    """(…, N): the lowest of the margins (…, N, K) but for those of the labels (N,) themselves.

    Margins that are not finite say nothing: they count as minus infinity.
    """
    own = F.one_hot(labels, margins.shape[-1]).bool()
    return margins.where(margins.isfinite(), -torch.inf).masked_fill(own, torch.inf).amin(dim=-1)
