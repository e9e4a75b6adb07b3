"""Margin bounds when any k inputs may change.

Chiang et al., arXiv 2003.06693, section 4.3: only the first layer is special. A unit of a linear layer can be moved
by at most its k largest weights; a unit of a convolution by the k pixels inside its kernel that weigh most, all
channels of a pixel together. From the second layer on, ordinary intervals follow.

The tight bound uses that inputs stay in [0, 1] and within ε: coordinate i can rise by at most min(ε, 1 − x_i) and
fall by at most min(ε, x_i). It depends on the image, and it is never wider than the plain one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchcert.errors import UsageError
from patchcert.intervals.bounds import Box, Room, margins, require_zero_padding, through
from patchcert.intervals.places import Scale
from patchcert.intervals.rounding import Rounding

CANDIDATES = 32
"""Weights of a unit among which the tight bound looks first."""

MORE = 8
"""How many times as many it looks among next, for the images and units where these do not suffice."""

AT_ONCE = 2**17
"""Moves computed at a time, which stay in the cache."""

BYTES_PER_MOVE = 64
"""What one of the k moves of a unit takes in training: where its weight and its room are, and their values."""


@dataclass(frozen=True)
class SparseThreat:
    """Any k inputs may move by at most `epsilon`, within [0, 1]: coordinates for a linear layer, else pixels.

    Attributes:
        tight: whether the bound uses that inputs stay in [0, 1].
    """

    k: int
    epsilon: float = 1.0
    tight: bool = False


@dataclass(frozen=True)
class _Moves:
    """How far a first layer's outputs can move from the clean ones (N, D), or (N, C', H', W').

    Attributes:
        fall, rise: down, and up; they broadcast to `clean`.
        most: what no unit's moves exceed together; it broadcasts, too.
    """

    clean: Tensor
    fall: Tensor
    rise: Tensor
    most: Tensor

    def box(self, room: Room | None) -> Box:
        """The box of the outputs, with room for rounding."""
        if room is None:
            return Box(self.clean - self.fall, self.clean + self.rise)
        beside = room.beside + (room.factor - 1) * self.most
        return Box(self.clean - (self.fall + beside), self.clean + (self.rise + beside))


def sparse_margins(
    network: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    threat: SparseThreat,
    scale: Scale,
    max_memory: int = 2 * 2**30,
) -> Tensor:
    """(N, K): lower bounds of logit_y − logit_c for images (N, C, H, W), with gradients for the parameters.

    Raises:
        UsageError: k is larger than what one unit of the first layer sees.
    """
    return _margins(network, _first_moves(network, images, threat, scale, max_memory), labels, {})


@torch.no_grad()
def sparse_margins_rounded(
    network: nn.Sequential, images: Tensor, labels: Tensor, threat: SparseThreat, scale: Scale, max_memory: int
) -> tuple[Tensor, Tensor]:
    """`sparse_margins`, and such (N, K) that hold for whatever rounding makes of the network, see `rounding`.

    Raises:
        UsageError: as `sparse_margins` does.
    """
    moves = _first_moves(network, images, threat, scale, max_memory)
    activation, rooms = scale.inputs(images), {}
    rounding = Rounding(network, scale, activation)
    for index, layer in enumerate(network[:-1]):
        output = moves.clean if index == _first_index(network) else layer(activation)
        rooms[index] = rounding.behind(layer, activation, output)
        activation = output
    rooms[len(network) - 1] = rounding.of_margins(network[-1], activation, labels)
    return _margins(network, moves, labels, {}), _margins(network, moves, labels, rooms)


def _margins(network: nn.Sequential, moves: _Moves, labels: Tensor, rooms: dict[int, Room | None]) -> Tensor:
    """(N, K): the margin bounds that follow from the moves of the first layer, with the rooms of the layers."""
    first, last = _first_index(network), len(network) - 1
    box = moves.box(rooms.get(first))
    for index in range(first + 1, last):
        box = through(network[index], box, rooms.get(index))
    return margins(network[last], Box(box.lower[None], box.upper[None]), labels, rooms.get(last))[0]


def _first_index(network: nn.Sequential) -> int:
    """Which layer sees the inputs: a convolution, or a linear layer behind flatten."""
    return 0 if isinstance(network[0], nn.Conv2d) else 1


def _first_moves(network: nn.Sequential, images: Tensor, threat: SparseThreat, scale: Scale, max_memory: int) -> _Moves:
    """The moves of the first layer.

    Raises:
        UsageError: k is larger than what one of its units sees.
    """
    require_k(network, threat.k)
    first = network[_first_index(network)]
    return (_convolution if isinstance(first, nn.Conv2d) else _linear)(first, images, threat, scale, max_memory)


def require_k(network: nn.Sequential, k: int) -> None:
    """Raise UsageError if k is larger than what one unit of the first layer sees, TypeError for other networks."""
    first = network[0]
    if isinstance(first, nn.Conv2d):
        height, width = first.kernel_size
        largest, what = height * width, f"pixels of the {height} × {width} kernel of the first layer"
    elif isinstance(first, nn.Flatten) and isinstance(network[1], nn.Linear):
        largest, what = network[1].in_features, "inputs of the first layer"
    else:
        raise TypeError("sparse bounds need a network that begins with a convolution or with flatten and linear")
    if not 1 <= k <= largest:
        raise UsageError("config", f"k={k}", f"expected a whole number from 1 to {largest}, the {what}")


def _linear(layer: nn.Linear, images: Tensor, threat: SparseThreat, scale: Scale, max_memory: int) -> _Moves:
    """(N, D) moves of the first linear layer. Tight ones only as far as a ReLU lets them through: above 0."""
    clean = layer(scale.inputs(images).flatten(1))
    unit = scale.lengths(torch.ones_like(images[:1])).flatten()  # 1/std of each coordinate
    radius = threat.epsilon * (layer.weight.abs() * unit).topk(threat.k, dim=1).values.sum(dim=1)
    if not threat.tight:
        return _Moves(clean, radius, radius, radius)
    up, down = (scale.lengths(room).flatten(1) for room in _rooms(images, threat.epsilon))
    largest = partial(_largest_moves, layer.weight, radius, threat.k)
    at_once = max_memory // (BYTES_PER_MOVE * layer.out_features * threat.k)
    rise = _in_parts(largest, at_once, torch.cat([up, down], dim=1), clean + radius > 0)
    fall = _in_parts(largest, at_once, torch.cat([down, up], dim=1), clean > 0)
    return _Moves(clean, fall, rise, radius)


def _rooms(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """How far each coordinate of images (N, C, H, W) can rise, and fall."""
    return (1 - images).clamp(max=epsilon), images.clamp(max=epsilon)


def _in_parts(largest: Callable[..., Tensor], at_once: int, *tensors: Tensor) -> Tensor:
    """`largest` of tensors (N, …) by at most `at_once` images; the backward pass computes several parts again."""
    if len(tensors[0]) <= at_once:
        return largest(*tensors)
    parts = zip(*(tensor.split(max(at_once, 1)) for tensor in tensors), strict=True)
    return torch.cat([checkpoint(largest, *part, use_reentrant=False) for part in parts])


def _largest_moves(weight: Tensor, plain: Tensor, k: int, rooms: Tensor, wanted: Tensor) -> Tensor:
    """(N, D): the sum of the k largest moves of each unit; the plain bound (D,) where that is not wanted (N, D).

    Coordinate i moves unit d by |w_di| times the i-th room (N, 2I) where w_di is positive, else the (I + i)-th.
    """
    images, units = wanted.nonzero(as_tuple=True)
    with torch.no_grad():
        chosen = _chosen(weight, rooms, images, units, k)
    places = units[:, None] * weight.shape[1] + chosen % weight.shape[1]
    moves = _at(weight, places).abs() * _at(rooms, images[:, None] * rooms.shape[1] + chosen)
    return plain.expand_as(wanted).masked_scatter(wanted, moves.sum(dim=1))


def _at(tensor: Tensor, places: Tensor) -> Tensor:
    """The elements at `places` (…) of the flattened tensor."""
    return tensor.flatten().index_select(0, places.flatten()).view_as(places)


def _chosen(weight: Tensor, rooms: Tensor, images: Tensor, units: Tensor, k: int) -> Tensor:
    """(P, k) int64: the rooms of the k largest moves, for P pairs of one of the images (P,) and of the units (P,).

    Looked for among the largest moves that any image of the batch allows; the k-th move found being no smaller than
    the next of these proves that no other coordinate moves the unit more. Pairs without proof look among more.
    """
    inputs = weight.shape[1]
    room = torch.arange(inputs, device=weight.device) + inputs * (weight < 0)  # (D, I)
    allowed = weight.abs() * rooms.amax(dim=0)[room]
    chosen = images.new_empty(len(images), k)
    left, count = torch.arange(len(images), device=images.device), max(CANDIDATES, 2 * k)
    while len(left):
        count = min(count, inputs)
        most, candidates = allowed.topk(min(count + 1, inputs), dim=1)
        beyond = most[:, count] if count < inputs else torch.zeros_like(most[:, 0])
        weights = weight.abs().gather(1, candidates[:, :count])
        candidates = room.gather(1, candidates[:, :count])  # (D, M)
        unproven = []
        for part in left.split(max(AT_ONCE // count, 1)):
            image, unit = images[part], units[part]
            found = candidates.index_select(0, unit)  # (P, M)
            moves = _at(rooms, found + rooms.shape[1] * image[:, None]) * weights.index_select(0, unit)
            largest = moves.topk(k, dim=1)
            chosen[part] = found.gather(1, largest.indices)
            unproven.append(part[largest.values[:, -1] < beyond[unit]])
        left, count = torch.cat(unproven), MORE * count
    return chosen


def _convolution(layer: nn.Conv2d, images: Tensor, threat: SparseThreat, scale: Scale, max_memory: int) -> _Moves:
    """(N, C', H', W') moves of the first convolution."""
    require_zero_padding(layer)
    clean = layer(scale.inputs(images))
    unit = scale.lengths(torch.ones_like(images[:1, :, :1, :1]))  # 1/std of each channel
    per_pixel = (layer.weight.abs() * unit).sum(dim=1).flatten(1)  # (C', kernel's pixels)
    radius = (threat.epsilon * per_pixel.topk(threat.k, dim=1).values.sum(dim=1))[:, None, None]
    if not threat.tight:
        return _Moves(clean, radius, radius, radius)
    rooms = [scale.lengths(room) for room in _rooms(images, threat.epsilon)]
    largest = partial(_largest_pixel_moves, layer, threat.k)
    at_once = max_memory // (8 * 4 * clean[0].numel() * math.prod(layer.kernel_size))
    rise, fall = (_in_parts(largest, at_once, *sides).view_as(clean) for sides in (rooms, rooms[::-1]))
    return _Moves(clean, fall, rise, radius)


def _largest_pixel_moves(layer: nn.Conv2d, k: int, along: Tensor, against: Tensor) -> Tensor:
    """(N, C', H'·W'): the sum over the k pixels that move each unit most.

    Rooms (N, C, H, W) are `along` the sign of positive weights, and `against` it.
    """
    weight = layer.weight.flatten(2)  # (C', C, T), T pixels of the kernel
    weight = torch.cat([weight.clamp(min=0), -weight.clamp(max=0)], dim=1)
    rooms = torch.cat([along, against], dim=1)
    rooms = F.unfold(rooms, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    rooms = rooms.unflatten(1, weight.shape[1:])  # (N, 2C, T, H'·W')
    moves = torch.einsum("oct,nctp->nopt", weight, rooms)
    return moves.topk(k, dim=3).values.sum(dim=3)
