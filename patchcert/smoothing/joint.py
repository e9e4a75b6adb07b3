"""A network for bands and a network that sees all but two windows, as one network for all their copies."""

import torch
from torch import Tensor, nn

from patchcert import networks
from patchcert.smoothing.ablation import BandsAndWindows, RefinedPairs
from patchcert.smoothing.columns import LinesNetwork
from patchcert.smoothing.pairs import CoarsePairsFirst, EveryPair


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

    def __init__(self, bands: LinesNetwork, windows: nn.Module, ablation: BandsAndWindows, weight: float, sure: float):
        super().__init__()
        bands.require(ablation.bands)
        self.bands, self.windows = bands, windows
        refined = isinstance(ablation.windows, RefinedPairs)
        self.pairs = (
            CoarsePairsFirst(windows, ablation.windows, sure) if refined else EveryPair(windows, ablation.windows)
        )
        self.register_buffer("weight", torch.tensor(weight))
        parts = {"bands": bands.description, "windows": networks.description(windows)}
        self.description = {"name": "joint", **parts, "weight": weight} | ({"sure": sure} if refined else {})

    def fold(self) -> None:
        """Turn both, once, into networks for evaluation alone, where they can be."""
        self.bands.fold()
        if hasattr(self.windows, "fold"):
            self.windows.fold()

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.bands(images).float(), self.weight * self.pairs(images)], dim=1)
