"""torchvision's ResNets with a stem for encoded images: 6 channels (z, 1 − z) instead of 3."""

import torch
from torch import Tensor, nn
from torchvision import models

from patchcert.errors import UsageError

MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2")


def imagenet_resnet(model: str, channels: int = 6, classes: int = 1000) -> models.ResNet:
    """The network `model` of `MODELS` with torchvision's keys and initialisation, in channels-last order.

    Args:
        channels: of the input: 6 for encoded images, 3 for the images themselves.
    """
    network = models.get_model(model, num_classes=classes)
    network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.description = {"name": model}
    return network.to(memory_format=torch.channels_last)


def pretrained_imagenet_resnet(model: str, classes: int = 1000) -> models.ResNet:
    """As `imagenet_resnet`, starting from torchvision's weights; a last layer for other classes starts afresh.

    Raises:
        UsageError: the weights are neither in torch's cache nor to be had from the internet.
    """
    network = imagenet_resnet(model, classes=classes)
    weights = spread_stem(_torchvision_weights(model))
    if classes != len(weights["fc.bias"]):
        weights |= {key: tensor for key, tensor in network.state_dict().items() if key.startswith("fc.")}
    network.load_state_dict(weights)
    return network


def spread_stem(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """3-channel weights as 6-channel ones that give a fully visible image (z, 1 − z) the same stem output.

    The stem has no bias. Let w be its weights and wa, wb those for z and for 1 − z: wa ∗ z + wb ∗ (1 − z) is
    (wa − wb) ∗ z + wb ∗ 1, so w ∗ z needs wa − wb = w and wb ∗ 1 = 0, at the border too, where the padding
    cuts taps off. Halves, wa = −wb = w/2, leave −w/2 ∗ 1, a constant that no bias can take up because it
    differs along the border. wb ∗ 1 = 0 everywhere if at each tap wb sums to 0 over the channels; of these
    exact solutions wb = 0, wa = w is the simplest, and the only one under which a hidden pixel (0, 0) is what
    the mean colour was to the 3-channel network. Training moves wb from there.
    """
    stem = weights["conv1.weight"]  # (64, 3, 7, 7)
    return weights | {"conv1.weight": torch.cat([stem, torch.zeros_like(stem)], dim=1)}


def _torchvision_weights(model: str) -> dict[str, Tensor]:
    weights = models.get_model_weights(model).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # a damaged file makes torch's reader fail in every way there is
        folder = f"{torch.hub.get_dir()}/checkpoints"
        right = f"its pretrained weights cannot be downloaded or read; put {weights.url} into {folder}"
        raise UsageError("model", model, right) from error
