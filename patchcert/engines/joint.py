"""A network for bands and a network that sees all but two windows, as one network for all their copies."""

from typing import Any

import torch
from torch import Tensor, nn

from patchcert import networks
from patchcert.ablations.windows import BandsAndWindows, RefinedPairs
from patchcert.engines.columns import LinesNetwork
from patchcert.engines.mirrored import Mirrored
from patchcert.engines.pairs import CoarsePairsFirst, EveryPair

STEEP = 3
"""So many times `sure` the windows' logits may be, before margins have to grow faster than these do."""


class JointNetwork(nn.Module):
    """Images (N, C, H, W) in [0, 1] to the logits (N, A, K) of all copies of `BandsAndWindows`, for `LinkedMasking`.

    Where windows are refined, a copy is unsure by the sum of what the windows' network says of it and the bands that
    show nothing of its hidden windows.

    Args:
        bands: for its bands of columns and rows.
        windows: base classifier, for its copies with hidden windows.
        weight: by which the logits of the latter count.
        sure: of `CoarsePairsFirst`, where windows are refined.
        mirrored: ask both of the mirror image, too, and take means.

    Attributes:
        limited_reach: True, as `columns.has_limited_reach` asks.
    """

    limited_reach = True

    def __init__(
        self,
        bands: LinesNetwork,
        windows: nn.Module,
        ablation: BandsAndWindows,
        weight: float,
        sure: float,
        mirrored: bool = False,
    ):
        super().__init__()
        bands.require(ablation.bands)
        self.bands, self.windows = bands, windows
        self.of_bands = Mirrored(bands, ablation.bands) if mirrored else bands
        of_windows = Mirrored(windows) if mirrored else windows
        self.mirrored, self.refined = mirrored, isinstance(ablation.windows, RefinedPairs)
        if self.refined:
            self.of_windows = CoarsePairsFirst(of_windows, ablation.windows, sure)
            self.register_buffer("outside", _outside(ablation).float(), persistent=False)
        else:
            self.of_windows = EveryPair(of_windows, ablation.windows)
        self.register_buffer("weight", torch.tensor(weight))
        parts = {"bands": bands.description, "windows": networks.description(windows)}
        unsure = {"sure": sure} if self.refined else {}
        self.description = {"name": "joint", **parts, "weight": weight, "mirrored": mirrored} | unsure

    @property
    def of_copy(self) -> nn.Module:
        """Copies with hidden windows (B, 2C, H, W) to logits (B, K), of mirror images too where these are asked."""
        return (self.of_windows.coarse if self.refined else self.of_windows).network

    def compile(self, *arguments: Any, **settings: Any) -> None:
        """Both networks, each by itself: they are asked apart, too."""
        self.bands.compile(*arguments, **settings)
        self.windows.compile(*arguments, **settings)

    def fold(self) -> None:
        """Turn both, once, into networks for evaluation alone, where they can be."""
        self.bands.fold()
        if hasattr(self.windows, "fold"):
            self.windows.fold()

    def forward(self, images: Tensor) -> Tensor:
        bands = self.of_bands(images).float()
        if self.refined:
            windows = self.of_windows(images, self.outside_windows(bands) / self.weight)
        else:
            windows = self.of_windows(images)
        return torch.cat([bands, self.weight * windows], dim=1)

    def magnitudes(self, largest: Tensor) -> Tensor:
        """(N, A): in proportion to what rounding changes the logits of all copies, from the `largest` (N, A) of each.

        Where windows are refined an error e of the lead that decides changes the share of the coarse ones by e / sure,
        and the logits by that times what coarse and fine ones differ by, at most twice the largest magnitude m of what
        the windows' network says. So a difference of two logits may err by 4 m / sure times as much as where nothing is
        refined: twelve times at m = `STEEP` · sure. Margins are at least that many times what was seen of leads. For m
        stands the largest magnitude of the mixtures, which is as large unless coarse and fine logits cancel everywhere.
        """
        if not self.refined:
            return largest
        of_windows = largest[:, self.outside.shape[1] :].amax(dim=1, keepdim=True) / self.weight
        return largest * (of_windows / (STEEP * self.of_windows.sure)).clamp(min=1)

    def outside_windows(self, bands: Tensor) -> Tensor:
        """(N, A, K): of the bands' logits the sums over those that show nothing of the windows that a copy hides."""
        with torch.autocast(bands.device.type, enabled=False):
            return self.outside @ bands


def _outside(ablation: BandsAndWindows) -> Tensor:
    """(A, bands) bool: whether a band shows nothing of the windows that a copy hides, A being copies of windows."""
    hidden = ~ablation.windows.masks().flatten(1)
    return hidden.float() @ ablation.bands.masks().flatten(1).T.float() == 0
