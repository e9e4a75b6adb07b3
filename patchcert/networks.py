"""Networks by name."""

from torch import nn


def mnist_network(channels: int = 2, classes: int = 10) -> nn.Sequential:
    """The paper's network for 28 × 28 grey images: (N, channels, 28, 28) to logits (N, classes).

    Args:
        channels: of the input: 2 for encoded images, 1 for the images themselves.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6272, 500),
        nn.ReLU(),
        nn.Linear(500, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )
