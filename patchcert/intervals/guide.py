"""The guide of training on few places: a small U-Net that predicts where the margin bounds are lowest.

Chiang et al., arXiv 2003.06693, section 5.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Guide(nn.Module):
    """Images (N, C, H, W) to predicted margin bounds (N, K, H, W), one for each class and top left pixel.

    A U-Net of three levels with `base_width`, twice and four times as many channels.
    """

    def __init__(self, channels: int, classes: int, base_width: int):
        super().__init__()
        self.fine = _block(channels, base_width)
        self.middle = _block(base_width, 2 * base_width)
        self.coarse = _block(2 * base_width, 4 * base_width)
        self.up_middle = _block(6 * base_width, 2 * base_width)
        self.up_fine = _block(3 * base_width, base_width)
        self.predict = nn.Conv2d(base_width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = self.coarse(F.max_pool2d(middle, 2))
        middle = self.up_middle(torch.cat([middle, F.interpolate(coarse, middle.shape[2:])], dim=1))
        fine = self.up_fine(torch.cat([fine, F.interpolate(middle, fine.shape[2:])], dim=1))
        return self.predict(fine)


def _block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
    )


def gumbel(shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str) -> Tensor:
    """Gumbel noise: the largest of logits + noise is a draw from their softmax."""
    uniform = torch.rand(shape, generator=generator, device=device)
    return -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()


@torch.no_grad()
def likeliest(predicted: Tensor, temperature: float, noise: Tensor, count: int) -> Tensor:
    """(K·count, N): for each class `count` places without replacement from softmax(−T · predicted bound).

    The `count` largest of logits + Gumbel noise are such a draw, however small the probabilities are.

    Args:
        predicted: (N, K, L), for all L places.
        temperature: T.
        noise: (N, K, L), see `gumbel`.
    """
    places = (noise - temperature * predicted).topk(count, dim=2).indices  # (N, K, count)
    return places.flatten(1).t()


def guide_loss(predicted: Tensor, places: Tensor, found: Tensor) -> Tensor:
    """Mean squared error of the predicted (N, K, L) against the bounds `found` (P, N, K) at `places` (P, N)."""
    index = places.t()[:, None].expand(-1, predicted.shape[1], -1)  # (N, K, P)
    return F.mse_loss(predicted.gather(2, index), found.permute(1, 2, 0))
