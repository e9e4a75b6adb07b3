"""A network for bands and a network that sees all but two windows, as one network for all their copies."""

import torch
from torch import Tensor, nn

from patchcert import networks
from patchcert.smoothing.ablation import BandsAndWindows, RefinedPairs
from patchcert.smoothing.columns import LinesNetwork
from patchcert.smoothing.pairs import pairs_network


class JointNetwork(nn.Module):
    """Images (N, C, H, W) in [0, 1] to the logits (N, A, K) of all copies of `BandsAndWindows`, for `LinkedMasking`.

    Args:
        bands: for its bands of columns and rows.
        windows: base classifier, for its copies with hidden windows.
        weight: by which the logits of the latter count.
        sure: of `CoarsePairsFirst`, where windows are refined.

    Attributes:
        limited_reach: True, as `columns.has_limited_reach` asks.
    """

    limited_reach = True

    def __init__(
        self, bands: LinesNetwork, windows: nn.Module, ablation: BandsAndWindows, weight: float, sure: float = 3.0
    ):
        super().__init__()
        bands.require(ablation.bands)
        self.bands, self.windows, self.pairs = bands, windows, pairs_network(windows, ablation.windows, sure)
        self.register_buffer("weight", torch.tensor(weight))
        parts = {"bands": bands.description, "windows": networks.description(windows)}
        refined = {"sure": sure} if isinstance(ablation.windows, RefinedPairs) else {}
        self.description = {"name": "joint", **parts, "weight": weight, **refined}

    def fold(self) -> None:
        """Turn both, once, into networks for evaluation alone, where they can be."""
        self.bands.fold()
        if hasattr(self.windows, "fold"):
            self.windows.fold()

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.bands(images).float(), self.weight * self.pairs(images)], dim=1)
