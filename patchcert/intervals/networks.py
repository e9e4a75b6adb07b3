"""The networks that configs name: `nn.Sequential` of convolutions, ReLU, flatten and linear layers."""

import inspect
import math

import torch
from torch import nn

from patchcert.errors import UsageError
from patchcert.intervals.config import Adversary, Config, Model
from patchcert.intervals.sparse import require_k


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


LARGEST_SIZE, MOST_WEIGHTS = 10**6, 10**9
"""The most that a parameter of a network may be, and weights that it may have."""

NETWORKS = {"mlp": mlp, "cnn_2layer": cnn_2layer, "cnn_4layer": cnn_4layer, "cnn_5layer": cnn_5layer}


def build(model_class: str, channels: int, size: int, classes: int, params: dict) -> nn.Sequential:
    """The network that a config's `model_class` and `model_params` describe, for `size` × `size` images.

    Raises:
        UsageError: there is no such network, or it has other parameters, or they are not whole numbers in reach.
    """
    if model_class not in NETWORKS:
        raise UsageError("config", f"model_class={model_class}", f"expected one of {', '.join(NETWORKS)}")
    network = NETWORKS[model_class]
    try:
        inspect.signature(network).bind(channels, size, classes, **params)
    except TypeError as error:
        right = f"{model_class} {inspect.signature(network)}: {error}"
        raise UsageError("config", f"model_params={params}", right) from error
    if not all(type(value) is int and 1 <= value <= LARGEST_SIZE for value in params.values()):
        raise UsageError("config", f"model_params={params}", f"expected whole numbers from 1 to {LARGEST_SIZE}")
    with torch.device("meta"):  # where weights take no memory
        weights = sum(weight.numel() for weight in network(channels, size, classes, **params).parameters())
    if weights > MOST_WEIGHTS:
        right = f"expected a network of at most {MOST_WEIGHTS} weights, this one has {weights}"
        raise UsageError("config", f"model_params={params}", right)
    return network(channels, size, classes, **params)


def network_of(config: Config, model: Model, image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """One of the config's networks, for images of shape (C, H, W) that are large enough for what the config asks.

    Raises:
        UsageError: the patch, the number of drawn or merged places or k is too large, mean and std are of other
            channels.
    """
    channels, height, width = image_shape
    method, mean = config.training_params.method_params, list(config.mean)
    if len(mean) != channels:
        raise UsageError("config", f"mean={mean}", f"expected {channels} numbers, one for each channel of the images")
    network = build(model.model_class, channels, height, classes, model.model_params)
    _require_reach(method, "training_params", network, height, width)
    _require_reach(config.eval_params.method_params, "eval_params", network, height, width)
    if not method.sparse:
        rows, columns = height - method.patch_w + 1, width - method.patch_l + 1
        merged = f"neighbor={list(method.neighbor)}, multiplied"
        _require_at_most("patch_count", method.patch_count, rows * columns, f"there are {rows * columns} places")
        _require_at_most(merged, math.prod(method.neighbor), max(rows, columns), f"there are {rows} × {columns} places")
    return network


def _require_reach(adversary: Adversary, section: str, network: nn.Sequential, height: int, width: int) -> None:
    """Raise UsageError unless the patch fits into images of this size, or a unit sees k inputs."""
    if adversary.sparse:
        require_k(network, adversary.k)
        return
    _require_at_most(f"{section}:method_params:patch_w", adversary.patch_w, height, f"images have {height} rows")
    _require_at_most(f"{section}:method_params:patch_l", adversary.patch_l, width, f"images have {width} columns")


def _require_at_most(key: str, value: int, largest: int, what: str) -> None:
    if value > largest:
        raise UsageError("config", f"{key}={value}", f"expected at most {largest}, {what}")
