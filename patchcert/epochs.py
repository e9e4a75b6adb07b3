"""What every training keeps of its epochs: randomness, a log, checkpoints of finite numbers, earlier runs."""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from patchcert import checkpoint, distributed, inputs, program, result_format
from patchcert.errors import PlaceError, UsageError, WriteError
from patchcert.files import append_line, locked, write_atomically
from patchcert.messages import print_other_modules, print_unlocked

MOST_OF_LOG = 1 << 30
"""Bytes; an epoch takes some hundred."""

MODULES = "modules"
"""The entry that tells which modules of the user's own, and with which content, a training was run by."""


@contextmanager
def no_other_run(paths: Iterable[Path]) -> Iterator[None]:
    """Keep other processes from training into `paths`; of those that torchrun started, the first one does it.

    Raises:
        UsageError: another process trains into one of them, or its folder takes no new files.
        WriteError: of the run, with a way out.
    """
    with ExitStack() as held:
        refused = None
        if distributed.is_first():
            try:
                for path in paths:
                    if not held.enter_context(locked(path)):
                        print_unlocked(path)
            except PlaceError as error:
                refused = error.path, error.right
        refused = distributed.from_first(refused)
        if refused:
            raise PlaceError(*refused)
        try:
            yield
        except WriteError as error:
            raise WriteError(error.reasons, "; the same command continues from what was saved before") from error


def epoch_generator(seed: int, epoch: int, device: torch.device | str) -> torch.Generator:
    """All randomness of an epoch, so that a run stopped after any epoch goes on as if it had not been.

    Each process has its own.
    """
    return torch.Generator(device).manual_seed(seed * 1_000_003 + epoch + distributed.rank() * 2**40)


def alternating(seed: int, epoch: int, count: int, device: torch.device | str) -> Tensor:
    """(count,) bool: a random half of so many images in even epochs, the other half in odd ones, in every process."""
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + 1_000_002)  # no epoch has this number
    return (torch.rand(count, generator=generator, device=device) < 0.5) ^ bool(epoch % 2)


def require_finite(state: dict, where: object) -> None:
    """Raise FloatingPointError if training has diverged `where` the run is, so that no checkpoint comes of `state`.

    A loss does not tell of the step that follows it.
    """
    broken = next((name for name, tensor in _tensors(state) if not tensor.isfinite().all()), None)
    if broken:
        raise FloatingPointError(f"{broken} is not finite in {where}: a lower learning rate or weight decay may help")


def _tensors(content: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in a state, by their names in it with dots."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}".removeprefix("."))


def save_inside(state: dict, where: object, path: Path) -> None:
    """Save the state of a run that is inside an epoch, at the step that `where` tells.

    Raises:
        FloatingPointError: training has diverged; what was saved before stays.
    """
    require_finite(state, where)
    _save(state, path)


def record_epoch(row: dict, log: Path, state: dict, paths: list[Path]) -> None:
    """Add a line to the log, then save the state; in this order nothing is lost by a stop in between.

    Raises:
        FloatingPointError: training has diverged; nothing is written.
    """
    require_finite(state, f"epoch {row['epoch']}")
    result_format.require(row, f"epoch {row['epoch']} of {log}", result_format.EPOCH)
    append_line(log, json.dumps(row))
    for path in paths:
        _save(state, path)


def _save(state: dict, path: Path) -> None:
    """Save the state of a run together with what tells its program."""
    checkpoint.save(state | {MODULES: program.own_modules()}, path)


def say_if_another_program(state: dict, source: Path) -> None:
    """Say which modules are others than those of the run that left `state` in the file `source`.

    A training that goes on may have been mended meanwhile, which is no reason to refuse weeks of work.
    """
    left, here = state.get(MODULES), program.own_modules()
    changed = [name for name in here if isinstance(left, dict) and left.get(name, here[name]) != here[name]]
    if changed and distributed.is_first():
        print_other_modules(source, changed)


def earlier_run(path: Path, partial: Path, settings: dict, overwrite: bool) -> tuple[dict, Path] | tuple[None, None]:
    """What an earlier run of these settings left, and its file: `path` if it is finished, `partial` if interrupted.

    Raises:
        UsageError: there is a run of other settings, and no leave to `overwrite` it; the message names the first.
    """
    interrupted = checkpoint.read("resume", partial) if partial.exists() else None
    if interrupted is not None and not checkpoint.other_setting(_settings(interrupted), settings):
        checkpoint.require_epoch("resume", partial, interrupted, least=-1, most=settings["end_epoch"])
        return interrupted, partial
    if overwrite:
        return None, None
    if path.exists():
        finished = checkpoint.read("resume", path)
        _require_settings(finished, settings, f"{path} is a finished run", "--overwrite trains anew")
        return finished, path
    if interrupted is not None:
        _require_settings(interrupted, settings, f"{partial} is an interrupted run", "finish it, or give --overwrite")
    return None, None


def _settings(state: dict) -> dict:
    """The settings that a run left, under today's names."""
    settings = state.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    return {"subset": settings.get("limit")} | settings  # its name in earlier versions


def _require_settings(state: dict, settings: dict, what: str, way_out: str) -> None:
    """Raise UsageError unless the run that left `state` had these settings; `what` it is and what can be done."""
    before = _settings(state)
    other = checkpoint.other_setting(before, settings)
    if other:
        how = f"with --{other} {before[other]}" if other in before else "that does not say how it was trained"
        raise UsageError(other, settings[other], f"{what} {how}; {way_out}")


def keep_log_until(log: Path, epoch: int) -> None:
    """Drop what an interrupted run wrote of epochs that will run again; a new run starts with an empty log."""
    if not log.exists() or (log.is_file() and not log.stat().st_size):
        return
    try:
        lines = inputs.content(log, MOST_OF_LOG).splitlines(keepends=True)
    except inputs.InputError as error:
        raise UsageError("resume", log, f"its log {error}") from error
    kept = b"".join(line for line in lines if _epoch_of(line) <= epoch)
    write_atomically(log, lambda file: file.write(kept))


def _epoch_of(line: bytes) -> float:
    """The epoch that a line of the log tells of; infinite where an interruption cut the line off."""
    try:
        epoch = json.loads(line)["epoch"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return math.inf
    return epoch if isinstance(epoch, (int, float)) else math.inf
