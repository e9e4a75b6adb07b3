"""What networks say of themselves, and those of MNIST."""

from torch import nn


def description(network: nn.Module) -> dict:
    """What a checkpoint says of its network: `name` and whatever else it takes to build it, in JSON's types.

    Who builds a network by a name gives it an attribute `description`; others are called by their class.
    """
    said = getattr(network, "description", None)
    return said if isinstance(said, dict) else {"name": type(network).__name__}


def mnist_network(channels: int = 2, classes: int = 10) -> nn.Sequential:
    """The paper's network for 28 × 28 grey images: (N, channels, 28, 28) to logits (N, classes).

    Args:
        channels: of the input: 2 for encoded images, 1 for the images themselves.
    """
    network = nn.Sequential(
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
    network.description = {"name": "mnist"}
    return network
