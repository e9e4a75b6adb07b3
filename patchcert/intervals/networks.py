"""The networks that configs name: `nn.Sequential` of convolutions, ReLU, flatten and linear layers."""

import inspect

from torch import nn

from patchcert.errors import UsageError


def mlp(channels: int, size: int, classes: int, hidden: int = 255) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def cnn_2layer(channels: int, size: int, classes: int, width: int, linear_size: int) -> nn.Sequential:
    """Two 4 × 4 convolutions of stride 2 and one hidden linear layer."""
    return nn.Sequential(
        nn.Conv2d(channels, 4 * width, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(4 * width, 8 * width, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * width * (size // 4) ** 2, linear_size), nn.ReLU(),
        nn.Linear(linear_size, classes),
    )  # fmt: skip


def cnn_4layer(
    channels: int, size: int, classes: int, width: int, linear_size: int, first_kernel: int = 3
) -> nn.Sequential:
    """Four convolutions, two of them 4 × 4 of stride 2, and two hidden linear layers.

    `first_kernel` is 13 for sparse attacks: k pixels are then a small share of what one unit sees.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 4 * width, first_kernel, padding=first_kernel // 2), nn.ReLU(),
        nn.Conv2d(4 * width, 4 * width, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(4 * width, 8 * width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8 * width, 8 * width, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * width * (size // 4) ** 2, linear_size), nn.ReLU(),
        nn.Linear(linear_size, linear_size), nn.ReLU(),
        nn.Linear(linear_size, classes),
    )  # fmt: skip


def cnn_5layer(channels: int, size: int, classes: int, width: int, linear_size: int) -> nn.Sequential:
    """Five 3 × 3 convolutions, the third of stride 2, and one hidden linear layer."""
    return nn.Sequential(
        nn.Conv2d(channels, 4 * width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4 * width, 4 * width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4 * width, 8 * width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8 * width, 8 * width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8 * width, 8 * width, 3, padding=1), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * width * (size // 2) ** 2, linear_size), nn.ReLU(),
        nn.Linear(linear_size, classes),
    )  # fmt: skip


NETWORKS = {"mlp": mlp, "cnn_2layer": cnn_2layer, "cnn_4layer": cnn_4layer, "cnn_5layer": cnn_5layer}


def build(model_class: str, channels: int, size: int, classes: int, params: dict) -> nn.Sequential:
    """The network that a config's `model_class` and `model_params` describe, for `size` × `size` images.

    Raises:
        UsageError: there is no such network, or it has other parameters.
    """
    if model_class not in NETWORKS:
        raise UsageError("config", f"model_class={model_class}", f"expected one of {', '.join(NETWORKS)}")
    network = NETWORKS[model_class]
    try:
        inspect.signature(network).bind(channels, size, classes, **params)
    except TypeError as error:
        right = f"{model_class} {inspect.signature(network)}: {error}"
        raise UsageError("config", f"model_params={params}", right) from error
    return network(channels, size, classes, **params)
