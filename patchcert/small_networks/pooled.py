"""A small network that learns fast: a whitened first layer, then three groups of wide convolutions.

The shape is that of public speed records on CIFAR-10. The first layer looks at 2 × 2 pixels and is not trained: its
filters turn the training images' patches into numbers of mean 0 and variance 1 that do not correlate. Each group
halves the image right after its first convolution, before anything else is computed. Normalisations shift, but do
not scale: the next one would undo it.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from patchcert.arithmetic import without_autocast

GROUPS = (64, 256, 256)
"""Channels."""

SCALE = 1 / 8
"""Of what the last layer gets, so that SGD can have one learning rate for it and for shifts."""

SMALLEST_VARIANCE = 5e-4
"""Added to variances, so that directions which images hardly use are not blown up."""


class Whitening(nn.Conv2d):
    """Copies (N, 2C, H, W) of channels (x, 1 − x), hidden pixels (0, 0), to what 2 × 2 patches show, (N, 8C + 1, …).

    Two channels of opposite sign for each direction in which patches of images vary, and the share of pixels shown.
    A hidden pixel counts as one of the mean colour, and so as nothing.
    """

    def __init__(self, channels: int):
        super().__init__(2 * channels, 8 * channels + 1, 2, bias=False)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return without_autocast(super().forward, self.weight, x)  # bfloat16 has no digits for faint differences

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take mean and directions from images (N, C, H, W) in [0, 1]."""
        images = images.double()
        channels = images.shape[1]
        mean = images.mean(dim=(0, 2, 3))
        patches = (images - mean[:, None, None]).unfold(2, 2, 1).unfold(3, 2, 1)  # (N, C, H − 1, W − 1, 2, 2)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 4 * channels)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + SMALLEST_VARIANCE).sqrt()).T.view(-1, channels, 2, 2)
        # x − mean is (1 − mean) · x − mean · (1 − x), and 0 where both channels are
        seen = torch.cat([filters * (1 - mean)[:, None, None], -filters * mean[:, None, None]], dim=1)
        shown = torch.full_like(seen[:1], 1 / (4 * channels))
        self.weight.copy_(torch.cat([seen, -seen, shown]))


class Group(nn.Module):
    """Two convolutions; the image is halved after the first."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv1, self.bn1 = _convolution(in_channels, channels), _normalisation(channels)
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.bn2 = _convolution(channels, channels), _normalisation(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = gelu(self.bn1(self.pool(self.conv1(x))))
        return gelu(self.bn2(self.conv2(out)))


class PooledNetwork(nn.Module):
    """Copies (N, 2C, H, W) of channels (x, 1 − x), H and W at least 9 and made for 32, to logits (N, classes).

    Under autocast logits are float32, too: of bfloat16, those near 10 would be multiples of 1/16.
    """

    def __init__(self, channels: int, classes: int, groups: tuple[int, ...] = GROUPS):
        super().__init__()
        self.whitening = Whitening(channels // 2)
        widths = (self.whitening.out_channels, *groups)
        self.groups = nn.Sequential(*map(Group, widths, groups))
        self.linear = nn.Linear(groups[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.groups(gelu(self.whitening(x)))
        return without_autocast(self.linear, self.linear.weight, SCALE * out.amax(dim=(2, 3)))

    def prepare(self, images: Tensor) -> None:
        """Set what is not trained, from training images (N, C, H, W) in [0, 1]."""
        self.whitening.fit(images)

    def fold(self) -> None:
        """Turn it, once, into a network for evaluation alone: each normalisation becomes part of its convolution.

        Pooling lies between two of them; it makes no difference, for a normalisation keeps the order of numbers.
        """
        self.eval()
        for group in self.groups:
            for number in (1, 2):
                fused = fuse_conv_bn_eval(getattr(group, f"conv{number}"), getattr(group, f"bn{number}"))
                setattr(group, f"conv{number}", fused)
                setattr(group, f"bn{number}", nn.Identity())
        self.to(memory_format=torch.channels_last)


def pooled_network(channels: int, classes: int) -> PooledNetwork:
    """The network `pooled`, its weights in channels-last order.

    Args:
        channels: of the input, copies of colour (6) or grey (2) images.
    """
    network = PooledNetwork(channels, classes)
    network.description = {"name": "pooled"}
    return network.to(memory_format=torch.channels_last)


def _convolution(in_channels: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)


def _normalisation(channels: int) -> nn.BatchNorm2d:
    """Shifts and does not scale."""
    normalisation = nn.BatchNorm2d(channels)
    normalisation.weight.requires_grad_(False)
    return normalisation
