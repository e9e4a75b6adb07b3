"""Networks without defence, as classifiers that can be attacked like the others."""

from torch import Tensor, nn

from patchcert.ablations.ablation import Whole
from patchcert.classifiers.modules import SmoothedClassifier


def undefended(network: nn.Module, height: int, width: int) -> SmoothedClassifier:
    """The classifier of a `network` without defence: the one vote of a single copy that shows everything."""
    return SmoothedClassifier(_Unencoded(network), Whole(height, width))


class _Unencoded(nn.Module):
    """Shows a network of plain images (B, C, H, W) the first half of encoded ones (B, 2C, H, W), which is x."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, encoded: Tensor) -> Tensor:
        return self.network(encoded.chunk(2, dim=1)[0])
