"""Networks of transformers, from a folder on this disk: a configuration, weights and an image processor."""

import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from patchcert import checkpoint
from patchcert.errors import UsageError, one_line
from patchcert.pretrained.found import Found, Weights, library

CONFIG = "config.json"

SHOWN = ("size", "crop_size", "crop_pct", "resample")
"""What is said of an image processor's geometry, which is run and not read."""


def find(folder: Path, weights: Path | None) -> Found:
    """The classifier in a folder that transformers wrote, filled from the file `weights` if there is one.

    Raises:
        UsageError: the folder holds none, not all of its weights, or others than float.
    """
    option = ("model", f"hf:{folder}")
    if not (folder / CONFIG).is_file():
        raise UsageError(
            *option, f"expected a folder with {CONFIG}, weights and an image processor, as transformers saves"
        )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the import: nothing is downloaded here
    transformers = library("transformers", f"hf:{folder}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    said: dict[str, object] = {"name": folder.resolve().name, "of": f"transformers {transformers.__version__}"}
    said["config"] = checkpoint.sha256(folder / CONFIG)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        _require_ordinary(option, folder, config)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        maker = transformers.AutoModelForImageClassification
        if weights is None:
            network, loading = maker.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
            )
    except UsageError:
        raise
    except Exception as error:  # what transformers does not know or find ends in every kind of error
        raise UsageError(*option, f"{type(error).__name__}: {one_line(error)}") from error
    if weights is None:
        _require_whole(option, loading)
        said["weights"] = "the folder's"
    else:
        network = maker.from_config(config, dtype=torch.float32)
        given = Weights.read(weights)
        given.fill(network)
        said |= given.about

    def transform(picture: Image.Image) -> Tensor:
        return processor(picture, return_tensors="pt")["pixel_values"][0]

    shown = {name: value for name, value in processor.to_dict().items() if name in SHOWN and value is not None}
    how = ", ".join(f"{name} {_plain(value)}" for name, value in shown.items())
    labels = tuple(str(config.id2label[number]) for number in sorted(config.id2label))
    return Found(network, transform, {**said, "geometry": f"{type(processor).__name__}: {how}"}, labels)


def _plain(value: object) -> str:
    """An image processor's size, say: height 224, width 224."""
    if isinstance(value, dict):
        return " × ".join(
            str(side) if name in ("height", "width") else f"{name} {side}" for name, side in value.items()
        )
    return str(value)


def _require_ordinary(option: tuple[str, str], folder: Path, config) -> None:
    """Raise UsageError where weights are not what the network computes with."""
    if (folder / "adapter_config.json").exists():
        raise UsageError(*option, "holds an adapter beside the network; expected one that it was merged into")
    if getattr(config, "quantization_config", None):
        raise UsageError(*option, "holds a quantised network, expected one with weights of floating point")


def _require_whole(option: tuple[str, str], loading: dict) -> None:
    """Raise UsageError unless all of the network's tensors came from the folder, and all of these went into it."""
    missing = [*loading["missing_keys"], *(names[0] for names in loading["mismatched_keys"])]
    if missing:
        right = f"its weights lack {', '.join(sorted(missing)[:3])}, which transformers would invent"
        raise UsageError(*option, f"{right}; expected a folder with a trained classifier")
    if loading["unexpected_keys"] or loading["error_msgs"]:
        over = sorted(loading["unexpected_keys"]) or loading["error_msgs"]
        raise UsageError(*option, f"its weights are of another network: {', '.join(over[:3])} has no place in it")
