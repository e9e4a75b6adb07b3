"""Logits, and beside them the magnitude of what was added up for them. Margins are a share of this magnitude.

Where logits are mixed, large ones may cancel. Then the mixture does not show how much rounding changes it. So each row
of logits gets one more number behind the classes: the largest magnitude among them. It is mixed as the logits are, and
never cancels, because it is not negative.
"""

import torch
from torch import Tensor, nn


class BesideMagnitudes(nn.Module):
    """A network's logits (…, K), and behind them the largest magnitude among them: (…, K + 1)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return torch.cat([logits, logits.abs().amax(dim=-1, keepdim=True)], dim=-1)


def parted(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (…, K) and magnitudes (…) from `answers` (…, K + 1)."""
    return answers[..., :-1], answers[..., -1]
