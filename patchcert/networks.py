"""Networks by name."""

from torch import nn


def mnist_network() -> nn.Sequential:
    """The paper's network for encoded 28 × 28 grey images: (N, 2, 28, 28) to logits (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(2, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6272, 500),
        nn.ReLU(),
        nn.Linear(500, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
