"""Small data, and scripts run as people run them."""

import contextlib
import ctypes
import json
import multiprocessing
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

README = ROOT / "README.md"

PATIENCE = 1200
"""Seconds until what tests wait for will never happen: on a machine that does much else, all takes long."""

FORKS = multiprocessing.get_context("forkserver")
"""Starts processes that have imported already what scripts import, which takes longer than most of what they do."""

FORKS.set_forkserver_preload(
    [
        "patchcert.experiments.commands",
        "patchcert.experiments.masking",
        "patchcert.intervals.evaluation",
        "patchcert.intervals.training",
        "torch._dynamo",  # which optimizers import
        "torchvision.transforms.v2",
        __name__,
    ]
)


UPWARD = 0x800
"""How x86-64 calls rounding up."""

needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of modes are those of x86-64")


@contextlib.contextmanager
def rounding_mode(mode: int) -> Iterator[None]:
    """Inside, this thread of the processor rounds by `mode`."""
    libm = ctypes.CDLL(None)
    before = libm.fegetround()
    assert libm.fesetround(mode) == 0
    try:
        yield
    finally:
        libm.fesetround(before)


def write_idx_files(folder: Path, train: int = 300, test: int = 101) -> None:
    """MNIST's four files with pictures that can be told apart: class c is bright in rows and columns 2c … 2c + 5."""
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    for name, count in (("train", train), ("t10k", test)):
        labels = random.randint(0, 10, count).astype(np.uint8)
        images = random.randint(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 6] += 100
            image[:, 2 * label : 2 * label + 6] += 90
        header = np.array([2051, count, 28, 28], dtype=">i4").tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(np.array([2049, count], ">i4").tobytes() + labels.tobytes())


def rewrite_votes(path: Path, change: Callable[[dict, dict], object]) -> None:
    """Let `change` have what a file of votes or answers says of itself, and its arrays by name."""
    with np.load(path) as content:
        arrays = dict(content)
    about = json.loads(str(arrays.pop("about")))
    change(about, arrays)
    np.savez(path, about=json.dumps(about), **arrays)


def wait_until(happened: Callable[[], object], patience: float = PATIENCE) -> object:
    """What `happened` gives, once that is true; after so many seconds it never will be."""
    end = time.monotonic() + patience
    while not (found := happened()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.001)
    return found


def run_here(script: str, *arguments: object, folder: Path) -> int:
    """Run a script as __main__ in `folder` in this process, which spares importing torch; returns its exit code."""
    with contextlib.chdir(folder), mock.patch.object(sys, "argv", [str(ROOT / script), *map(str, arguments)]):
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stopped:
            return stopped.code
    return 0


def succeed(script: str, *arguments: object, folder: Path) -> None:
    """Run a script as `run_here` does; it must end with exit code 0."""
    assert run_here(script, *arguments, folder=folder) == 0


def without_times(value: object) -> object:
    """A result without seconds, options, and what says where it was computed."""
    if isinstance(value, dict):
        differ = ("seconds", "environment", "config")
        return {name: without_times(entry) for name, entry in value.items() if name not in differ}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


@contextlib.contextmanager
def meeting_point() -> Iterator[dict[str, str]]:
    """The environment by which processes find each other: a store that holds its port from the start, as torchrun's."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    del store


def succeed_in_two_processes(script: str, *arguments: object, folder: Path) -> str:
    """Run a script in `folder` as two processes like torchrun's; both must end with 0. Returns what they printed."""
    run = run_in_two_processes(script, *arguments, folder=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout


def run_in_two_processes(script: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess:
    """Run a script in `folder` as two processes like torchrun's, which end when one has failed."""
    with tempfile.TemporaryDirectory() as said, meeting_point() as environment:
        files = [Path(said) / name for name in ("out", "err")]
        ranks = [
            FORKS.Process(target=_run_rank, args=(rank, environment, files, folder, script, arguments))
            for rank in range(2)
        ]
        for process in ranks:
            process.start()
        running = {process.sentinel: process for process in ranks}
        while running:
            ended = connection.wait(running, PATIENCE)
            failed = [process for process in map(running.pop, ended) if process.exitcode != 0]
            if failed or not ended:
                break  # the other one may wait for it in vain
        code = failed[0].exitcode if failed else 0 if ended else None
        for process in ranks:
            process.kill()
            process.join()
        printed, errors = (file.read_text() for file in files)
    return subprocess.CompletedProcess([script, *arguments], code, printed, errors)


def _run_rank(
    rank: int, environment: dict[str, str], files: list[Path], folder: Path, script: str, arguments: tuple
) -> None:
    """Run a script as one of two processes, adding what it prints to the end of `files`, and end with its exit code."""
    os.environ |= environment | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2")
    _print_into(*files)
    multiprocessing.set_start_method(None, force=True)  # else its workers import everything again
    sys.exit(run_here(script, *arguments, folder=folder))


def _print_into(*files: Path) -> None:
    """Add what this process and its children print, and their errors, to the end of two files."""
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)


def succeed_under_torchrun(script: str, *arguments: object, folder: Path) -> str:
    """Run a script as two processes under torchrun in `folder`; it must end with 0. Returns what it printed."""
    options = ["--standalone", "--local-addr=127.0.0.1", "--nproc_per_node=2"]
    with tempfile.TemporaryDirectory() as said:
        files = [Path(said) / name for name in ("out", "err")]
        run = FORKS.Process(target=_torchrun, args=([*options, ROOT / script, *arguments], files, folder))
        run.start()
        run.join(PATIENCE)
        run.kill()
        run.join()
        printed, errors = (file.read_text() for file in files)
    assert run.exitcode == 0, errors
    return printed


def _torchrun(command: list[object], files: list[Path], folder: Path) -> None:
    """What torchrun is, in a forked process, which spares importing torch; the processes that it starts import it."""
    from torch.distributed import run

    _print_into(*files)
    os.chdir(folder)
    run.main(list(map(str, command)))
