"""Networks for small images with any number of input channels."""

from torch import nn

from patchcert.small_networks.pooled import pooled_network
from patchcert.small_networks.resnet import MODELS, cifar_resnet

MODELS_OF_COPIES = ("pooled", *MODELS)
"""Names for `network_of_copies`."""


def network_of_copies(model: str, channels: int = 6, classes: int = 10) -> nn.Module:
    """The network `model` of `MODELS_OF_COPIES` for copies of images, of which pixels are hidden.

    Args:
        channels: of the input: 6 for encoded colour images, 2 for grey ones.
    """
    return pooled_network(channels, classes) if model == "pooled" else cifar_resnet(model, channels, classes)


__all__ = ["MODELS", "MODELS_OF_COPIES", "cifar_resnet", "network_of_copies"]
