"""The places of a patch where margin bounds are lowest, within bounded memory.

Gradients need no more memory than the bounds themselves: the loss depends on the worst place of each class
alone, so the places are searched without gradients and the few worst ones are computed once more, with gradients,
in the backward pass (`worst_margins`).
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from patchcert.intervals import strips
from patchcert.intervals.patches import PatchBounds
from patchcert.intervals.places import Places, Scale, Threat


@dataclass(frozen=True)
class Batch:
    """What the margins of some images depend on, but for the places.

    Attributes:
        images: (N, C, H, W) in [0, 1].
        labels: (N,) int64.
        max_memory: bytes that the bounds may take at a time.
        rounded: whether bounds hold for whatever rounding makes of the network, see `rounding`.
        amp: whether products may be in bfloat16, see `PatchBounds`.
        kept: the bounds, once they are made, see `keeping`.
    """

    network: nn.Sequential
    images: Tensor
    labels: Tensor
    threat: Threat
    scale: Scale
    neighbor: Sequence[int] = ()
    max_memory: int = 2 * 2**30
    rounded: bool = False
    amp: bool = False
    kept: PatchBounds | None = None

    def bounds(self) -> PatchBounds:
        if self.kept is not None:
            return self.kept
        how = self.neighbor, self.rounded, self.amp
        return PatchBounds(self.network, self.images, self.labels, self.threat, self.scale, *how)

    def in_double(self) -> "Batch":
        """The same batch in float64."""
        return replace(self, network=double(self.network), images=self.images.double(), kept=None)

    def of(self, images: Tensor | slice) -> "Batch":
        """The batch of these images only."""
        if isinstance(images, slice) and images == slice(0, len(self.images)):
            return self
        return replace(self, images=self.images[images], labels=self.labels[images], kept=None)

    def keeping(self, places: Places) -> "Batch":
        """The same batch, whose clean images are looked at only once for bounds and gradients, if they fit in memory.

        After its gradients were computed, it is of no more use.
        """
        if not torch.is_grad_enabled() or any(len([*self.split(places, gradients)]) > 1 for gradients in (False, True)):
            return self
        bounds = self.bounds()
        return replace(self, kept=bounds) if strips.applies(bounds, places) else self

    def split(self, places: Places, with_gradients: bool) -> Iterator[slice]:
        """Yield slices of the images that can be computed together within `max_memory`."""
        with torch.no_grad():
            bounds = self.of(slice(0, 1)).bounds()
            in_strips = with_gradients and strips.applies(bounds, places)
            size = strips.bytes_per_image(bounds) if in_strips else bounds.bytes_per_image(places, with_gradients)
        parts = -(-len(self.images) // max(self.max_memory // size, 1))
        count = max(-(-len(self.images) // max(parts, 1)), 1)
        for start in range(0, len(self.images), count):
            yield slice(start, min(start + count, len(self.images)))


def double(network: nn.Sequential) -> nn.Sequential:
    """A copy of the network in float64."""
    return copy.deepcopy(network).double()


@torch.no_grad()
def margins_at(batch: Batch, places: Places) -> Iterator[Tensor]:
    """Yield the margin bounds (P', N, K) of the places, chunk by chunk."""
    bounds = batch.bounds()
    if strips.applies(bounds, places):
        yield strips.margins(bounds, places, batch.max_memory)
        return
    for chunk in places.split(bounds.places_at_once(places, batch.max_memory)):
        yield bounds.margins(chunk)


def lowest_margins(batch: Batch, places: Places) -> tuple[Tensor, Tensor]:
    """The lowest margin bounds (N, K) of each class over the places, and the numbers (N, K) of these places."""
    found = [
        _lowest(margins_at(batch.of(images), places.of(images))) for images in batch.split(places, with_gradients=False)
    ]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def all_margins(batch: Batch, places: Places) -> Tensor:
    """(P, N, K): the margin bounds at all of the places, for places few enough to keep."""
    parts = [torch.cat([*margins_at(batch.of(i), places.of(i))]) for i in batch.split(places, with_gradients=False)]
    return torch.cat(parts, dim=1)


def _lowest(chunks: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """The minimum (N, K) over chunks of places (P', N, K), and which of the places has it."""
    minima, places, done = [], [], 0
    for chunk in chunks:
        minimum, place = chunk.min(dim=0)
        minima.append(minimum)
        places.append(place + done)
        done += len(chunk)
    worst, chunk = torch.stack(minima).min(dim=0)
    return worst, torch.stack(places).gather(0, chunk[None])[0]


def worst_margins(batch: Batch, places: Places) -> Tensor:
    """(N, K): the lowest margin bound of each class over the places, with gradients for the network's parameters."""
    batch = batch.keeping(places)
    return with_gradients(batch, places, *lowest_margins(batch, places))


def with_gradients(batch: Batch, places: Places, worst: Tensor, place: Tensor) -> Tensor:
    """The margins `worst` (N, K) found at `place` (N, K), with gradients for the network's parameters.

    The gradient of a minimum over places is that of the place where it is reached. So the backward pass computes
    the margins again at these places only, at most K − 1 for an image.
    """
    parameters = [p for p in batch.network.parameters() if p.requires_grad]
    return _AtWorstPlaces.apply(batch, places, place, worst, *parameters)


class _AtWorstPlaces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, batch, places, place, worst, *parameters):
        ctx.batch, ctx.places, ctx.place, ctx.parameters = batch, places, place, parameters
        return worst.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        total = [torch.zeros_like(p) for p in ctx.parameters]
        for images in ctx.batch.split(ctx.places, with_gradients=True):
            batch, places = ctx.batch.of(images), ctx.places.of(images)
            columns, weights = _distinct(places, ctx.place[images], gradient[images], batch.labels)
            for sum_so_far, part in zip(total, _gradients(batch, columns, weights, ctx.parameters), strict=True):
                sum_so_far += part
        return None, None, None, None, *total


@torch.enable_grad()
def _gradients(batch: Batch, columns: Places, weights: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Those of the margins at columns (G, B) of places, times `weights` (B, K), summed."""
    bounds = batch.bounds()
    if not strips.applies(bounds, columns):
        return torch.autograd.grad((bounds.margins(columns)[0] * weights).sum(), parameters)
    gradients = strips.Gradients(bounds)
    gradients.add(columns, weights, batch.max_memory)
    return gradients.of(parameters)


def _distinct(places: Places, place: Tensor, gradient: Tensor, labels: Tensor) -> tuple[Places, Tensor]:
    """The distinct places among `place` (N, K) as columns (G, B), and the margins' `gradient` (N, K) as (B, K)."""
    count, classes = place.shape
    candidates = len(places.corners) // places.group
    matters = torch.arange(classes, device=place.device) != labels[:, None]  # the label's own margin is always 0
    image = torch.arange(count, device=place.device)[:, None]
    pairs, column = (image * candidates + place)[matters].unique(return_inverse=True)
    weights = gradient.new_zeros(len(pairs), classes)
    weights[column, matters.nonzero()[:, 1]] = gradient[matters]
    return places.pick(pairs % candidates, pairs // candidates), weights
