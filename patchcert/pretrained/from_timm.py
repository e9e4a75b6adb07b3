"""Networks of timm: NAME or NAME.TAG. What they were prepared with belongs to the tag, the size to the network."""

import difflib
from pathlib import Path

import torch
from torch import nn

from patchcert.errors import UsageError
from patchcert.pretrained.found import Found, Weights, library
from patchcert.pretrained.preparation import Transform

FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm's files are called on the hub."""


def find(name: str, weights: Path | None) -> Found:
    """The network called `name`, filled from the file `weights`, or from timm's own one where that is on the disk.

    Raises:
        UsageError: there is no such network, it has no classes, or there are no weights for all of it.
    """
    timm = library("timm", f"timm:{name}")
    network = _built(timm, name)
    known = network.pretrained_cfg
    full = f"{known['architecture']}.{known['tag']}" if known.get("tag") else known["architecture"]
    given = Weights.read(weights or _on_disk(name, full, known))
    heads = known["classifier"]
    classes = given.classes(network, heads if isinstance(heads, str) else heads[0]) if heads else None
    if classes not in (None, network.num_classes):
        network = _built(timm, name, num_classes=classes)
    if not network.num_classes:
        raise UsageError("model", f"timm:{name}", f"{full} gives features and no classes; expected one with a head")
    given.fill(network)
    transform, how = transform_of(network)
    return Found(network, transform, {"name": full, "of": f"timm {timm.__version__}", **given.about, **how})


def transform_of(network: nn.Module) -> tuple[Transform, dict[str, object]]:
    """How images are made for a network of timm's, at the size that it was built for; and the same in words."""
    timm = library("timm", type(network).__name__)
    config = timm.data.resolve_model_data_config(network)
    size = getattr(getattr(network, "patch_embed", None), "img_size", None) or config["input_size"][1:]
    size = (size, size) if isinstance(size, int) else tuple(size)
    config["input_size"] = (config["input_size"][0], *size)  # the configuration is the tag's, whatever was built
    transform = timm.data.create_transform(**config, is_training=False)
    how = f"timm's, {config['crop_mode']} crop of {config['crop_pct']:g}, {config['interpolation']}"
    tested = (network.pretrained_cfg.get("test_input_size") or config["input_size"])[1:]
    larger = "" if tuple(tested) == size else f"; timm's tables are at {tested[0]} × {tested[1]}"
    return transform, {"geometry": how + larger}


def _built(timm, name: str, **changes: int) -> nn.Module:
    """A network with random weights; nothing is loaded."""
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise UsageError("model", f"timm:{name}", f"timm {timm.__version__} has no network {architecture}{hint}")
    try:
        return timm.create_model(name, pretrained=False, **changes)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise UsageError("model", f"timm:{name}", f"{error} With weights there are {tags}") from error


def _on_disk(name: str, full: str, known: dict) -> Path:
    """The file of timm's own weights, where an earlier download left it.

    Raises:
        UsageError: it is not there.
    """
    hub = library("huggingface_hub", f"timm:{name}")
    found = [hub.try_to_load_from_cache(known["hf_hub_id"], file) for file in FILES] if known.get("hf_hub_id") else []
    if known.get("url"):
        found.append(Path(torch.hub.get_dir()) / "checkpoints" / Path(known["url"]).name)
    there = next((Path(path) for path in found if isinstance(path, (str, Path)) and Path(path).is_file()), None)
    if there is None:
        where = f"huggingface.co/{known['hf_hub_id']}" if known.get("hf_hub_id") else known.get("url") or "nobody"
        raise UsageError(
            "model",
            f"timm:{name}",
            f"the weights of {full} are not on this disk, and nothing is downloaded here: --weights FILE gives them "
            f"({FILES[0]} of {where})",
        )
    return there
