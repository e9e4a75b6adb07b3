"""What networks say of themselves, when what they say counts, and those of MNIST."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from patchcert.errors import UsageError, one_line


def description(network: nn.Module) -> dict:
    """What a checkpoint says of its network: `name` and whatever else it takes to build it, in JSON's types.

    Who builds a network by a name gives it an attribute `description`; others are called by their class.
    """
    said = getattr(network, "description", None)
    return said if isinstance(said, dict) else {"name": type(network).__name__}


def require_module(network: object) -> None:
    """Raise UsageError unless the argument `network` is a module."""
    if not isinstance(network, nn.Module):
        raise UsageError("network", type(network).__name__, "expected a torch.nn.Module")


def put_into_eval(network: nn.Module) -> nn.Module:
    """The network itself, in eval mode, whatever an `eval` of its own returns.

    Raises:
        ValueError: it cannot be put there, as what torch.export makes cannot.
    """
    try:
        network.eval()
    except NotImplementedError as error:
        what = f"the network is a {type(network).__name__} that has no eval mode"
        raise ValueError(f"{what}, as torch.export makes them; expected the module that was exported") from error
    return network


def answer(network: Callable[[Tensor], object], shown: Tensor, what: str, *leading: int) -> Tensor:
    """The logits (*leading, K) that the network gives of K classes for what it is `shown`, in words `what`.

    A network may write into that, so nobody else should need it. What it gives is copied: it may give the same tensor
    each time.

    Raises:
        ValueError: it fails, gives something else, or tells one class alone.
    """
    what = f"{what}, {tuple(shown.shape)}"
    try:
        outputs = network(shown)
    except (MemoryError, torch.OutOfMemoryError):  # of which a smaller batch may be the cure
        raise
    except Exception as error:  # other people's networks fail in every way there is
        raise ValueError(f"the network fails on {what}: {type(error).__name__}: {one_line(error)}") from error
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
    if not isinstance(outputs, Tensor) or outputs.shape[:-1] != leading or not outputs.is_floating_point():
        wanted = ", ".join(map(str, (*leading, "K")))
        raise ValueError(f"the network gives {found} for {what}, expected logits ({wanted}), floats")
    if outputs.shape[-1] < 2:
        raise ValueError(f"the network gives {found} for {what}, expected logits of at least two classes")
    return outputs.clone()


def require_gradient(outputs: Tensor, shown: Tensor) -> None:
    """Raise ValueError if what was `shown`, which an operation made, takes gradients and `outputs` hand none on.

    That weights may get some is no help to an attack.
    """
    if not (shown.requires_grad and torch.is_grad_enabled()):
        return
    wanted, left, seen = shown.grad_fn, [outputs.grad_fn], set()
    while left:
        node = left.pop()
        if node is wanted:
            return
        if node is not None and node not in seen:
            seen.add(node)
            left += [before for before, _ in node.next_functions]
    why = "its forward runs under no_grad or inference_mode, or detaches"
    raise ValueError(f"the network passes no gradient on, and attacks need one: {why}")


def finite(outputs: Tensor) -> Tensor:
    """The outputs of a network; FloatingPointError if one is not finite, because then a vote would mean nothing."""
    if not outputs.isfinite().all():
        raise FloatingPointError("the network's outputs are not finite: no answer can be given")
    return outputs


def require_eval(network: nn.Module) -> None:
    """Raise ValueError if any part of `network` is in training mode, in which outputs depend on other images."""
    if any(part.training for part in network.modules()):
        raise ValueError("the network is in training mode: no answer can be given; call network.eval()")


def are_probabilities(answers: Tensor, off_one: float) -> bool:
    """Whether `answers` (B, K) are no logits: none is below 0, and each row's sum is at most `off_one` from 1."""
    return bool((answers >= 0).all()) and bool(((answers.float().sum(dim=1) - 1).abs() <= off_one).all())


def require_known(network: nn.Module) -> None:
    """Raise ValueError unless all that `network` has learnt is in plain tensors, which can be compared and counted."""
    for name, value in network.state_dict().items():
        wrong = _unknown(value)
        if wrong:
            raise ValueError(f"{name} in its state_dict is {wrong}")


def _unknown(value: object) -> str | None:
    """Why nobody knows what an entry of a state_dict says; None for plain tensors."""
    if is_lazy(value):
        return "lazy and has no shape yet; call the network once before"
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__}, expected plain tensors: no get_extra_state, no quantised layers"
    if value.is_quantized or value.layout is not torch.strided:
        return "quantised or sparse, expected plain numbers"
    return "on the device meta and has no values" if value.is_meta else None


def require_labels(classes: int, labels: Tensor) -> None:
    """Raise ValueError unless `labels` (N,) are among so many classes, which a network tells apart."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"the network has {classes} classes, labels go from {labels.min()} to {labels.max()}")


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
