"""Two processes that certify, attack or train, of which one dies or stops at a random moment.

The run must end within a minute and name that process, or be over; the same command must then go on and come to what
one that nothing ended comes to.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.breaking import Row
from tests.faults.trainings import difference
from tests.helpers import ROOT, without_times, write_idx_files
from tests.networks import save_random_network

TIMES = 6
"""Of each way."""

MINUTE = 60.0

OFTEN = """
import runpy, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from patchcert import journal
journal.EVERY = 0
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that keeps what it has after every batch, which it otherwise does every few seconds."""

CERTIFY = ["certify_mnist_band.py", "--checkpoint", "net.pth", "--all", "--batch_size", "1", "--engine", "dense"]
EFFORT = ["--steps", "10", "--randomizations", "4", "--step_size", "0.3"]
ATTACK = ["attack_mnist_band.py", "--checkpoint", "net.pth", "--skip", "1", "--size_of_attack", "9", *EFFORT]
COMMANDS = {"certifying": CERTIFY, "attacking": ATTACK}
WAYS = {"dies": signal.SIGKILL, "stops": signal.SIGSTOP}


def tried() -> Iterator[Row]:
    """One row for each command and way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_idx_files(folder / "data" / "MNIST" / "raw")
        save_random_network(folder)
        draw = random.Random(0)
        for what, command in COMMANDS.items():
            run = _start(folder, command)
            started = _met(folder, run)
            if [process.wait() for process in run] != [0, 0]:
                raise RuntimeError(f"{what} fails by itself: {run[0].stderr.read()}")
            seconds, whole = time.monotonic() - started, _result(folder)
            for way, number in WAYS.items():
                found = [_broken(folder, command, number, draw.uniform(0, seconds), whole) for _ in range(TIMES)]
                slowest, trouble = max(found)[0], [text for _, text in found if text]
                remark = "; ".join([f"all over after at most {slowest:.0f} s", *trouble])
                yield Row("processes", f"{what}: one of two {way} at a random time", TIMES, len(trouble), remark)


def _met(folder: Path, run: list[subprocess.Popen]) -> float:
    """Wait until both processes keep what they find, and have found something; the time."""
    while len(list(folder.glob("run.json*.partial"))) < 2 and all(process.poll() is None for process in run):
        time.sleep(0.01)
    return time.monotonic()


def _broken(folder: Path, command: list[str], number: int, after: float, whole: object) -> tuple[float, str]:
    """Let one of two processes get the signal, then go on; the seconds until all was over, and what was lost."""
    victim = int(after * 1000) % 2
    run = _start(folder, command)
    _met(folder, run)
    time.sleep(after)
    run[victim].send_signal(number)
    started = time.monotonic()
    other = run[1 - victim]
    try:
        other.wait(MINUTE)
    except subprocess.TimeoutExpired:
        other.kill()
        return MINUTE, "not over after a minute"
    finally:
        run[victim].kill()
        run[victim].wait()
    seconds, said = time.monotonic() - started, other.stderr.read()
    if other.returncode != 0 and (other.returncode != 1 or f": error: process {victim} of 2 " not in said):
        return seconds, f"exit code {other.returncode}: {said[-300:]}"
    again = _start(folder, command)
    if [process.wait() for process in again] != [0, 0]:
        return seconds, f"does not go on: {again[0].stderr.read()[-300:]}"
    found = difference(whole, _result(folder))
    return seconds, found or ", ".join(f"leaves {path.name}" for path in folder.glob("run.json*"))


def _start(folder: Path, command: list[str]) -> list[subprocess.Popen]:
    """Two processes of one run, as torchrun would start them, which would end both if one dies."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environment |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    arguments = ["-c", OFTEN, str(ROOT), str(ROOT / command[0]), *command[1:], "--output", "run.json"]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment | {"RANK": str(rank)}, **streams)
        for rank in range(2)
    ]


def _result(folder: Path) -> object:
    """What `--output` says but for times and places; the file goes."""
    path = folder / "run.json"
    record = json.loads(path.read_text())
    path.unlink()
    return without_times(record)
