"""The base classifier over all ablated copies of a batch, and the rules by which the copies vote."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from patchcert.data.folders import Images
from patchcert.networks import finite, require_eval, require_labels
from patchcert.smoothing.ablation import Ablation, encode
from patchcert.smoothing.columns import LinesNetwork, has_limited_reach
from patchcert.smoothing.windowed import WindowedNetwork


class VoteRule(Protocol):
    """Turns softmax outputs (…, K) into votes (…, K) bool."""

    def __call__(self, probabilities: Tensor) -> Tensor: ...

    def bounds(self, probabilities: Tensor, numerical_margin: float) -> tuple[Tensor, Tensor]:
        """Votes cast for certain and votes possibly cast, (…, K) bool each.

        A vote is certain, or not possible, if it is further than `numerical_margin` (ν) from being decided otherwise:
        its probability from the threshold, or from that of the runner-up, who may gain what the first loses.
        """


@dataclass(frozen=True)
class ThresholdVote:
    """An ablated copy votes for every class whose probability is at least `threshold` (θ): none, one or several."""

    threshold: float

    def __call__(self, probabilities: Tensor) -> Tensor:
        return probabilities >= self.threshold

    def bounds(self, probabilities: Tensor, numerical_margin: float) -> tuple[Tensor, Tensor]:
        return probabilities >= self.threshold + numerical_margin, probabilities >= self.threshold - numerical_margin


@dataclass(frozen=True)
class TopOneVote:
    """An ablated copy votes for its most probable class alone, the lowest index among equals."""

    def __call__(self, probabilities: Tensor) -> Tensor:
        winner = probabilities.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(-1, winner, True)

    def bounds(self, probabilities: Tensor, numerical_margin: float) -> tuple[Tensor, Tensor]:
        possible = probabilities.amax(dim=-1, keepdim=True) - probabilities <= numerical_margin
        return possible & (possible.sum(dim=-1, keepdim=True) == 1), possible


@dataclass(frozen=True)
class Ballot:
    """How votes are counted: by `rule`, those within `numerical_margin` (ν) as the adversary's."""

    rule: VoteRule
    numerical_margin: float = 0.0

    def bounds(self, probabilities: Tensor) -> Tensor:
        """(B, …, K) bool: certain votes first, possible ones last; with ν = 0 they are the same, and B is 1."""
        if self.numerical_margin == 0:
            return self.rule(probabilities)[None]
        return torch.stack(self.rule.bounds(probabilities, self.numerical_margin))

    def as_json(self) -> dict:
        return {"threshold": getattr(self.rule, "threshold", None), "numerical_margin": self.numerical_margin}


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
        self.network, self.ablation = network.eval(), ablation

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        require_eval(self.network)
        visible = self.ablation.masks(indices)[None, :, None]  # (1, A', 1, H, W)
        copies = (images[:, None] * visible).flatten(0, 1)  # (N·A', 2C, H, W)
        outputs = self.network(self.ablation.as_seen(copies))
        if outputs.dim() != 2 or len(outputs) != len(copies):
            raise ValueError(f"the network gives {tuple(outputs.shape)} for {len(copies)} copies, expected (copies, K)")
        return outputs.view(len(images), len(indices), -1)


class SharedNetwork:
    """Asks a network whose reach is the ablation once for all copies: nothing need be hidden from it.

    Args:
        network: images (N, C, H, W) to the logits (N, A, K) of all copies.

    Raises:
        UsageError: a `LinesNetwork`'s reach is that of another ablation.
    """

    def __init__(self, network: nn.Module, ablation: Ablation):
        if isinstance(network, LinesNetwork):
            network.require(ablation)
        self.network, self.least = network.eval(), ablation.count

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        require_eval(self.network)
        return self.network(images[:, : images.shape[1] // 2])[:, indices]


def engine(name: str, network: nn.Module, ablation: Ablation, channels: int) -> Engine:
    """The engine called "windowed" or "dense"; `channels` is the number 2C of the network's input channels.

    A network that answers for all bands in one pass is its own engine.

    Raises:
        UsageError: its bands are others.
    """
    if has_limited_reach(network):
        return SharedNetwork(network, ablation)
    return WindowedNetwork(network, ablation, channels) if name == "windowed" else DenseNetwork(network, ablation)


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


def require_classes(engine: Engine, dataset: Images) -> None:
    """Raise ValueError unless the labels of `dataset` are among the classes that the engine tells apart."""
    nothing = torch.zeros(1, *dataset.image_shape, device=dataset.labels.device)
    require_labels(logits(engine, encode(nothing), torch.zeros_like(dataset.labels[:1])).shape[2], dataset.labels)
