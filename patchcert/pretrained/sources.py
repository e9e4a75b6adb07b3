"""Where a network comes from: `--model timm:NAME`, `torchvision:NAME`, `hf:FOLDER` or `MODULE:FACTORY`."""

from pathlib import Path

from torch import nn

from patchcert.errors import UsageError
from patchcert.networks import put_into_eval
from patchcert.pretrained import from_code, from_timm, from_transformers
from patchcert.pretrained.found import Found

LIBRARIES = ("timm", "torchvision", "hf")
"""What names of networks begin with that libraries know; all others are the user's own code."""

FORMS = "timm:NAME, torchvision:NAME, hf:FOLDER or MODULE:FACTORY"


def find(model: str, weights: Path | None, made: nn.Module | None = None) -> Found:
    """The network that `--model` names, in eval mode and in float32, on the CPU, with its weights.

    Args:
        weights: the file of `--weights`, if it is given.
        made: what the user's own code made, if it was called already.

    Raises:
        UsageError: there is no such network, or there are no weights for all of it.
    """
    source, _, name = model.partition(":")
    if not name:
        raise UsageError("model", model, f"expected {FORMS}")
    if source == "timm":
        found = from_timm.find(name, weights)
    elif source == "torchvision":
        from patchcert.pretrained import from_torchvision

        found = from_torchvision.find(name, weights)
    elif source == "hf":
        found = from_transformers.find(Path(name), weights)
    else:
        found = from_code.find(model, weights, made)
    found.network = _ready(found.network)
    return found


def is_of_library(model: str) -> bool:
    """Whether a library, and not the user's own code, makes the network that `--model` names."""
    return model.partition(":")[0] in LIBRARIES


def _ready(network: nn.Module) -> nn.Module:
    """Whoever constructs a network gets it in training mode, and from some folders in 16 bits."""
    return put_into_eval(network.float())
