"""A network for bands and a network that sees all but two windows, as one network for all their copies."""

from typing import Any

import torch
from torch import Tensor, nn

from patchcert import networks
from patchcert.ablations.windows import BandsAndWindows, RefinedPairs
from patchcert.engines.added_up import BesideMagnitudes, parted
from patchcert.engines.columns import LinesNetwork
from patchcert.engines.mirrored import Mirrored
from patchcert.engines.pairs import CoarsePairsFirst, EveryPair


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
        of_bands: images to the logits and magnitudes (N, bands, K + 1) of bands, see `added_up`.
        of_windows: the same of copies with hidden windows.
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
        of_bands, of_windows = BesideMagnitudes(bands), BesideMagnitudes(windows)
        self.of_bands = Mirrored(of_bands, ablation.bands) if mirrored else of_bands
        of_windows = Mirrored(of_windows) if mirrored else of_windows
        self.mirrored, self.refined = mirrored, isinstance(ablation.windows, RefinedPairs)
        if self.refined:
            self.of_windows = CoarsePairsFirst(of_windows, ablation.windows, sure)
            self.register_buffer("outside", _outside(ablation).double(), persistent=False)
        else:
            self.of_windows = EveryPair(of_windows, ablation.windows)
        self.register_buffer("weight", torch.tensor(weight))
        parts = {"bands": bands.description, "windows": networks.description(windows)}
        unsure = {"sure": sure} if self.refined else {}
        self.description = {"name": "joint", **parts, "weight": weight, "mirrored": mirrored} | unsure

    @property
    def of_copy(self) -> nn.Module:
        """Copies with hidden windows (B, 2C, H, W) to (B, K + 1), from mirror images too where these are asked."""
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
        return parted(self.beside_magnitudes(images))[0]

    def beside_magnitudes(self, images: Tensor) -> Tensor:
        """(N, A, K + 1): the logits of all copies, and behind them what was added up for these, see `added_up`."""
        bands = self.of_bands(images).float()
        others = [self.outside_windows(bands)] if self.refined else []
        return torch.cat([bands, self.weight * self.of_windows(images, *others)], dim=1)

    def outside_windows(self, bands: Tensor) -> Tensor:
        """(N, A, K + 1): what bands, (N, bands, K + 1), say of copies with hidden windows, in the units of the latter.

        Added up, in float64, are those that show nothing of the windows that a copy hides.
        """
        return (self.outside @ bands.double()).to(bands.dtype) / self.weight


def _outside(ablation: BandsAndWindows) -> Tensor:
    """(A, bands) bool: whether a band shows nothing of the windows that a copy hides, A being copies of windows."""
    hidden = ~ablation.windows.masks().flatten(1)
    return hidden.float() @ ablation.bands.masks().flatten(1).T.float() == 0
