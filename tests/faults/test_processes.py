"""A process that dies or hangs ends the run with its number; nothing is lost, and two find what one finds."""

import json
import math
import os
import signal
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from patchcert import distributed, heartbeats, journal, program
from patchcert.errors import UsageError
from patchcert.heartbeats import Heartbeats
from tests.helpers import (
    FORKS,
    PATIENCE,
    ROOT,
    meeting_point,
    run_here,
    succeed,
    succeed_in_two_processes,
    wait_until,
)
from tests.networks import save_random_network

BAND = "certify_mnist_band.py"

SILENT = "gave no sign of life for 20 s: it was killed, hangs, or is on a machine that is gone"

CERTIFY = ["--checkpoint", "net.pth", "--all", "--limit", 8, "--batch_size", 2, "--output", "run.json"]

BOTH_ENGINES = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
from patchcert import distributed, program
program.own_modules = dict
del sys.argv[0]
stop, distributed.stop = distributed.stop, lambda: None
windowed = list(sys.argv)
sys.argv += ["--engine", "dense", "--output", "dense.json"]
runpy.run_path(sys.argv[0], run_name="__main__")
distributed.stop, sys.argv = stop, windowed
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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


class Looks:
    """Time as heartbeats have it: a look later it is when all of their threads wait for one, whatever clocks say."""

    def __init__(self):
        self.now, self.until, self.changed = 0, {}, threading.Condition()

    def event(self) -> SimpleNamespace:
        """In place of threading.Event."""
        event = threading.Event()
        return SimpleNamespace(set=event.set, is_set=event.is_set, wait=lambda _: self._wait(event))

    def pass_one(self) -> None:
        wait_until(self._all_wait)
        with self.changed:
            self.now += 1
            self.changed.notify_all()

    def forever(self) -> None:
        """In a thread of a heartbeat: wait for nothing that comes."""
        self.until[threading.current_thread()] = math.inf
        threading.Event().wait()

    def _wait(self, event: threading.Event) -> bool:
        with self.changed:
            until = self.until[threading.current_thread()] = self.now + 1
            while not event.is_set() and self.now < until:
                self.changed.wait(0.01)  # an event notifies nobody
        return event.is_set()

    def _all_wait(self) -> bool:
        threads = [thread for thread in threading.enumerate() if "(_watch)" in thread.name or "(_beat)" in thread.name]
        return all(self.until.get(thread, 0) > self.now for thread in threads)


class Processes:
    """Heartbeats in threads of this process; instead of ending it they note what they would say."""

    def __init__(self):
        self.living, self.said, self.looks = [], [], Looks()

    def start(self, rank: int) -> None:
        self.living.append(Heartbeats(rank, 3))

    def live_for(self, looks: int) -> None:
        for _ in range(looks):
            self.looks.pass_one()
        assert self.said == []

    def end_within(self, looks: int) -> str:
        """What the first one says."""
        for _ in range(looks):
            self.looks.pass_one()
        assert self.said
        return self.said[0]


@pytest.fixture
def processes(monkeypatch):
    processes = Processes()
    with meeting_point() as environment:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, environment[name])
        given = {"Event": processes.looks.event, "Thread": threading.Thread}
        monkeypatch.setattr(heartbeats, "threading", SimpleNamespace(**given))
        monkeypatch.setattr(heartbeats, "FIRST_SPEAKS", 0.0)
        monkeypatch.setattr(heartbeats, "end", processes.said.append)
        yield processes
        for one in processes.living:
            one.stop()
        wait_until(lambda: not any("(_watch)" in thread.name for thread in threading.enumerate()))


def test_processes_that_live_and_leave_are_not_missed(processes):
    for rank in range(3):
        processes.start(rank)
    processes.live_for(2 * heartbeats.PATIENCE)
    for one in processes.living:
        one.stop()
    processes.live_for(2 * heartbeats.PATIENCE)


@pytest.mark.parametrize("gone", [0, 1])
def test_one_that_stops_is_named(processes, gone):
    for rank in range(3):
        processes.start(rank)
    processes.live_for(10)
    processes.living[gone].stop()
    processes.live_for(heartbeats.PATIENCE)
    assert processes.end_within(3) == f"process {gone} of 3 {SILENT}"


def test_one_that_never_comes_is_named_later(processes):
    for rank in (0, 2):
        processes.start(rank)
    processes.live_for(heartbeats.COMING - 1)
    assert processes.end_within(3) == "process 1 of 3 gave no sign of life for 600 s: it has not come"


def test_the_store_itself_may_hang(processes, monkeypatch):
    monkeypatch.setattr(heartbeats.dist.TCPStore, "add", lambda *_: processes.looks.forever())
    processes.start(1)
    processes.live_for(heartbeats.COMING - 1)
    assert processes.end_within(3) == "process 0 of 3 gave no sign of life for 600 s: it has not come"


def test_others_wait_for_what_the_first_one_says(monkeypatch):
    """So long that torchrun ends them before, on a busy machine, too."""
    waited = []
    monkeypatch.setattr(distributed.time, "sleep", waited.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        distributed.let_first_speak()
    assert waited == [heartbeats.FIRST_SPEAKS] and heartbeats.FIRST_SPEAKS >= 20


def certify_until_one_hangs(rank: int, environment: dict[str, str], folder: Path) -> None:
    """In a new process, one of two, without torchrun, which would end them itself: certify, until process 1 hangs."""
    os.environ |= environment | {"RANK": str(rank), "WORLD_SIZE": "2"}
    os.dup2(os.open(folder / f"said {rank}", os.O_CREAT | os.O_WRONLY), 2)
    heartbeats.BEAT, heartbeats.COMING, patience = 0.1, 10**6, heartbeats.PATIENCE
    heartbeats.PATIENCE, journal.EVERY, recall, done = math.inf, 0, journal.Journal.recall, []

    def until_stopped(*arguments):
        if rank == 1 and len(done) == 1:
            wait_until((folder / "run.json.partial").exists)
            (folder / "hangs").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        done.append(1)
        return recall(*arguments)

    def notice() -> None:
        wait_until((folder / "hangs").exists)
        heartbeats.PATIENCE = patience

    journal.Journal.recall, program.own_modules = until_stopped, dict  # no program has those of tests
    threading.Thread(target=notice, daemon=True).start()
    os._exit(run_here(BAND, *CERTIFY, folder=folder))


def test_two_processes_go_on_and_find_what_one_finds(tmp_path, generated_mnist, capfd):
    """Process 1 hangs after 1 of its 2 batches, which ends process 0 too; later both go on under torchrun."""
    (tmp_path / "data").symlink_to(generated_mnist)
    save_random_network(tmp_path)
    with meeting_point() as environment:
        runs = [FORKS.Process(target=certify_until_one_hangs, args=(rank, environment, tmp_path)) for rank in range(2)]
        for run in runs:
            run.start()
        runs[0].join(PATIENCE)
        runs[1].kill()
    assert runs[0].exitcode == 1
    assert (tmp_path / "said 0").read_text() == f"{BAND}: error: process 1 of 2 {SILENT.replace('20', '2')}\n"
    assert {path.name for path in tmp_path.glob("run.json*")} == {"run.json.partial", "run.json.process_1.partial"}

    assert run_here(BAND, *CERTIFY, folder=tmp_path) == 2
    assert "run.json.partial is of an interrupted run with processes 2, not 1" in capfd.readouterr().err

    (tmp_path / "both.py").write_text(BOTH_ENGINES)
    succeed_in_two_processes(tmp_path / "both.py", ROOT / BAND, *CERTIFY, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["dense.json", "run.json"]
    for name, engine in (("run.json", "windowed"), ("dense.json", "dense")):
        two = json.loads((tmp_path / name).read_text())
        succeed(BAND, *CERTIFY, "--engine", engine, folder=tmp_path)
        one = json.loads((tmp_path / "run.json").read_text())
        assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
        for record in (one, two):
            del record["seconds"], record["environment"], record["config"]["output"]
        assert one == two
