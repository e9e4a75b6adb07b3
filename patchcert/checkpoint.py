"""Names of checkpoints, saving, safe loading."""

import hashlib
import os
import re
import sys
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from patchcert import tensor_files, weight_names
from patchcert.errors import UsageError, one_line
from patchcert.files import write_atomically
from patchcert.inputs import InputError
from patchcert.option_values import MOST_PIXELS

FOLDER = Path("checkpoints")

SHIPPED = max(Path(__file__).with_name("checkpoints"), Path(__file__).parents[1] / "checkpoints", key=Path.is_dir)
"""Where the networks that ship lie: in the installed package, or in the checkout around it."""

MODELS = Path(__file__).parent / "zoo" / "models.json"
"""Names every file that ships. A checkout's `SHIPPED` may hold others."""

NAMED, MOST_OF_NAMES = 5, 260
"""Checkpoints that an error names, and characters of them all, unless the first has more."""

KINDS = {"band", "row", "block", "windows", "multi", "masked", "baseline", "joint"}
"""Words in the names of scripts and checkpoints that tell which kind of network they are about."""

GO_ON = "the same command continues it"
"""What can be done with a `.partial`."""

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types in which the weights of a network may be saved."""

DIGEST = "digest"
"""The entry that tells of each other one whether it is as it was saved."""


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


def save(content: dict, path: Path) -> None:
    """Write `content` (tensors, numbers, strings, lists and dicts of them) to `path`, with a digest of each entry."""
    digests = {name: tensor_files.digest(value) for name, value in content.items() if name != DIGEST}
    write_atomically(path, lambda file: torch.save(content | {DIGEST: digests}, file))


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """A hash of the content of tensors of any type, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor_files.bytes_of(tensor))
    return digest.hexdigest()[:16]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(option: str, name: str) -> Path:
    """The file that `--option name` means: a name under `checkpoints/`, a path, or a name of those that ship.

    Where there is none, it is looked for with `.pth`.

    Raises:
        UsageError: there is none; the message names what an interrupted training left under this name, or else lists
            the checkpoints that exist.
    """
    names = (name, f"{name}.pth")
    folders = [FOLDER, Path(), *([SHIPPED] if Path(name).name == name else [])]
    there = [path for whole in names for folder in folders if os.path.lexists(path := folder / whole)]
    if there:
        return next((path for path in there if not path.is_dir()), there[0])
    partial = next((path for whole in names if (path := FOLDER / f"{whole}.partial").is_file()), None)
    what_there_is = f"{partial} is an interrupted training's, {GO_ON}" if partial else there_are(like=name)
    raise UsageError(option, name, f"no such checkpoint; {what_there_is}")


def there_are(like: str | None = None) -> str:
    """Which checkpoints there are in `checkpoints/`, in words.

    Those whose names fit the script come first, and of these the names `like` this one, or the newest. Where there are
    none, what interrupted trainings left, the script that makes one, and the files that ship for the script.
    """
    there = [path for path in FOLDER.glob("*.pth") if path.is_file()]
    script = Path(sys.argv[0]).name
    if not there:
        partial = next(FOLDER.glob("*.pth.partial"), None)
        besides = f" but {partial.name} of an interrupted training, {GO_ON};" if partial else ","
        ship = _shipped_for(script)
        shipped = f"; {' and '.join(ship)} {'ship' if len(ship) > 1 else 'ships'}" if ship else ""
        return f"{FOLDER}/ has no checkpoints{besides} {_training_script(script)} makes one{shipped}"
    there.sort(key=lambda path: -path.stat().st_mtime if like is None else -_similarity(path.name, like))
    there.sort(key=lambda path: _misfit(path, script))
    lengths = accumulate(len(path.name) for path in there[:NAMED])
    named = max(1, sum(length <= MOST_OF_NAMES for length in lengths))
    more = f" and {len(there) - named} more" if len(there) > named else ""
    return f"{FOLDER}/ has {', '.join(path.name for path in there[:named])}{more}"


def _similarity(name: str, other: str) -> float:
    return SequenceMatcher(None, name, other).ratio()


def _shipped_for(script: str) -> list[str]:
    """The files that ship whose names have all words of what a script looks at, and no other of the `KINDS`."""
    models, best = MODELS.read_text(encoding="utf-8"), (-len(set(_looks_at(script).split("_"))), 0)
    fit = [path.name for path in sorted(SHIPPED.glob("*.pth")) if _misfit(path, script) == best]
    return [name for name in fit if f'"{name}"' in models]


def _misfit(path: Path, script: str) -> tuple[int, int]:
    """How badly a file's name fits a script: minus the words they share, then the `KINDS` in the name alone."""
    words, wanted = set(path.stem.split("_")), set(_looks_at(script).split("_"))
    return -len(words & wanted), len(words & KINDS - wanted)


def _looks_at(script: str) -> str:
    """What a script certifies or attacks: mnist_band for certify_mnist_band_top_one.py; nothing for other scripts."""
    found = re.fullmatch(r"(?:certify|attack)_(.+?)(?:_top_one|_randomized|_linf)?\.py", script)
    return found[1] if found else ""


def _training_script(script: str) -> str:
    """The script that trains what `script` looks at: train_mnist_band.py for certify_mnist_band_top_one.py."""
    looks_at = _looks_at(script)
    return f"train_{looks_at}.py" if looks_at else "a train_*.py script"


def read(option: str, path: Path) -> dict:
    """The content of a checkpoint, on the CPU; loading it executes no code.

    Raises:
        UsageError: there is no such file, it is not a checkpoint, or its content is not what was saved.
    """
    if not os.path.lexists(path):
        raise UsageError(option, path, "no such checkpoint")
    try:
        content = tensor_files.load(path)
    except InputError as error:
        right = f"not a checkpoint that can be loaded safely (weights only): {error}"
        raise UsageError(option, path, right) from error
    if not isinstance(content, dict):
        raise UsageError(option, path, f"expected a dict with the network's weights, found {type(content).__name__}")
    _require_unchanged(option, path, content)
    return content


def about(content: dict) -> dict | None:
    """What a checkpoint's content says of itself; None if it says nothing, or not in this way."""
    said = content.get("about")
    entries = {"dataset": str, "ablation": dict, "network": dict}
    if not isinstance(said, dict) or not all(isinstance(said.get(name), kind) for name, kind in entries.items()):
        return None
    sizes = [size for name, size in said["ablation"].items() if name != "kind"]
    whole = all(type(size) is int and 0 < size <= MOST_PIXELS for size in sizes)
    complete = {"kind", "height", "width"} <= set(said["ablation"]) and "name" in said["network"]
    return said if whole and complete else None


def _require_unchanged(option: str, path: Path, content: dict) -> None:
    """Take the digests out; UsageError if an entry has another one. Files of others, and what was added, have none."""
    digests = content.pop(DIGEST, {})
    for name in digests if isinstance(digests, dict) else ():
        try:
            if name in content and tensor_files.digest(content[name]) != digests[name]:
                right = f"its entry {name} is not what was saved; if it was changed on purpose, take `digest` out"
                raise UsageError(option, path, right)
        except TypeError as error:
            raise UsageError(option, path, f"its entry {name} is not what was saved") from error


def load_network(option: str, path: Path, network: nn.Module, entry: str | None = "net") -> dict:
    """Fill `network` from an entry of a checkpoint and return the checkpoint's content.

    Args:
        entry: None where the checkpoint may be anybody's, see `weight_names.entry`.

    Raises:
        UsageError: see `fill`.
    """
    content = read(option, path)
    fill(option, path, network, content, entry or weight_names.entry(content))
    return content


def fill(option: str, path: Path, network: nn.Module, content: dict, entry: str | None = "net") -> None:
    """Fill `network` from an entry of the `content` of the checkpoint `path`.

    Raises:
        UsageError: the file is of another architecture; the message names the tensor that differs. Or its weights
            are not finite, which would make all copies vote alike, or not of one type of floating point.
    """
    fill_with(option, path, network, tensors_of(option, path, content, entry))


def fill_with(option: str, path: Path, network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill `network` with `weights` from the checkpoint `path`, under the names there.

    Raises:
        UsageError: see `fill`.
    """
    weights = weight_names.resolved(weights, network.state_dict())
    require_same(option, path, network, weights)
    broken = next((key for key, tensor in weights.items() if not tensor.isfinite().all()), None)
    if broken:
        raise UsageError(option, path, f"tensor {broken} is not finite: its training diverged")
    network.load_state_dict(weights)


def tensors_of(option: str, path: Path, content: dict, entry: str | None = "net") -> dict[str, Tensor]:
    """The tensors of an entry of the checkpoint's `content`, or of all of it, by their names there.

    Raises:
        UsageError: it has no such entry.
    """
    found = content.get(entry) if entry else content
    named = isinstance(found, dict) and all(isinstance(key, str) for key in found)
    if not named or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        of_others = f"tensors by name, or {' or '.join(weight_names.ENTRIES)}"
        where = f"an entry `{entry}` that holds tensors" if entry else of_others
        raise UsageError(option, path, f"expected a checkpoint with {where}")
    return found


def require_same(option: str, path: Path, network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Raise UsageError unless the `weights` in a checkpoint are those of such a network, by names, shapes and types."""
    wanted = network.state_dict()
    weights = weight_names.resolved(weights, wanted)
    difference = _first_difference(wanted, weights)
    if difference:
        raise UsageError(option, path, f"is of another network: {difference}")
    floating = set()
    for key, tensor in wanted.items():
        found, types = weights[key].dtype, FLOATING if tensor.is_floating_point() else (tensor.dtype,)
        if found not in types:
            raise UsageError(option, path, f"tensor {key} is {found}, expected {' or '.join(map(str, types))}")
        floating |= {found} & set(FLOATING)
    if len(floating) > 1:
        right = f"has weights of {' and '.join(sorted(map(str, floating)))}, expected one type for all"
        raise UsageError(option, path, right)


def require_optimizer(option: str, path: Path, optimizer: torch.optim.Optimizer, found: object) -> None:
    """Raise UsageError unless `found`, in the checkpoint `path`, is a state of such an optimizer of such weights."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states = found.get("state") if isinstance(found, dict) else None
    names = _state_names(optimizer)
    if not isinstance(states, dict) or not all(
        type(number) is int
        and 0 <= number < len(weights)
        and isinstance(state, dict)
        and state.keys() == names
        and all(_fits(value, weights[number]) for value in state.values())
        for number, state in states.items()
    ):
        kind = type(optimizer).__name__
        raise UsageError(option, path, f"its optimizer's state is broken, or not one of {kind} for this network")


def _state_names(optimizer: torch.optim.Optimizer) -> set[str]:
    """What the optimizer keeps of each weight: it is tried on one."""
    weight = nn.Parameter(torch.zeros(1, 1))
    weight.grad = torch.zeros(1, 1)
    other = type(optimizer)([weight], **optimizer.defaults)
    other.step()
    return set(other.state[weight])


def _fits(value: object, weight: Tensor) -> bool:
    """Whether a value of an optimizer's state can be one of this weight: finite, a number or of the same shape."""
    shaped = isinstance(value, Tensor) and value.shape in ((), weight.shape) and value.dtype in FLOATING
    return shaped and bool(value.isfinite().all())


def require_epoch(option: str, path: Path, content: dict, least: int = 0, most: int = sys.maxsize) -> int:
    """The last epoch before a checkpoint was saved; UsageError unless it has one, from `least` to `most`."""
    epoch = content.get("epoch")
    if type(epoch) is not int or not least <= epoch <= most:
        found = f"its epoch is {one_line(repr(epoch))}" if "epoch" in content else "it has no epoch"
        raise UsageError(option, path, f"expected a checkpoint of a training script, {found}")
    return epoch


def class_count(weights: dict[str, Tensor]) -> int | None:
    """How many classes the network of these weights tells apart: rows of its last layer; None if it has none."""
    last = last_layer(weights)
    return last and len(weights[last])


def other_setting(found: dict[str, object], wanted: dict[str, object]) -> str | None:
    """The first of the `wanted` settings that those of a checkpoint, `found`, do not have; None if it has all."""
    return next((name for name, value in wanted.items() if found.get(name) != value), None)


def last_layer(weights: dict[str, Tensor]) -> str | None:
    """The name of a network's last weight; None if it has none."""
    return next((key for key in reversed(weights) if key.endswith("weight")), None)


def _first_difference(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    last = last_layer(wanted)
    for key, tensor in wanted.items():
        if key not in found:
            return f"it has no tensor {key}, here {tuple(tensor.shape)}"
        if key == last and found[key].shape[1:] == tensor.shape[1:] and len(found[key]) != len(tensor):
            return f"it has {len(found[key])} classes, the data set has {len(tensor)}"
        if found[key].shape != tensor.shape:
            return f"tensor {key} is {tuple(found[key].shape)} in the file and {tuple(tensor.shape)} here"
    extra = next((key for key in found if key not in wanted), None)
    return extra and f"its tensor {extra} {tuple(found[extra].shape)} has no place here"
