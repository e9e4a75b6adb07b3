"""Names of checkpoints, atomic saving, safe loading."""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from patchcert.errors import UsageError

FOLDER = Path("checkpoints")

NAMED = 5
"""Checkpoints that an error names."""


def run_name(stem: str, lr: float, regularization: float, details: str, end_epoch: int, resume: str | None) -> str:
    """The file name of a training run, as the published commands expect it.

    Args:
        stem: data set and kind of ablation, such as `mnist_one_band`.
        details: what else tells runs apart, such as `band_4`; may be empty.
        resume: the checkpoint that the run goes on from, if any.
    """
    parts = [stem, f"lr_{lr}", f"regularization_{regularization}", details, f"epoch_{end_epoch}"]
    if resume:
        parts.append(f"resume_{Path(resume).name}")
    name = "_".join(part for part in parts if part) + ".pth"
    if len(name.encode()) > 240:
        raise UsageError("resume", resume, "the new checkpoint's name would be too long for a file; rename this one")
    return name


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: `path` is whole at every moment."""
    path = path.resolve()  # of a link, the file that it points to
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def save(content: dict, path: Path) -> None:
    """Write `content` (tensors, numbers, strings, lists and dicts of them) to `path`."""
    write_atomically(path, lambda file: torch.save(content, file))


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """A hash of the content of tensors of any type, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def find(option: str, name: str) -> Path:
    """The file that `--option name` means: a path, or a name under `checkpoints/`.

    Raises:
        UsageError: there is none; the message lists those that exist, nearest first.
    """
    for path in (FOLDER / name, Path(name)):
        if path.is_file():
            return path
    raise UsageError(option, name, f"no such checkpoint; {there_are(like=name)}")


def there_are(like: str | None = None) -> str:
    """Which checkpoints there are in `checkpoints/`, in words: those with a name `like` this first, or the newest.

    Where there are none, the script that makes one.
    """
    there = list(FOLDER.glob("*.pth"))
    if not there:
        return f"{FOLDER}/ has no checkpoints, {_training_script(Path(sys.argv[0]).name)} makes one"
    there.sort(key=lambda path: -path.stat().st_mtime if like is None else -_similarity(path.name, like))
    more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
    return f"{FOLDER}/ has {', '.join(path.name for path in there[:NAMED])}{more}"


def _similarity(name: str, other: str) -> float:
    return SequenceMatcher(None, name, other).ratio()


def _training_script(script: str) -> str:
    """The script that trains what `script` looks at: train_mnist_band.py for certify_mnist_band_top_one.py."""
    looks_at = re.fullmatch(r"(?:certify|attack)_(.+?)(?:_top_one|_randomized|_linf)?\.py", script)
    return f"train_{looks_at[1]}.py" if looks_at else "a train_*.py script"


def read(option: str, path: Path) -> dict:
    """The content of a checkpoint, on the CPU; loading it executes no code.

    Raises:
        UsageError: there is no such file, or it is not a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(option, path, "no such checkpoint") from error
    except Exception as error:  # files that are no checkpoints make torch's reader fail in every way there is
        raise UsageError(option, path, "not a checkpoint that can be loaded safely (weights only)") from error
    if not isinstance(content, dict):
        raise UsageError(option, path, f"expected a dict with the network's weights, found {type(content).__name__}")
    return content


ENTRIES = ("net", "state_dict", "model_state_dict", "model")
"""Under which of these checkpoints keep their weights, if they do not consist of them."""


def weights_entry(content: dict) -> str | None:
    """Where the weights are in a checkpoint of anybody's; None if it consists of them."""
    return next((entry for entry in ENTRIES if isinstance(content.get(entry), dict)), None)


def load_network(option: str, path: Path, network: nn.Module, entry: str | None = "net") -> dict:
    """Fill `network` from an entry of a checkpoint and return the checkpoint's content.

    Args:
        entry: None where the checkpoint may be anybody's, see `weights_entry`.

    Raises:
        UsageError: the file is of another architecture; the message names the tensor that differs. Or its weights
            are not finite, which would make all copies vote alike.
    """
    content = read(option, path)
    entry = entry or weights_entry(content)
    found = content.get(entry) if entry else content
    named = isinstance(found, dict) and all(isinstance(key, str) for key in found)
    if not named or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        where = f"an entry `{entry}` that holds tensors" if entry else f"tensors by name, or {' or '.join(ENTRIES)}"
        raise UsageError(option, path, f"expected a checkpoint with {where}")
    weights = {key.removeprefix("module."): tensor for key, tensor in found.items()}
    difference = _first_difference(network.state_dict(), weights)
    if difference:
        raise UsageError(option, path, f"is of another network: {difference}")
    broken = next((key for key, tensor in weights.items() if not tensor.isfinite().all()), None)
    if broken:
        raise UsageError(option, path, f"tensor {broken} is not finite: its training diverged")
    network.load_state_dict(weights)
    return content


def class_count(weights: dict[str, Tensor]) -> int | None:
    """How many classes the network of these weights tells apart: rows of its last layer; None if it has none."""
    last = _last_layer(weights)
    return last and len(weights[last])


def other_setting(found: dict[str, object], wanted: dict[str, object]) -> str | None:
    """The first of the `wanted` settings that those of a checkpoint, `found`, do not have; None if it has all."""
    return next((name for name, value in wanted.items() if found.get(name) != value), None)


def _last_layer(weights: dict[str, Tensor]) -> str | None:
    return next((key for key in reversed(weights) if key.endswith("weight")), None)


def _first_difference(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    last = _last_layer(wanted)
    for key, tensor in wanted.items():
        if key not in found:
            return f"it has no tensor {key}, here {tuple(tensor.shape)}"
        if key == last and found[key].shape[1:] == tensor.shape[1:] and len(found[key]) != len(tensor):
            return f"it tells {len(found[key])} classes apart, the data set has {len(tensor)}"
        if found[key].shape != tensor.shape:
            return f"tensor {key} is {tuple(found[key].shape)} in the file and {tuple(tensor.shape)} here"
    extra = next((key for key in found if key not in wanted), None)
    return extra and f"its tensor {extra} {tuple(found[extra].shape)} has no place here"
