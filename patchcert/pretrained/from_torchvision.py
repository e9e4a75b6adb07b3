"""Networks of torchvision: NAME or NAME.TAG, built by what their weights' own builder says."""

import difflib
from pathlib import Path
from unittest import mock

import torch
import torchvision
from torch import nn
from torchvision import models

from patchcert import checkpoint
from patchcert.errors import UsageError
from patchcert.pretrained.found import Found, Weights


class _OtherClassesError(Exception):
    """The file tells another number of classes apart."""


def find(name: str, weights: Path | None) -> Found:
    """The network called `name`, filled from the file `weights`, or from torchvision's own where that is on the disk.

    Raises:
        UsageError: there is no such network, or there are no weights for all of it.
    """
    builder, kind = _builder(name)
    full = f"{name.partition('.')[0]}.{kind.name}"
    given = Weights.read(weights or _on_disk(name, full, kind))
    try:
        network = _built(builder, kind, given, len(kind.meta["categories"]))
    except _OtherClassesError as other:
        network = _built(builder, kind, given, other.args[0])
    transform = kind.transforms()
    how = f"{transform.interpolation.value}, shorter side to {transform.resize_size[0]}, centre crop"
    said = {"name": full, "of": f"torchvision {torchvision.__version__}", **given.about}
    return Found(network, transform, {**said, "geometry": f"torchvision's, {how}"})


def _builder(name: str):
    """What makes a network called NAME or NAME.TAG, and the weights of this tag or the default one."""
    architecture, _, tag = name.partition(".")
    known = models.list_models(module=models)
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        right = f"torchvision {torchvision.__version__} has no classifier {architecture}{hint}"
        raise UsageError("model", f"torchvision:{name}", right)
    tags = models.get_model_weights(architecture)
    if tag and tag not in tags.__members__:
        right = (
            f"torchvision {torchvision.__version__} has weights {', '.join(tag.name for tag in tags)} of {architecture}"
        )
        raise UsageError("model", f"torchvision:{name}", right)
    return models.get_model_builder(architecture), tags[tag or "DEFAULT"]


def _built(builder, kind, given: Weights, classes: int) -> nn.Module:
    """The network as its builder makes it for the weights `kind`, of which it loads the `given` ones in their place.

    inception_v3 and googlenet look at colours otherwise where they are built for weights, and some vision transformers
    have another size.
    """

    def fill(network: nn.Module, weights: dict, *_, **__) -> None:
        loaded = Weights(given.path, given.entry, weights)
        last = checkpoint.last_layer(network.state_dict()).removesuffix(".weight")
        found = loaded.classes(network, last)
        if found not in (None, classes):
            raise _OtherClassesError(found)
        with mock.patch.object(nn.Module, "load_state_dict", load_state_dict):
            loaded.fill(network)

    load_state_dict, categories = nn.Module.load_state_dict, list(map(str, range(classes)))
    with (
        mock.patch.object(nn.Module, "load_state_dict", fill),
        mock.patch.object(type(kind), "get_state_dict", lambda *_, **__: dict(given.tensors)),
        mock.patch.dict(kind.meta, categories=categories),
    ):
        return builder(weights=kind)


def _on_disk(name: str, full: str, kind) -> Path:
    """The file of torchvision's own weights, where an earlier download left it.

    Raises:
        UsageError: it is not there.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(kind.url).name
    if not file.is_file():
        right = f"the weights of {full} are not on this disk, and nothing is downloaded here: --weights FILE gives them"
        raise UsageError("model", f"torchvision:{name}", f"{right} ({kind.url})")
    return file
