"""Disks that are full or read-only, folders that go and files that become links while scripts write to them."""

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from patchcert import checkpoint, cli, epochs, files, journal, results
from patchcert.errors import WriteError
from patchcert.intervals import training as interval_training
from patchcert.masking import double_masking
from patchcert.option_values import output_file
from patchcert.training import loop as smoothing_training
from tests.faults.small_disk import SmallDisk
from tests.helpers import ROOT, run_here, succeed, wait_until
from tests.networks import save_random_network

P22 = ROOT / "config" / "mnist_robtrain_p22_all.json"
A_RESULT = json.loads((ROOT / "docs" / "results" / "mnist_band_4.json").read_text())
A_LINE = {"epoch": 0, "loss": 1.0, "train_accuracy": 0.5, "test_accuracy": 0.5, "lr": 0.1, "seconds": 1.0}
NOT_RESUMABLE = "cannot be written: No space left on device; an interrupted run would lose what it has done"
WAY_OUT = "; the same command continues from what was saved before"
MASKED = (
    "train_mnist_band_masked.py",
    ["--channels", "8,16", "--blocks", "0,0", "--batch_size", 16, "--subset", 32, "--band_size", 7, "--end_epoch", 2],
    "mnist_masked_band_lr_0.1_regularization_0.0005_lines_both_size_5_band_7_epoch_2.pth",
)
INTERVALS = (
    "train.py",
    ["--config", P22, "--model_subset", 0, "--subset", 20, "models_path=checkpoints", "training_params:epochs=3",
     "training_params:schedule_start=0", "training_params:schedule_length=1"],
    "mlp_255.pth",
)  # fmt: skip
KINDS = pytest.mark.parametrize(("script", "arguments", "name"), [MASKED, INTERVALS], ids=["smoothing", "intervals"])


@pytest.fixture
def disk(tmp_path):
    """A small disk where checkpoints go."""
    try:
        disk = SmallDisk(tmp_path / "checkpoints")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    yield disk
    disk.unmount()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, generated_mnist):
    """A folder in which both kinds of training ran, and nothing happened."""
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "data").symlink_to(generated_mnist)
    for script, arguments, _ in (MASKED, INTERVALS):
        succeed(script, *arguments, folder=folder)
    return folder


def assert_same_weights(folder: Path, other: Path, name: str) -> None:
    one, other = (weights(folder / "checkpoints" / name) for folder in (folder, other))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def weights(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True)
    return content.get("net", content.get("state_dict"))


def strays(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def after_first_epoch(monkeypatch, happens: Callable[[], None]) -> None:
    """Let something happen when a training has printed its first epoch."""

    def then(printed: Callable) -> Callable:
        def print_row(*arguments):
            printed(*arguments)
            if next(row for row in arguments if isinstance(row, dict))["epoch"] == 0:
                happens()

        return print_row

    monkeypatch.setattr(smoothing_training, "print_epoch", then(smoothing_training.print_epoch))
    monkeypatch.setattr(interval_training, "print_interval_epoch", then(interval_training.print_interval_epoch))


def mkdevice(path: Path) -> None:
    """What is no file and cannot be opened."""
    os.mknod(path, stat.S_IFSOCK | 0o600)


@contextlib.contextmanager
def no_file_above(size: int):
    """As on a full disk, no file of this process may become larger, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [
    lambda path: checkpoint.save({"net": {"weight": torch.randn(5000)}}, path),
    lambda path: results.write_json(A_RESULT, path),
    lambda path: results.write_csv([{"row": row} for row in range(5000)], path),
    lambda path: files.write_atomically(path, lambda file: np.savez_compressed(file, votes=np.random.rand(5000))),
])  # fmt: skip
def test_what_does_not_fit_is_named_and_leaves_what_was_there(tmp_path, write):
    path = tmp_path / "file"
    path.write_text("before")
    with no_file_above(7000), pytest.raises(WriteError, match=f"^cannot be written: {path}: File too large$"):
        write(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.stat().st_size > 7000 and list(tmp_path.iterdir()) == [path]


def test_a_log_that_takes_no_more_saves_no_state(tmp_path):
    log, path = tmp_path / "log.jsonl", tmp_path / "net.pth"
    epochs.record_epoch(A_LINE, log, {"epoch": 0}, [path])
    with no_file_above(log.stat().st_size + 20), pytest.raises(WriteError, match=f"{log}: File too large$"):
        epochs.record_epoch(A_LINE | {"epoch": 1}, log, {"epoch": 1}, [path])
    assert torch.load(path, weights_only=True)["epoch"] == 0
    assert len(log.read_text().splitlines()) == 2
    epochs.keep_log_until(log, 0)
    assert log.read_text() == json.dumps(A_LINE) + "\n" and strays(tmp_path) == []


def test_what_fits_is_written_and_the_rest_is_named(tmp_path):
    done = []

    def write(number):
        if number % 2:
            raise WriteError({Path(f"{number}"): "No space left on device"})
        done.append(number)

    with pytest.raises(WriteError) as caught, files.what_fits() as attempt:
        for number in range(16):
            attempt(write, number)
        raise BrokenPipeError
    named = ", ".join(f"{number}: No space left on device" for number in (1, 3, 5, 7, 9))
    assert str(caught.value) == f"cannot be written: {named}, and 3 more" and done == list(range(0, 16, 2))


@pytest.mark.parametrize("make", [os.mkdir, mkdevice])
def test_what_is_no_file_is_left_alone(tmp_path, make):
    make(tmp_path / "it")
    (tmp_path / "link").symlink_to("it")
    before = os.stat(tmp_path / "it")
    for write in (lambda path: results.write_json(A_RESULT, path), lambda path: files.append_line(path, "{}")):
        with pytest.raises(WriteError, match="link: is a folder or a device"):
            write(tmp_path / "link")
    assert os.path.samestat(before, os.stat(tmp_path / "it"))


def test_a_file_that_others_remove_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """As one does that takes a new file for a stray, or ends and removes its own lock."""
    lock, opened = files._lock, []

    def remove_first(file, *arguments):
        opened.append(file.name)
        if len(opened) % 2:
            os.unlink(file.name)
        return lock(file, *arguments)

    monkeypatch.setattr(files, "_lock", remove_first)
    results.write_json(A_RESULT, tmp_path / "run.json")
    assert (tmp_path / "run.json").is_file() and len(opened) == 2
    with files.locked(tmp_path / "net.pth") as held:
        assert held and (tmp_path / ".net.pth.lock").exists() and len(opened) == 4


@pytest.mark.parametrize("wrong", [False, True])
def test_an_output_that_takes_no_more_is_said_once(monkeypatch, capsys, wrong):
    def main():
        print("counts")
        if wrong:
            raise ValueError("too")

    with open("/dev/full", "w") as full, monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "stdout", full)
        patch.setattr(sys, "argv", ["script.py"])
        cli.run(main)
    said = "ValueError: too (--debug" if wrong else "cannot be written: output: No space left on device\n"
    message = capsys.readouterr().err
    assert stopped.value.code == 1 and message.count("\n") == 1 and message.startswith(f"script.py: error: {said}")


WRITES = """
import os, sys
from pathlib import Path
from patchcert import files
os.replace = lambda *_: sys.stdin.read()
files.write_atomically(Path(sys.argv[1]), lambda file: file.write(b"half"))
"""


def test_what_a_killed_process_leaves_goes_and_what_a_living_one_writes_stays(tmp_path):
    command = [sys.executable, "-c", WRITES, str(tmp_path / "run.json")]
    run = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
    found = wait_until(lambda: [path for path in tmp_path.glob(files.STRAYS) if path.stat().st_size])
    two_days_ago = time.time() - 2 * files.DAY
    os.utime(found[0], (two_days_ago, two_days_ago))
    files.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == found
    run.send_signal(signal.SIGKILL)
    run.wait()
    os.utime(found[0])
    assert list(tmp_path.iterdir()) == found
    files.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_other_machines_and_earlier_versions_left_goes_after_a_day(tmp_path):
    theirs, earlier, other = (tmp_path / name for name in (".patchcert-other-1a2b.tmp", ".k3_xyz9w.tmp", ".cache.tmp"))
    for path in (theirs, earlier, other):
        path.touch()
    with files.locked(tmp_path / "net.pth"):
        assert {theirs, earlier, other} < set(tmp_path.iterdir())
    for path in (theirs, earlier, other):
        os.utime(path, (0, 0))
    files.prepare(tmp_path)  # of a folder of results
    assert set(tmp_path.iterdir()) == {earlier, other}
    with files.locked(tmp_path / "net.pth"):
        pass
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("state", ["read-only", "full", "no folder"])
@KINDS
def test_a_place_that_takes_nothing_is_named_before_data_are_loaded(
    tmp_path, request, script, arguments, name, state, capsys
):
    if state == "no folder":
        (tmp_path / "checkpoints").touch()
    else:
        disk = request.getfixturevalue("disk")
        disk.fill() if state == "full" else disk.read_only()
    assert run_here(script, *arguments, "--data", "nowhere", folder=tmp_path) == 2
    reason = {"read-only": "Read-only file system", "full": "No space left on device", "no folder": "File exists"}[
        state
    ]
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "checkpoints" in message and message.endswith(f": {reason}\n")


def test_a_full_disk_takes_no_output(disk):
    disk.fill()
    with pytest.raises(argparse.ArgumentTypeError, match="No space left on device"):
        output_file(str(disk.folder / "run.json"))


@pytest.mark.parametrize("state", ["read-only", "full"])
@KINDS
def test_a_disk_that_takes_no_more_keeps_the_last_epoch(
    tmp_path, generated_mnist, disk, unbroken, script, arguments, name, state, monkeypatch, capsys
):
    (tmp_path / "data").symlink_to(generated_mnist)
    with monkeypatch.context() as patch:
        after_first_epoch(patch, disk.fill if state == "full" else disk.read_only)
        assert run_here(script, *arguments, folder=tmp_path) == 1
    message = capsys.readouterr().err
    reason = "No space left on device" if state == "full" else "Read-only file system"
    assert message.startswith(f"{script}: error: cannot be written: checkpoints/{name.removesuffix('.pth')}")
    assert message.endswith(f": {reason}{WAY_OUT}\n") and message.count("\n") == 1
    (left,) = (path for path in disk.folder.iterdir() if path.suffix in (".pth", ".partial") and ".pth" in path.name)
    assert torch.load(left, weights_only=True)["epoch"] == 0
    disk.mend()
    succeed(script, *arguments, folder=tmp_path)
    assert "continuing with epoch 1" in capsys.readouterr().out and strays(disk.folder) == []
    assert_same_weights(unbroken, tmp_path, name)


@KINDS
def test_a_folder_that_goes_comes_back(tmp_path, generated_mnist, unbroken, script, arguments, name, monkeypatch):
    (tmp_path / "data").symlink_to(generated_mnist)
    after_first_epoch(monkeypatch, lambda: shutil.rmtree(tmp_path / "checkpoints"))
    succeed(script, *arguments, folder=tmp_path)
    assert_same_weights(unbroken, tmp_path, name)
    assert strays(tmp_path / "checkpoints") == []


@pytest.mark.parametrize("target", ["elsewhere/net.pth", "..", "../device", "itself"])
def test_a_checkpoint_that_becomes_a_link(tmp_path, generated_mnist, target, monkeypatch, capsys):
    """The file that it points to is written; there is none behind a folder, a device or the link itself."""
    script, arguments, name = INTERVALS
    (tmp_path / "data").symlink_to(generated_mnist)
    path = tmp_path / "checkpoints" / name
    mkdevice(tmp_path / "device")

    def replace():
        path.unlink()
        path.symlink_to(name if target == "itself" else target)

    after_first_epoch(monkeypatch, replace)
    wrong = target.startswith("..")
    assert run_here(script, *arguments, folder=tmp_path) == wrong
    said = f"{script}: error: cannot be written: checkpoints/{name}: is a folder or a device{WAY_OUT}\n"
    assert capsys.readouterr().err == (said if wrong else "")
    assert strays(tmp_path / "checkpoints") == []
    if not wrong:
        assert torch.load(path, weights_only=True)["epoch"] == 2
        assert path.is_symlink() == (target != "itself")


def test_counts_of_certifying_are_printed_and_what_fits_is_written(
    tmp_path, generated_mnist, disk, capsys, monkeypatch
):
    monkeypatch.setattr(journal, "EVERY", float("inf"))  # however long it takes, it tries to write at the end
    save_random_network(tmp_path, "../net.pth")
    disk.fill(left=8192)
    written = {"output": "run.json", "per_image": "rows.csv", "save_votes": "votes.npz"}
    options = [part for option, file in written.items() for part in (f"--{option}", f"checkpoints/{file}")]
    arguments = ["--data", generated_mnist, "--size_to_certify", "1-9", "--limit", 30, "--engine", "dense"]
    arguments += ["--checkpoint", "net.pth"]
    assert run_here("certify_mnist_band.py", *arguments, *options, folder=tmp_path) == 1
    printed, message = capsys.readouterr()
    assert "30 images in" in printed and len(printed.splitlines()) > 9
    reasons = ", ".join(f"checkpoints/{file}: No space left on device" for file in ("votes.npz", "rows.csv"))
    note, error = message.splitlines()
    assert note == f"note: checkpoints/run.json.partial {NOT_RESUMABLE}"
    assert error == f"certify_mnist_band.py: error: cannot be written: {reasons}"
    assert json.loads((disk.folder / "run.json").read_text())["config"]["limit"] == 30
    disk.mend()
    succeed("certify_mnist_band.py", *arguments, *options, folder=tmp_path)
    assert {path.name for path in disk.folder.iterdir()} == set(written.values())


def test_errors_of_models_are_printed_and_what_fits_is_written(unbroken, disk, capsys):
    disk.fill(left=4096)
    written = {disk.folder / "o.json", disk.folder / "o.csv"}
    outputs = ["--output", disk.folder / "o.json", "--per_image", disk.folder / "o.csv"]
    assert run_here("eval.py", *INTERVALS[1][:4], "models_path=checkpoints", *outputs, folder=unbroken) == 1
    printed, message = capsys.readouterr()
    assert "mlp_255: " in printed and "certified error" in printed
    (missing,) = (path for path in written if not path.exists())
    note, error = message.splitlines()
    assert note == f"note: {disk.folder}/o.json.partial {NOT_RESUMABLE}"
    assert error == f"eval.py: error: cannot be written: {missing}: No space left on device"
    journal = disk.folder / "o.json.partial"  # with which the same command goes on
    assert set(disk.folder.iterdir()) == written - {missing} | {disk.filler, journal}


ATTACK = [
    "attack_mnist_band_masked.py", "--all", "--limit", 6, "--skip", 1, "--steps", 6, "--randomizations", 4,
    "--step_size", 0.3, "--loss", "margin", "--size_of_attack", 14, "--checkpoint", MASKED[2],
]  # fmt: skip


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Otherwise a power cut between the two would leave the name without content."""
    happened, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda file: happened.append(f"{os.fstat(file).st_size} bytes"))
    monkeypatch.setattr(os, "replace", lambda *paths: (happened.append("name"), replace(*paths)))
    files.write_atomically(tmp_path / "whole", lambda file: file.write(b"123"))
    files.append_line(tmp_path / "lines", "12345")
    assert happened == ["3 bytes", "name", "6 bytes"]


def test_attacks_end_with_their_numbers_and_all_pictures_that_fit(unbroken, disk, capsys):
    disk.fill(left=8192)
    written = ["--output", "run.json", "--save_images", disk.folder]
    assert run_here(*ATTACK, *written, folder=unbroken) == 1
    printed, message = capsys.readouterr()
    assert "attacked correct" in printed and "flipped images" in printed
    assert message.count("\n") == 1 and message.startswith("attack_mnist_band_masked.py: error: cannot be written: /")
    assert json.loads((unbroken / "run.json").read_text())["total"] == 6
    assert len(list(disk.folder.glob("image_*.png"))) == 2 and strays(disk.folder) == []


def test_a_broken_certificate_stays_one_where_no_counterexample_fits(unbroken, disk, monkeypatch, capsys):
    monkeypatch.setattr(double_masking, "beats_all", lambda leads, *_: torch.ones(leads.shape[:-1], dtype=torch.bool))
    disk.fill(left=4096)
    assert run_here(*ATTACK, "--save_images", disk.folder, folder=unbroken) == 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "was flipped: the counterexample cannot be written: " in message
