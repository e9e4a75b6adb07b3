"""How much wider boxes must be so that no rounding leaves them, in the network or in the bounds.

A certificate is about executions: the network in float32 on an attacked image, each product and each sum rounded to
nearest, sums in any order, with fused multiply-adds or without. Boxes hold whatever executions come to, layer by layer,
and real arithmetic, which rounds nothing.

A sum of n products, rounded in any order, is off by at most γ_n·Σ|w·x| (Higham, Accuracy and Stability, section 3.1).
Let a be the clean activations as computed here, and executions on an attacked image be within a + s ± (ρ + e), where
s and ρ are the shift and the radius of a patch's box, zero where it does not reach, and e is kept for each image alone.
Then |s| ≤ ρ + e, and what executions of the next layer come to is within W·a + b + W·s and

    |W|(ρ + e)                             because of what executions come to in this one
    γ|W|(|a| + 2ρ + 2e) + γ|b|             because they round
    γ'(|W||a| + |b|) + γ'|W|(ρ + e)        because the centre is computed, with the γ' of the arithmetic used here

which is at most (1 + 2γ + γ')|W|ρ, the radius, and e' = (1 + 2γ + γ')|W|e + (γ + γ')(|W||a| + |b|). So radii grow by a
factor, e' is what comes beside (`Room`), and neither costs another product for each place. Behind a ReLU e is zero
where a + e is not above it. `SPARE` more roundings in γ, and one γ' more in both, are for the rounding of radii, ends
and e' themselves. The last layer has to do with two logits and their merged difference; where a box lies does not
matter there, since all of it is within |a| + (upper − lower).

In float64, γ' is next to nothing: about a third of the room is left.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcert.arithmetic import FLOAT32, exact_float32, require_nearest
from patchcert.intervals.bounds import Room, times_absolute
from patchcert.intervals.places import Scale

SPARE = 16
"""Roundings that come on top of the products' and their sum's: of centres, radii, ends, at each layer."""

TINY = 2.0**-120
"""What a rounding may be off where numbers are too small for relative errors, even if such results become zero."""

LARGEST = 2.0**100
"""Far enough below float32's largest number for everything that is summed here or in the network.

Weights, what activations may come to, and how far they may be off are all below it. Then no bound is infinite but where
it is of no use: a lower one that is minus infinity.
"""


def gamma(roundings: int, unit: float) -> float:
    """γ_n = n·u / (1 − n·u) for n roundings of relative error u.

    Raises:
        FloatingPointError: there are so many that nothing is known.
    """
    if roundings * unit > 0.1:
        raise FloatingPointError(f"sums of {roundings} products may be rounded too far, nothing can be certified")
    return roundings * unit / (1 - roundings * unit)


class Rounding:
    """Follows N clean images through a network, and tells for each layer how much room its boxes need.

    Args:
        inputs: (N, C, H, W) of the network; their type is the arithmetic of the bounds.

    Attributes:
        error: e, (N, …) like the activations that were followed last.

    Raises:
        FloatingPointError: numbers in the network may become too large for float32, or sums too long.
    """

    def __init__(self, network: nn.Sequential, scale: Scale, inputs: Tensor):
        self.unit = torch.finfo(inputs.dtype).eps / 2
        largest = scale.largest(inputs).expand_as(inputs)
        _require_ranges(network, largest[:1])
        self.error = SPARE * FLOAT32 * largest

    def behind(self, layer: nn.Module, activation: Tensor, output: Tensor) -> Room | None:
        """Go on from the clean `activation` (N, …) to the layer's `output`; the room there, if boxes need some.

        Raises:
            TypeError: how the layer rounds is not known.
        """
        if isinstance(layer, nn.Linear | nn.Conv2d):
            room = self._room(layer, activation)
            self.error = room.beside
            return room
        if isinstance(layer, nn.ReLU):
            self.error = self.error.where(activation + self.error > 0, 0)
        elif isinstance(layer, nn.Flatten | nn.MaxPool2d):
            self.error = layer(self.error)
        else:
            raise TypeError(f"how a {type(layer).__name__} layer rounds is not known, it has no certificates")
        return None

    def _room(self, layer: nn.Linear | nn.Conv2d, activation: Tensor) -> Room:
        terms = layer.weight[0].numel()
        network, here = (gamma(terms + SPARE, unit) for unit in (FLOAT32, self.unit))
        factor, share = 1 + 2 * network + 3 * here, network + 2 * here
        beside = times_absolute(layer, factor * self.error + share * activation.abs()) + terms * TINY
        if layer.bias is not None:
            beside += share * _biases(layer)
        _require_range("rounding errors", beside)
        return Room(factor, beside)

    def of_margins(self, last: nn.Linear, activation: Tensor, labels: Tensor) -> Room:
        """The room of the margins of `labels` (N,), given the clean `activation` (N, D) before the last layer."""
        terms = last.weight.shape[1]
        share = gamma(terms + SPARE, FLOAT32) + gamma(3 * terms + SPARE, self.unit)
        bias = None if last.bias is None else last.bias.abs()
        sizes = F.linear(activation.abs(), last.weight.abs(), bias)  # (N, K), of each logit
        return Room(2 * share, share * (sizes + sizes.gather(1, labels[:, None])) + terms * TINY)


def _biases(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """The size of the biases, such that it is added to the layer's outputs (N, …, D), or (N, C, H, W)."""
    return layer.bias.abs() if isinstance(layer, nn.Linear) else layer.bias.abs()[:, None, None]


def _require_ranges(network: nn.Sequential, largest: Tensor) -> None:
    """Raise FloatingPointError unless float32 holds what the network makes of inputs up to `largest` (1, C, H, W)."""
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            _require_range("weights", layer.weight)  # of which the last layer's differences are used, too
            largest = times_absolute(layer, largest)
            if layer.bias is not None:
                largest = largest + _biases(layer)
            _require_range("activations", largest)
        elif not isinstance(layer, nn.ReLU):
            largest = layer(largest)


def _require_range(what: str, values: Tensor) -> None:
    """Raise FloatingPointError unless all values are numbers below `LARGEST` in size."""
    if not values.abs().max() < LARGEST:  # not a number, too
        raise FloatingPointError(f"{what} may be too large for float32, nothing can be certified")


@contextmanager
def sums_of_products() -> Iterator[None]:
    """Layers inside are sums of products in exact float32, as γ_n has it, without libraries that may compute otherwise.

    cuDNN and NNPACK choose Winograd's or a Fourier transform for some kernels, without saying how they round.

    Raises:
        FloatingPointError: numbers are not rounded to nearest.
    """
    require_nearest()
    before = torch.backends.cudnn.enabled, torch.backends.nnpack.set_flags(False)
    torch.backends.cudnn.enabled = False
    try:
        with exact_float32():
            yield
    finally:
        torch.backends.cudnn.enabled = before[0]
        torch.backends.nnpack.set_flags(*before[1])
