"""Small data, and scripts run as people run them."""

import contextlib
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parent.parent

README = max(ROOT.glob("README*.md"), key=lambda path: "proposed" in path.name)


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


def run_script(script: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess:
    """Run a script of the project as a process of its own in `folder` and wait for it."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


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


def succeed_in_two_processes(script: str, *arguments: object, folder: Path) -> str:
    """Run a script under torchrun in `folder`; it must end with exit code 0. Returns what it printed."""
    run = run_in_two_processes(script, *arguments, folder=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout


def run_in_two_processes(script: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess:
    """Run a script under torchrun in `folder` and wait for it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*torchrun, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
