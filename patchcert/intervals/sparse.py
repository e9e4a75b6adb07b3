"""Margin bounds when any k inputs may change.

Chiang et al., arXiv 2003.06693, section 4.3: only the first layer is special. A unit of a linear layer can be moved
by at most its k largest weights; a unit of a convolution by the k pixels inside its kernel that weigh most, all
channels of a pixel together. From the second layer on, ordinary intervals follow.

The tight bound uses that inputs stay in [0, 1] and within ε: coordinate i can rise by at most min(ε, 1 − x_i) and
fall by at most min(ε, x_i). It depends on the image, and it is never wider than the plain one.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchcert.errors import UsageError
from patchcert.intervals.bounds import Box, margins, through
from patchcert.intervals.places import Scale

CANDIDATES = 64
"""Weights of a unit that the tight bound looks at first, the largest; more only where these do not suffice."""


@dataclass(frozen=True)
class SparseThreat:
    """Any k inputs may move by at most `epsilon`, within [0, 1]: coordinates for a linear layer, else pixels.

    Attributes:
        tight: whether the bound uses that inputs stay in [0, 1].
    """

    k: int
    epsilon: float = 1.0
    tight: bool = False


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
    if isinstance(network[0], nn.Conv2d):
        box, done = _convolution(network[0], images, threat, scale, max_memory), 1
    elif isinstance(network[0], nn.Flatten) and isinstance(network[1], nn.Linear):
        box, done = _linear(network[1], images, threat, scale), 2
    else:
        raise TypeError("sparse bounds need a network that begins with a convolution or with flatten and linear")
    box = through(network[done:-1], box)
    return margins(network[-1], Box(box.lower[None], box.upper[None]), labels)[0]


def _require(k: int, largest: int, what: str) -> None:
    if not 1 <= k <= largest:
        raise UsageError("config", f"k={k}", f"expected a whole number from 1 to {largest}, the {what}")


def _linear(layer: nn.Linear, images: Tensor, threat: SparseThreat, scale: Scale) -> Box:
    """(N, D) boxes after the first linear layer."""
    _require(threat.k, layer.in_features, "inputs of the first layer")
    clean = layer(scale.inputs(images).flatten(1))
    unit = scale.lengths(torch.ones_like(images[:1])).flatten()  # 1/std of each coordinate
    if not threat.tight:
        radius = threat.epsilon * (layer.weight.abs() * unit).topk(threat.k, dim=1).values.sum(dim=1)
        return Box.around(clean, radius)
    rooms = [scale.lengths(room).flatten(1) for room in _rooms(images, threat.epsilon)]
    rise = _largest_moves(layer.weight, rooms[0], rooms[1], threat.epsilon * unit, threat.k)
    fall = _largest_moves(layer.weight, rooms[1], rooms[0], threat.epsilon * unit, threat.k)
    return Box(clean - fall, clean + rise)


def _rooms(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """How far each coordinate of images (N, C, H, W) can rise, and fall."""
    return (1 - images).clamp(max=epsilon), images.clamp(max=epsilon)


def _largest_moves(weight: Tensor, along: Tensor, against: Tensor, most: Tensor, k: int) -> Tensor:
    """(N, D): the sum of the k largest moves of each unit.

    Coordinate i moves unit d by |w_di| times the room along (N, I) the weight's sign where it is positive, and
    `against` (N, I) where it is negative. No room is larger than `most` (I,).
    """
    with torch.no_grad():
        chosen = _chosen(weight, along, against, most, k)  # (k, D, N) of 2I rooms
    inputs, units = weight.shape[1], torch.arange(len(weight), device=weight.device)[:, None]
    weights = weight.flatten().index_select(0, (units * inputs + chosen % inputs).flatten())
    rooms = torch.cat([along, against], dim=1).t()  # (2I, N)
    rooms = rooms.gather(0, chosen.flatten(0, 1)).view(chosen.shape)
    return (weights.view(chosen.shape).abs() * rooms).sum(dim=0).t()


def _chosen(weight: Tensor, along: Tensor, against: Tensor, most: Tensor, k: int) -> Tensor:
    """(k, D, N) int64: the rooms of the k largest moves: i for room `along`, I + i for room `against`.

    Looked for among each unit's largest weights; the k-th move found being no smaller than the next weight with
    all the room there can be proves that no other coordinate moves the unit more.
    """
    inputs = weight.shape[1]
    rooms = torch.cat([along, against], dim=1).t().contiguous()  # (2I, N)
    sizes, order = (weight.abs() * most).sort(dim=1, descending=True)
    count = min(max(CANDIDATES, 2 * k), inputs)
    while True:
        candidates = order[:, :count]  # (D, M)
        candidate_weights = weight.gather(1, candidates)
        room = candidates + inputs * (candidate_weights < 0)
        moves = rooms.index_select(0, room.flatten()).unflatten(0, room.shape)  # (D, M, N)
        found = (moves * candidate_weights.abs()[..., None]).topk(k, dim=1)
        if count == inputs or bool((found.values[:, -1] >= sizes[:, count, None]).all()):
            return room[..., None].expand_as(moves).gather(1, found.indices).transpose(0, 1)
        count = min(2 * count, inputs)


def _convolution(layer: nn.Conv2d, images: Tensor, threat: SparseThreat, scale: Scale, max_memory: int) -> Box:
    """(N, C', H', W') boxes after the first convolution."""
    height, width = layer.kernel_size
    _require(threat.k, height * width, f"pixels of the {height} × {width} kernel of the first layer")
    clean = layer(scale.inputs(images))
    if not threat.tight:
        unit = scale.lengths(torch.ones_like(images[:1, :, :1, :1]))  # 1/std of each channel
        per_pixel = (layer.weight.abs() * unit).sum(dim=1).flatten(1)  # (C', kernel's pixels)
        radius = threat.epsilon * per_pixel.topk(threat.k, dim=1).values.sum(dim=1)
        return Box.around(clean, radius[:, None, None])
    rooms = [scale.lengths(room) for room in _rooms(images, threat.epsilon)]
    at_once = max(1, max_memory // (8 * 4 * clean[0].numel() * height * width))
    rise, fall = (
        torch.cat(
            [
                checkpoint(_largest_pixel_moves, layer, *parts, threat.k, use_reentrant=False)
                for parts in zip(along.split(at_once), against.split(at_once), strict=True)
            ]
        ).view_as(clean)
        for along, against in (rooms, rooms[::-1])
    )
    return Box(clean - fall, clean + rise)


def _largest_pixel_moves(layer: nn.Conv2d, along: Tensor, against: Tensor, k: int) -> Tensor:
    """(N, C', H'·W'): the sum over the k pixels that move each unit most; rooms (N, C, H, W) as for linear layers."""
    weight = layer.weight.flatten(2)  # (C', C, T), T pixels of the kernel
    weight = torch.cat([weight.clamp(min=0), -weight.clamp(max=0)], dim=1)
    rooms = torch.cat([along, against], dim=1)
    rooms = F.unfold(rooms, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    rooms = rooms.unflatten(1, weight.shape[1:])  # (N, 2C, T, H'·W')
    moves = torch.einsum("oct,nctp->nopt", weight, rooms)
    return moves.topk(k, dim=3).values.sum(dim=3)
