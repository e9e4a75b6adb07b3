"""One run at a time trains into a checkpoint: the second is refused, a dead one is in nobody's way."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys

import pytest

from patchcert import distributed, files
from patchcert.epochs import no_other_run
from patchcert.errors import PlaceError, UsageError
from tests.helpers import ROOT, run_here, wait_until

P22 = ROOT / "config" / "mnist_robtrain_p22_all.json"

HOLDS = """
import os, sys
from pathlib import Path
from patchcert import files
with files.locked(Path(sys.argv[1])):
    if sys.argv[2] == "forks" and os.fork() == 0:
        print(os.getpid(), flush=True)
    sys.stdin.read()
"""

TAKES_TURNS = """
import sys, time
from pathlib import Path
from patchcert import files
from patchcert.errors import PlaceError
path, turns = Path(sys.argv[1]), 0
while turns < 40:
    try:
        with files.locked(path):
            alone = path.with_name("alone")
            alone.open("x").close()
            alone.unlink()
            turns += 1
    except PlaceError:
        time.sleep(0.001)
"""


def python(code: str, *arguments: object) -> subprocess.Popen:
    """A process that lives as long as its stdin, a pipe, is open."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("script", "arguments", "name"),
    [
        (
            "train_mnist_band.py",
            [],
            "checkpoints/mnist_one_band_lr_0.01_regularization_0.0005_band_4_epoch_199.pth",
        ),
        (
            "train_mnist_band.py",
            ["--model", "column", "--end_epoch", 3],
            "checkpoints/mnist_one_band_lr_0.01_regularization_0.0005_model_column_band_4_epoch_3.pth",
        ),
        (
            "train_cifar_band_masked.py",
            ["--band_size", 5],
            "checkpoints/cifar_masked_band_lr_0.005_regularization_0.005_lines_both_size_5_band_5_epoch_22.pth",
        ),
        (
            "train.py",
            ["--config", P22, "--model_subset", 0, 1],
            "checkpoints/mnist_robtrain_p22_all/cnn_2layer_width_1.pth",
        ),
    ],
)
def test_the_same_training_twice_at_once_is_refused(tmp_path, script, arguments, name, capsys):
    """Before any data is loaded: there is none."""
    with files.locked(tmp_path / name):
        assert run_here(script, *arguments, "--data", "nowhere", folder=tmp_path) == 2
    holder = f"process {os.getpid()} on {platform.node()} is at work on it; wait until it ends, or stop it"
    assert capsys.readouterr().err == f"{script}: error: {name}: {holder}\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_other_runs_in_the_folder_are_not(tmp_path):
    with files.locked(tmp_path / "one.pth"), files.locked(tmp_path / "other.pth") as held:
        assert held
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["alone", "forks"])
def test_a_killed_run_holds_nothing(tmp_path, how):
    """Not even if processes that it forked, as loaders of pictures do, live on."""
    path, lock = tmp_path / "net.pth", tmp_path / ".net.pth.lock"
    run = python(HOLDS, path, how)
    wait_until(lambda: lock.exists() and lock.read_text())
    child = int(run.stdout.readline()) if how == "forks" else None
    with pytest.raises(PlaceError, match=f"net.pth: process {run.pid} on "), files.locked(path):
        pass
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert lock.exists()
    with files.locked(path) as held:
        assert held and lock.read_text() == f"process {os.getpid()} on {platform.node()}"
    assert list(tmp_path.iterdir()) == []
    if child:
        os.kill(child, signal.SIGKILL)


def test_of_many_that_want_it_one_has_it(tmp_path):
    runs = [python(TAKES_TURNS, tmp_path / "net.pth") for _ in range(4)]
    assert [run.wait() for run in runs] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_the_first_process_speaks_for_all(tmp_path, monkeypatch):
    """Another one touches no file, and is refused when the first is."""
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    path, said = tmp_path / "nowhere" / "net.pth", []
    monkeypatch.setattr(distributed, "from_first", lambda value: said.append(value))
    with no_other_run([path]):
        assert said == [None] and not path.parent.exists()
    monkeypatch.setattr(distributed, "from_first", lambda _: (path, "is taken"))
    with pytest.raises(UsageError, match=r"net.pth: is taken"), no_other_run([path]):
        pass


def test_of_several_files_all_or_none_are_held(tmp_path):
    with files.locked(tmp_path / "b.pth"):
        with pytest.raises(UsageError, match=r"b.pth: process"), no_other_run([tmp_path / "a.pth", tmp_path / "b.pth"]):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [".b.pth.lock"]


def test_where_there_are_no_locks_that_is_said(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    with no_other_run([tmp_path / "net.pth"]), no_other_run([tmp_path / "net.pth"]):
        pass
    note = f"note: {tmp_path}/net.pth: its file system has no locks; see that no other process trains it\n"
    assert capsys.readouterr().err == 2 * note
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\xff\n" * 50_000])
def test_whatever_a_lock_holds_it_is_one_short_line(tmp_path, content):
    lock = tmp_path / ".net.pth.lock"
    lock.write_bytes(content)
    with lock.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PlaceError) as caught, files.locked(tmp_path / "net.pth"):
            pass
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
