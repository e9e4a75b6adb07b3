"""What every training keeps of its epochs: their randomness, a log, checkpoints, and that the loss is a number."""

import json
import math
from pathlib import Path

import torch

from patchcert import checkpoint, distributed


def epoch_generator(seed: int, epoch: int, device: torch.device | str) -> torch.Generator:
    """All randomness of an epoch, so that a run stopped after any epoch goes on as if it had not been.

    Each process has its own.
    """
    return torch.Generator(device).manual_seed(seed * 1_000_003 + epoch + distributed.rank() * 2**40)


def require_finite(loss: float, epoch: int) -> None:
    """Raise FloatingPointError if training has diverged, so that no checkpoint comes of it."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss of epoch {epoch} is {loss}: a lower learning rate may help")


def record_epoch(row: dict, log: Path, state: dict, files: list[Path]) -> None:
    """Add a line to the log, then save the state; in this order nothing is lost by a stop in between."""
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")
    for path in files:
        checkpoint.save(state, path)


def keep_log_until(log: Path, epoch: int) -> None:
    """Drop what an interrupted run wrote of epochs that will run again; a new run starts with an empty log."""
    if not log.exists():
        return
    lines = log.read_bytes().splitlines(keepends=True)
    kept = b"".join(line for line in lines if _epoch_of(line) <= epoch)
    checkpoint.write_atomically(log, lambda file: file.write(kept))


def _epoch_of(line: bytes) -> float:
    """The epoch that a line of the log tells of; infinite where an interruption cut the line off."""
    try:
        return json.loads(line)["epoch"]
    except ValueError:
        return float("inf")
