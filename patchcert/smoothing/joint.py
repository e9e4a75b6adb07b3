"""A network for bands and a network that sees all but two windows, as one network for all their copies."""

import torch
from torch import Tensor, nn

from patchcert import networks
from patchcert.smoothing.ablation import BandsAndWindows, encode
from patchcert.smoothing.columns import LinesNetwork
from patchcert.smoothing.voting import DenseNetwork

COPIES_AT_ONCE = 256
"""With hidden windows, per call of their network, unless there are more images."""


class JointNetwork(nn.Module):
    """Images (N, C, H, W) in [0, 1] to the logits (N, A, K) of all copies of `BandsAndWindows`, for `LinkedMasking`.

    Args:
        bands: for its bands of columns and rows.
        windows: base classifier, for its copies with hidden windows.
        weight: by which the logits of the latter count.

    Attributes:
        limited_reach: True, as `columns.has_limited_reach` asks.
    """

    limited_reach = True

    def __init__(self, bands: LinesNetwork, windows: nn.Module, ablation: BandsAndWindows, weight: float):
        super().__init__()
        bands.require(ablation.bands)
        self.bands, self.windows, self.hidden = bands, windows, ablation.windows
        self.register_buffer("weight", torch.tensor(weight))
        parts = {"bands": bands.description, "windows": networks.description(windows)}
        self.description = {"name": "joint", **parts, "weight": weight}

    def fold(self) -> None:
        """Turn both, once, into networks for evaluation alone, where they can be."""
        self.bands.fold()
        if hasattr(self.windows, "fold"):
            self.windows.fold()

    def forward(self, images: Tensor) -> Tensor:
        encoded, engine = encode(images), DenseNetwork(self.windows, self.hidden.to(images.device))
        chunks = self.hidden.chunks(max(1, COPIES_AT_ONCE // len(images)))
        scores = torch.cat([engine.logits(encoded, chunk) for chunk in chunks], dim=1)
        return torch.cat([self.bands(images).float(), self.weight * scores.float()], dim=1)
