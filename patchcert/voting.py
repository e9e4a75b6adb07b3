"""The base classifier over all ablated copies of a batch, and the rules by which the copies vote."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from patchcert.ablation import Ablation, encode


class VoteRule(Protocol):
    """Turns softmax outputs (…, K) into votes (…, K) bool."""

    def __call__(self, probabilities: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ThresholdVote:
    """An ablated copy votes for every class whose probability is at least `threshold` (θ): none, one or several."""

    threshold: float

    def __call__(self, probabilities: Tensor) -> Tensor:
        return probabilities >= self.threshold


@dataclass(frozen=True)
class TopOneVote:
    """An ablated copy votes for its most probable class alone, the lowest index among equals."""

    def __call__(self, probabilities: Tensor) -> Tensor:
        winner = probabilities.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(-1, winner, True)


@torch.inference_mode()
def softmax_chunks(
    network: nn.Module, images: Tensor, ablation: Ablation, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (indices (A',), probabilities (N, A', K)) until every ablation of `images` has had its turn.

    Args:
        network: base classifier, (B, 2C, H, W) to logits (B, K), in eval mode.
        images: (N, C, H, W) float, N at most `batch_size`.
        batch_size: ablated copies per call of the network.
    """
    encoded = encode(images)
    for indices in ablation.chunks(max(1, batch_size // len(images))):
        visible = ablation.masks(indices)[None, :, None]  # (1, A', 1, H, W)
        copies = (encoded[:, None] * visible).flatten(0, 1)  # (N·A', 2C, H, W)
        yield indices, network(copies).softmax(dim=-1).view(len(images), len(indices), -1)


def softmax_over(network: nn.Module, images: Tensor, ablation: Ablation, batch_size: int) -> Tensor:
    """The probabilities (N, A, K) of `softmax_chunks` in one tensor."""
    return torch.cat([p for _, p in softmax_chunks(network, images, ablation, batch_size)], dim=1)
