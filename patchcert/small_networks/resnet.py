"""ResNets whose stem keeps the resolution of small images.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016: a 3 × 3 stem, stages of 64, 128, 256 and 512
channels at strides 1, 2, 2, 2, the average over all places, one linear layer. resnet14 is for processors: a stem of 32
channels, three stages of 64, 128 and 256 at stride 2, 102 million multiply-adds where resnet18 has 556; resnet14_half
has half of the channels of each, and 26 million.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Stages = tuple[tuple[int, int], ...]
"""Channels of each stage and the stride of its first block."""

FOUR_STAGES: Stages = ((64, 1), (128, 2), (256, 2), (512, 2))


class _Residual(nn.Module):
    """relu(body(x) + shortcut(x)); a subclass lays out the body for `channels` at `stride`.

    The shortcut is the input itself, or a strided 1 × 1 convolution where shapes differ.
    """

    expansion: int

    def _add_shortcut(self, in_channels: int, out_channels: int, stride: int) -> None:
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))


class BasicBlock(_Residual):
    """Two 3 × 3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self._add_shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out))
        return (out + self.shortcut(x)).relu()


class Bottleneck(_Residual):
    """A 3 × 3 convolution between two of 1 × 1, the second of which has four times the channels."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self._add_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        out = self.bn3(self.conv3(out))
        return (out + self.shortcut(x)).relu()


class ResNet(nn.Module):
    """Images (N, channels, H, W), H and W at least 8 and made for 32, to logits (N, classes)."""

    def __init__(
        self,
        block: type[_Residual],
        depths: tuple[int, ...],
        channels: int,
        classes: int,
        stem: int = 64,
        stages: Stages = FOUR_STAGES,
    ):
        super().__init__()
        self.stages, width = len(depths), stem
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for number, (depth, (stage_channels, stride)) in enumerate(zip(depths, stages, strict=True), start=1):
            stage = nn.Sequential()
            for position in range(depth):
                stage.append(block(width, stage_channels, stride if position == 0 else 1))
                width = stage_channels * block.expansion
            self.add_module(f"layer{number}", stage)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        for number in range(1, self.stages + 1):
            out = getattr(self, f"layer{number}")(out)
        return self.linear(out.mean(dim=(2, 3)))

    def fold(self) -> None:
        """Turn it, once, into a network for evaluation alone: each normalisation becomes part of its convolution."""
        self.eval()
        for part in list(self.modules()):
            for number in (1, 2, 3):
                if hasattr(part, f"bn{number}"):
                    fused = fuse_conv_bn_eval(getattr(part, f"conv{number}"), getattr(part, f"bn{number}"))
                    setattr(part, f"conv{number}", fused)
                    setattr(part, f"bn{number}", nn.Identity())
            if isinstance(part, _Residual) and len(part.shortcut):
                part.shortcut = fuse_conv_bn_eval(*part.shortcut)
        self.to(memory_format=torch.channels_last)


MODELS = {
    "resnet14_half": (BasicBlock, (2, 2, 2), {"stem": 16, "stages": ((32, 2), (64, 2), (128, 2))}),
    "resnet14": (BasicBlock, (2, 2, 2), {"stem": 32, "stages": ((64, 2), (128, 2), (256, 2))}),
    "resnet18": (BasicBlock, (2, 2, 2, 2), {}),
    "resnet34": (BasicBlock, (3, 4, 6, 3), {}),
    "resnet50": (Bottleneck, (3, 4, 6, 3), {}),
    "resnet101": (Bottleneck, (3, 4, 23, 3), {}),
    "resnet152": (Bottleneck, (3, 8, 36, 3), {}),
}


def cifar_resnet(model: str, channels: int = 6, classes: int = 10) -> ResNet:
    """The network `model` of `MODELS`, its weights in channels-last order, in which convolutions run fastest.

    Args:
        channels: of the input: 6 for encoded colour images, 3 for the images themselves.
    """
    block, depths, shape = MODELS[model]
    network = ResNet(block, depths, channels, classes, **shape)
    network.description = {"name": model}
    return network.to(memory_format=torch.channels_last)
