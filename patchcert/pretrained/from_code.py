"""Networks that the user's own code makes: MODULE:FACTORY."""

import re
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path

from torch import nn

from patchcert import networks
from patchcert.errors import UsageError, one_line
from patchcert.pretrained import from_timm
from patchcert.pretrained.found import Found, Weights

MOST_SAID = 240
"""Characters of a transform's description."""


def made_by(name: str) -> nn.Module:
    """What the factory called MODULE:FACTORY makes; its code is the user's own, and runs.

    Raises:
        UsageError: there is none, or it makes something else than a network.
    """
    if not re.fullmatch(r"[\w.]+:[\w.]+", name):
        raise UsageError("model", name, "expected package.module:factory")
    module, factory = name.split(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        network = attrgetter(factory)(import_module(module))()
    except Exception as error:  # other people's code fails in every way there is
        raise UsageError("model", name, f"{type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise UsageError("model", name, f"expected a torch.nn.Module, it makes {type(network).__name__}")
    try:
        networks.require_known(network)
    except ValueError as error:
        raise UsageError("model", name, str(error)) from error
    return network


def find(name: str, weights: Path | None, made: nn.Module | None = None) -> Found:
    """The network of MODULE:FACTORY, filled from `weights` if it does not bring its own.

    Its images are made by its attribute `preparation`, a function of one of Pillow's to a tensor (C, H, W). A network
    of timm's says it otherwise.

    Args:
        made: what the factory made, if it was called already.

    Raises:
        UsageError: see `made_by` and `Weights`.
    """
    network = made_by(name) if made is None else made
    about: dict[str, object] = {"name": name, "weights": "its own"}
    if weights is not None:
        given = Weights.read(weights)
        given.fill(network)
        about |= given.about
    transform = getattr(network, "preparation", None)
    if isinstance(network, nn.Sequential) and isinstance(transform, nn.Module):
        del network.preparation  # a transform of torchvision's v2 is a module, and had become the last layer
    if transform is None and hasattr(network, "pretrained_cfg"):
        transform, how = from_timm.transform_of(network)
        return Found(network, transform, about | how)
    if transform is not None:
        about["geometry"] = one_line(" ".join(repr(transform).split()), MOST_SAID)
    return Found(network, transform, about)
