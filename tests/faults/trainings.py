"""Small trainings of each kind, started in processes that have everything imported, to be killed; what they leave."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from patchcert import checkpoint, epochs
from patchcert.errors import UsageError
from tests.helpers import FORKS, PATIENCE, ROOT, meeting_point, run_here, write_idx_files

AFTER_EVERY_STEP = ("--save_every", 1e-9)

WRITTEN = (".pth", ".jsonl", ".log")
"""What a training writes; while it lasts some of it is .partial."""

SCHEDULE = ("epochs=2", "schedule_start=0", "schedule_length=1", "batch_size=16")

COMMANDS = {
    "smoothing": ("train_mnist_band.py", "--end_epoch", 1, "--batch_size", 16),
    "columns": (
        "train_mnist_band_masked.py",
        *("--end_epoch", 1, "--batch_size", 16, "--channels", "4,8", "--blocks", "0,1", "--size_to_train", 2),
    ),
    "intervals": (
        "train.py",
        *("--config", ROOT / "config" / "mnist_robtrain_p22_guide10.json", "--model_subset", 0, "models_path=models"),
        *(f"training_params:{value}" for value in SCHEDULE),
    ),
}
"""By kind: a script and the options with which it trains two epochs of three steps."""


@dataclass(frozen=True)
class Trainings:
    """Trainings by one command, each in a folder of its own beside generated pictures.

    Args:
        kind: one of `COMMANDS`.
        processes: that train together.
    """

    root: Path
    kind: str
    processes: int = 1

    def __post_init__(self):
        write_idx_files(self.root / "data" / "MNIST" / "raw", train=48, test=16)

    @property
    def command(self) -> list[str]:
        script, *options = COMMANDS[self.kind]
        return [script, *map(str, (*AFTER_EVERY_STEP, "--data", self.root / "data", *options))]

    def run(self, name: str, after: float | None = None, number: int = signal.SIGKILL, dies: tuple = ()) -> int:
        """Train in folder `name` to the end, or until all get the signal `number`, `after` so many seconds.

        Args:
            dies: arguments of `_die_while_saving`.

        Returns:
            0, or the exit code of one that did not come to the end: where a signal killed it, its number, negative.
        """
        self.folder(name).mkdir(exist_ok=True)
        with meeting_point() if self.processes > 1 else contextlib.nullcontext({}) as environment:
            here = self.command, self.folder(name), dies, self.processes, environment
            run = [FORKS.Process(target=_script, args=(*here, rank)) for rank in range(self.processes)]
            started = time.monotonic()
            for process in run:
                process.start()
            for process in run:
                process.join(PATIENCE if after is None else max(0, started + after - time.monotonic()))
            for process in run:
                if process.exitcode is None:
                    with contextlib.suppress(ProcessLookupError):  # it ended at this moment
                        os.kill(process.pid, number)
            for process in run:
                process.join(PATIENCE)
                process.kill()
                process.join()
        return next((process.exitcode for process in run if process.exitcode != 0), 0)

    def folder(self, name: str) -> Path:
        return self.root / name

    def said(self, name: str) -> str:
        """What the trainings in folder `name` printed, one after the other."""
        return (self.folder(name) / "said").read_text()

    def left(self, name: str) -> dict[str, object]:
        """What they left, by file, but for the seconds that epochs took."""
        folder = self.folder(name)
        files = [path for path in folder.rglob("*") if path.name.removesuffix(".partial").endswith(WRITTEN)]
        return {str(path.relative_to(folder)): _content(path) for path in files}

    def broken(self, name: str) -> list[str]:
        """What they left that is not whole: checkpoints that do not load or are not finite, lines that are no JSON."""
        found = []
        for path in self.folder(name).rglob("*"):
            if path.name.removesuffix(".partial").endswith(WRITTEN):
                try:
                    content = _content(path)
                    if isinstance(content, dict):
                        epochs.require_finite(content, path)
                except (UsageError, FloatingPointError, ValueError) as error:
                    found.append(f"{path}: {error}")
        return found


def difference(one: object, other: object) -> str:
    """Where two contents first differ, by a bit or more; empty where they do not."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return "" if one.dtype == other.dtype and torch.equal(one, other) else f": {one} and {other}"
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        found = ((key, difference(one[key], other[key])) for key in one)
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        found = enumerate(map(difference, one, other))
    else:
        return "" if type(one) is type(other) and one == other else f": {one} and {other}"
    return next((f" {key}{place}" for key, place in found if place), "")


def _content(path: Path) -> object:
    if ".pth" in path.name:
        return checkpoint.read("checkpoint", path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


def _script(
    command: list[str], folder: Path, dies: tuple, processes: int, environment: dict[str, str], rank: int
) -> None:
    """In the new process: what a shell does, or torchrun."""
    with (folder / "said").open("a") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    tqdm.set_lock(threading.RLock())  # its own leaves something behind where SIGKILL comes
    if processes > 1:
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ.update({key: str(value) for key, value in here.items()} | environment)
    if dies:
        _die_while_saving(*dies)
    script, *options = command
    try:
        sys.exit(run_here(script, *options, folder=folder))
    except KeyboardInterrupt:  # the script still imports; the interpreter ends like this
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _die_while_saving(moment: str, files: int, number: int = signal.SIGKILL) -> None:
    """Let this process get a signal after so many `files`: `inside` the next one, or `before` it gets its name."""
    save, replace = torch.save, os.replace
    left = iter(range(files, -1, -1))

    def half(content: dict, file: object) -> None:
        save(content, file)
        if not next(left, True):
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), number)

    def unnamed(source: Path, target: Path) -> None:
        if not next(left, True):
            os.kill(os.getpid(), number)
        replace(source, target)

    if moment == "inside":
        torch.save = half
    else:
        os.replace = unnamed
