"""Engines: they ask the base classifier about all ablated copies of a batch."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from patchcert.ablations.ablation import Ablation, encode
from patchcert.data.folders import Images
from patchcert.engines.added_up import parted
from patchcert.engines.columns import LinesNetwork, has_limited_reach
from patchcert.engines.windowed import WindowedNetwork
from patchcert.networks import answer, finite, put_into_eval, require_eval, require_labels

OF_COPIES, OF_IMAGES = "copies with channels (x, 1 − x)", "images"
"""What networks are shown, in words."""


class Engine(Protocol):
    """A base classifier that can be asked about ablated copies.

    Attributes:
        least: so many copies of an image cost no more than one.
    """

    least: int

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """(N, A', K): its outputs for encoded images (N, 2C, H, W) under the ablations `indices` (A',)."""


class DenseNetwork:
    """Masks each copy and runs the whole network on it.

    Args:
        network: base classifier, (B, 2C, H, W) to logits (B, K).
    """

    least = 1

    def __init__(self, network: nn.Module, ablation: Ablation):
        self.network, self.ablation = put_into_eval(network), ablation

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        require_eval(self.network)
        visible = self.ablation.masks(indices)[None, :, None]  # (1, A', 1, H, W)
        copies = (images[:, None] * visible).flatten(0, 1)  # (N·A', 2C, H, W)
        outputs = answer(self.network, self.ablation.as_seen(copies), OF_COPIES, len(copies))
        return outputs.view(len(images), len(indices), -1)


class SharedNetwork:
    """Asks a network whose reach is the ablation once for all copies: nothing need be hidden from it.

    Args:
        network: images (N, C, H, W) to the logits (N, A, K) of all copies. One that mixes logits, such as a
            `JointNetwork`, has a method `beside_magnitudes`, to (N, A, K + 1), too.

    Raises:
        UsageError: a `LinesNetwork`'s reach is that of another ablation.
    """

    def __init__(self, network: nn.Module, ablation: Ablation):
        if isinstance(network, LinesNetwork):
            network.require(ablation)
        self.network, self.least = put_into_eval(network), ablation.count

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        return self._asked(self.network, images, indices)

    def beside_magnitudes(self, images: Tensor, indices: Tensor) -> Tensor:
        """(N, A', K + 1): the same of a network that mixes logits, and behind them what it added up."""
        return self._asked(self.network.beside_magnitudes, images, indices)

    def _asked(self, ask: Callable[[Tensor], Tensor], images: Tensor, indices: Tensor) -> Tensor:
        require_eval(self.network)
        plain = images[:, : images.shape[1] // 2].clone()
        return answer(ask, plain, OF_IMAGES, len(images), self.least)[:, indices]


class WithGradients:
    """The outputs of an engine that has no gradients, with those of the whole network, which runs besides."""

    def __init__(self, exact: Engine, differentiable: Engine):
        self.exact, self.differentiable, self.least = exact, differentiable, exact.least

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        return with_gradient_of(self.differentiable.logits(images, indices), self.exact.logits(images, indices).clone())


def with_gradient_of(soft: Tensor, hard: Tensor) -> Tensor:
    """The values of `hard` with the gradient of `soft`."""
    return hard + (soft - soft.detach()).to(hard.dtype)  # the difference is 0 exactly


def engine(name: str, network: nn.Module, ablation: Ablation, channels: int) -> Engine:
    """The engine called "windowed" or "dense"; `channels` is the number 2C of the network's input channels.

    A network that answers for all bands in one pass is its own engine.

    Raises:
        UsageError: its bands are others.
    """
    if has_limited_reach(network):
        return SharedNetwork(network, ablation)
    return WindowedNetwork(network, ablation, channels) if name == "windowed" else DenseNetwork(network, ablation)


def name_of(engine: Engine) -> str:
    """What results call it: dense, shared or windowed."""
    return type(engine).__name__.removesuffix("Network").lower()


@torch.inference_mode()
def softmax_chunks(
    engine: Engine, images: Tensor, ablation: Ablation, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (indices (A',), probabilities (N, A', K)) until every ablation of `images` has had its turn.

    Args:
        images: (N, C, H, W) float, N at most `batch_size`.
        batch_size: ablated copies per call of the engine.
    """
    ablation.require_size(images)
    encoded = encode(images)
    for indices in ablation.chunks(max(engine.least, batch_size // len(images))):
        yield indices, softmax(engine, encoded, indices)


def softmax(engine: Engine, encoded: Tensor, indices: Tensor) -> Tensor:
    """The probabilities (N, A', K) of encoded images (N, 2C, H, W) under the ablations `indices` (A',)."""
    return logits(engine, encoded, indices).softmax(dim=-1)


def softmax_over(engine: Engine, images: Tensor, ablation: Ablation, batch_size: int) -> Tensor:
    """The probabilities (N, A, K) of `softmax_chunks` in one tensor."""
    return torch.cat([p for _, p in softmax_chunks(engine, images, ablation, batch_size)], dim=1)


def logits(engine: Engine, encoded: Tensor, indices: Tensor) -> Tensor:
    """(N, A', K) float32: the engine's outputs for encoded images under the ablations `indices`; see `finite`."""
    return finite(engine.logits(encoded, indices).float())


def logits_and_magnitudes(engine: Engine, encoded: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """`logits`, and (N, A') float32: in proportion to what rounding changes those of each copy, see `masking.margins`.

    That is the largest magnitude among them, unless the network says what it mixed them of.
    """
    if isinstance(engine, SharedNetwork) and hasattr(engine.network, "beside_magnitudes"):
        found, magnitudes = parted(engine.beside_magnitudes(encoded, indices).float())
        return finite(found), magnitudes
    found = logits(engine, encoded, indices)
    return found, found.abs().amax(dim=2)


def require_classes(engine: Engine, dataset: Images) -> None:
    """Raise ValueError unless the labels of `dataset` are among the classes that the engine tells apart."""
    nothing = torch.zeros(1, *dataset.image_shape, device=dataset.labels.device)
    require_labels(logits(engine, encode(nothing), torch.zeros_like(dataset.labels[:1])).shape[2], dataset.labels)
