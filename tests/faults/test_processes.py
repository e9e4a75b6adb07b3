"""A process that dies or hangs ends the run with its number; nothing is lost, and two find what one finds."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from patchcert import distributed, heartbeats
from patchcert.errors import UsageError
from patchcert.heartbeats import Heartbeats
from tests.helpers import ROOT, run_here, succeed, succeed_in_two_processes
from tests.test_scripts import save_random_network

BAND = "certify_mnist_band.py"

SILENT = "gave no sign of life for 1 s: it was killed, hangs, or is on a machine that is gone"

CERTIFY = ["--checkpoint", "net.pth", "--all", "--limit", 8, "--batch_size", 2, "--output", "run.json"]

SCRIPT = f"""
import os, runpy, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from patchcert import distributed, heartbeats, journal
from patchcert.journal import Journal
del sys.argv[0]
"""

HANGS = f"""{SCRIPT}
heartbeats.BEAT, heartbeats.PATIENCE = 0.1, 10
journal.EVERY, recall, done = 0, Journal.recall, []
def until_stopped(*arguments):
    if len(done) == 1 and os.environ["RANK"] == "1":
        while not os.path.exists("run.json.partial"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGSTOP)
    done.append(1)
    return recall(*arguments)
Journal.recall = until_stopped
runpy.run_path(sys.argv[0], run_name="__main__")
"""

BOTH_ENGINES = f"""{SCRIPT}
stop, distributed.stop = distributed.stop, lambda: None
windowed = list(sys.argv)
sys.argv += ["--engine", "dense", "--output", "dense.json"]
runpy.run_path(sys.argv[0], run_name="__main__")
distributed.stop, sys.argv = stop, windowed
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def start(rank: int, port: int, *command: object, folder: Path) -> subprocess.Popen:
    """One of two processes that run Python with a `command`, without torchrun, which would end them itself."""
    environment = os.environ | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=environment, text=True, stderr=pipe)


def test_a_port_in_use_is_reported(monkeypatch):
    monkeypatch.setattr(distributed, "Heartbeats", lambda *_: None)
    monkeypatch.setattr(distributed, "_heartbeats", [])
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match=f"master_port {port}: another program uses this port here"):
            distributed.start(torch.device("cpu"))


class Processes:
    """Heartbeats in threads of this process, fast ones; instead of ending it they note what they would say."""

    def __init__(self):
        self.living, self.said, self._ended = [], [], threading.Event()

    def start(self, rank: int) -> None:
        self.living.append(Heartbeats(rank, 3))

    def end(self, reason: str) -> None:
        self.said.append(reason)
        self._ended.set()

    def live_for(self, seconds: float) -> None:
        assert not self._ended.wait(seconds), self.said

    def ending(self) -> str:
        assert self._ended.wait(60)
        return self.said[0]


@pytest.fixture
def processes(monkeypatch):
    processes, store = Processes(), dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    for name, value in {"BEAT": 0.04, "PATIENCE": 25, "COMING": 50, "FIRST_SPEAKS": 0.0, "end": processes.end}.items():
        monkeypatch.setattr(heartbeats, name, value)
    yield processes
    for one in processes.living:
        one.stop()
    for thread in threading.enumerate():
        if "(_watch)" in thread.name:
            thread.join()
    del store


def test_processes_that_live_and_leave_are_not_missed(processes):
    for rank in range(3):
        processes.start(rank)
    processes.live_for(1.5)
    for one in processes.living:
        one.stop()
    processes.live_for(1.5)


@pytest.mark.parametrize("gone", [0, 1])
def test_one_that_stops_is_named(processes, gone):
    for rank in range(3):
        processes.start(rank)
    processes.live_for(0.5)
    processes.living[gone].stop()
    assert processes.ending() == f"process {gone} of 3 {SILENT}"


def test_one_that_never_comes_is_named_later(processes):
    for rank in (0, 2):
        processes.start(rank)
    processes.live_for(1.2)  # longer than the patience with one that was there
    assert processes.ending() == "process 1 of 3 gave no sign of life for 2 s: it has not come"


def test_the_store_itself_may_hang(processes, monkeypatch):
    monkeypatch.setattr(heartbeats.dist.TCPStore, "add", lambda *_: threading.Event().wait())
    processes.start(1)
    assert processes.ending() == "process 0 of 3 gave no sign of life for 2 s: it has not come"


def test_two_processes_go_on_and_find_what_one_finds(tmp_path, generated_mnist, capfd):
    """Process 1 hangs after 1 of its 2 batches, which ends process 0 too; later both go on under torchrun."""
    (tmp_path / "data").symlink_to(generated_mnist)
    save_random_network(tmp_path)
    port, command = free_port(), [ROOT / BAND, *CERTIFY]
    waits, hangs = (start(rank, port, "-c", HANGS, *command, folder=tmp_path) for rank in range(2))
    with waits, hangs:
        _, said = waits.communicate(timeout=120)
        hangs.kill()
    assert waits.returncode == 1 and said == f"{BAND}: error: process 1 of 2 {SILENT}\n"
    assert {path.name for path in tmp_path.glob("run.json*")} == {"run.json.partial", "run.json.process_1.partial"}

    assert run_here(BAND, *CERTIFY, folder=tmp_path) == 2
    assert "run.json.partial is of an interrupted run with processes 2, not 1" in capfd.readouterr().err

    (tmp_path / "both.py").write_text(BOTH_ENGINES)
    succeed_in_two_processes(tmp_path / "both.py", *command, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["dense.json", "run.json"]
    for name, engine in (("run.json", "windowed"), ("dense.json", "dense")):
        two = json.loads((tmp_path / name).read_text())
        succeed(BAND, *CERTIFY, "--engine", engine, folder=tmp_path)
        one = json.loads((tmp_path / "run.json").read_text())
        assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
        for record in (one, two):
            del record["seconds"], record["environment"], record["config"]["output"]
        assert one == two
