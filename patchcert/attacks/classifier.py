"""The attacked classifier: votes of ablated copies, or one vote of an undefended network."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchcert.smoothing.ablation import Ablation, Whole, encode
from patchcert.smoothing.certificate import predict
from patchcert.smoothing.voting import DenseNetwork, TopOneVote, VoteRule, softmax_over


@dataclass(frozen=True)
class Classifier:
    """The class with most votes of ablated copies.

    Attributes:
        network: base classifier, encoded images (B, 2C, H, W) to logits (B, K), in eval mode, its weights fixed.
        ablation: the copies.
        rule: how they vote.
    """

    network: nn.Module
    ablation: Ablation
    rule: VoteRule

    def logits(self, images: Tensor, rows: Tensor, copies: Tensor) -> Tensor:
        """(P, K): what the network says of ablations `copies` (P,) of image `rows` (P,) in `images` (R, C, H, W)."""
        visible = self.ablation.masks(copies)[:, None]  # (P, 1, H, W)
        return self.network(self.ablation.as_seen(encode(images)[rows] * visible)).float()

    def probabilities(self, images: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Yield the softmax of every copy, (N', A, K), for some of `images` (N, C, H, W) after the other.

        Args:
            batch_size: ablated copies per call of the network, unless one image alone has more.
        """
        engine = DenseNetwork(self.network, self.ablation)
        for part in images.split(max(1, batch_size // self.ablation.count)):
            yield softmax_over(engine, part, self.ablation, batch_size)

    def predict(self, images: Tensor, batch_size: int) -> Tensor:
        """(N,) int64: the hard decisions, from all copies."""
        return torch.cat([predict(self.rule(p).sum(dim=1)) for p in self.probabilities(images, batch_size)])


def undefended(network: nn.Module, height: int, width: int) -> Classifier:
    """The classifier of a `network` without defence: the one vote of a single copy that shows everything."""
    return Classifier(_Unencoded(network), Whole(height, width), TopOneVote())


class _Unencoded(nn.Module):
    """Shows a network of plain images (B, C, H, W) the first half of encoded ones (B, 2C, H, W), which is x."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, encoded: Tensor) -> Tensor:
        return self.network(encoded.chunk(2, dim=1)[0])
