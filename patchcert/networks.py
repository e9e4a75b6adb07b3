"""What networks say of themselves, when what they say counts, and those of MNIST."""

from torch import Tensor, nn


def description(network: nn.Module) -> dict:
    """What a checkpoint says of its network: `name` and whatever else it takes to build it, in JSON's types.

    Who builds a network by a name gives it an attribute `description`; others are called by their class.
    """
    said = getattr(network, "description", None)
    return said if isinstance(said, dict) else {"name": type(network).__name__}


def finite(outputs: Tensor) -> Tensor:
    """The outputs of a network; FloatingPointError if one is not finite, because then a vote would mean nothing."""
    if not outputs.isfinite().all():
        raise FloatingPointError("the network's outputs are not finite: no answer can be given")
    return outputs


def require_eval(network: nn.Module) -> None:
    """Raise RuntimeError if any part of `network` is in training mode, in which outputs depend on other images."""
    if any(part.training for part in network.modules()):
        raise RuntimeError("the network is in training mode: no answer can be given; network.eval() ends it")


def require_labels(classes: int, labels: Tensor) -> None:
    """Raise ValueError unless `labels` (N,) are among so many classes, which a network tells apart."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"the network tells {classes} classes apart, labels go from {labels.min()} to {labels.max()}")


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
