"""Away from a terminal a line a minute says how far a run is, and nothing says it where nobody wants to hear."""

import io
import sys
from types import SimpleNamespace

import pytest
import torch

from patchcert import Band, Patch, SmoothedClassifier, certify, distributed, progress
from tests.helpers import succeed


class Clock:
    """One that stands still until it is told."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))

    def work(self, bar, *, steps, images, seconds):
        for _ in range(steps):
            self.now += seconds
            bar.update(images)


@pytest.fixture
def clock(monkeypatch):
    """And a script that has just begun, which the machine's own slowness cannot make talk."""
    monkeypatch.setattr(progress, "SILENCE", 60.0)
    monkeypatch.setattr(progress, "_quiet", False)
    clock = Clock(monkeypatch)
    progress.be_quiet(False)
    return clock


def test_a_line_a_minute_says_what_is_done_how_fast_and_what_is_left(clock, capsys):
    with progress.progress_bar(10_000, "certifying") as bar:
        clock.work(bar, steps=59, images=50, seconds=1)
        assert capsys.readouterr() == ("", "")
        clock.work(bar, steps=1, images=50, seconds=1)
        clock.work(bar, steps=59, images=10, seconds=1)
        bar.set_postfix(loss="0.5", right="90%")
        clock.work(bar, steps=1, images=10, seconds=1)
    assert capsys.readouterr() == ("", "".join([
        "certifying: 3,000 of 10,000 images, 50 a second, 02:20 left\n",
        "certifying: 3,600 of 10,000 images, 10 a second, 10:40 left, loss 0.5, right 90%\n",
    ]))  # fmt: skip


@pytest.mark.parametrize(("images", "seconds", "said"), [
    (1, 90, "1 of 4 images, 0.011 a second, 04:30 left"),
    (4, 60, "4 of 4 images, 0.067 a second, 00:00 left"),
    (0, 60, "0 of 4 images"),
])  # fmt: skip
def test_steps_that_take_longer_than_a_minute_have_a_line_each(clock, capsys, images, seconds, said):
    with progress.progress_bar(4, "attacking") as bar:
        clock.work(bar, steps=1, images=images, seconds=seconds)
    assert capsys.readouterr().err == f"attacking: {said}\n"


def test_many_short_bars_are_silent_for_a_minute_together(clock, capsys):
    for number in range(4):
        with progress.progress_bar(10, f"model {number}") as bar:
            clock.work(bar, steps=10, images=1, seconds=2.5)
    assert capsys.readouterr().err == "model 2: 4 of 10 images, 0.4 a second, 00:15 left\n"


def test_what_is_said_otherwise_counts_and_so_does_no_break_without_bars(clock, capsys):
    for _ in range(3):
        with progress.progress_bar(40, "epoch") as bar:
            clock.work(bar, steps=40, images=1, seconds=1)
        progress.say("a line")
    clock.now += 1000
    with progress.progress_bar(40, "masking") as bar:
        clock.work(bar, steps=40, images=1, seconds=1)
    assert capsys.readouterr() == ("a line\n" * 3, "")


def test_a_run_that_goes_on_is_as_fast_as_it_is_now(clock, capsys):
    with progress.progress_bar(1000, "epoch 3/9", done=700) as bar:
        clock.work(bar, steps=60, images=2, seconds=1)
    assert capsys.readouterr().err == "epoch 3/9: 820 of 1,000 images, 2 a second, 01:30 left\n"


def test_a_line_that_cannot_be_written_ends_nothing(clock, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with progress.progress_bar(10, "certifying") as bar:
        clock.work(bar, steps=2, images=1, seconds=60)
    assert bar.done == 2


@pytest.mark.parametrize("who", ["quiet", "another process", "at a terminal"])
def test_who_says_none(clock, capsys, monkeypatch, who):
    if who == "quiet":
        progress.be_quiet(True)
    elif who == "another process":
        monkeypatch.setattr(distributed, "is_first", lambda: False)
    else:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress_bar(100, "certifying") as bar:
        clock.work(bar, steps=3, images=1, seconds=100)
        bar.set_postfix(loss="0.5")
    said = capsys.readouterr().err
    assert "\n" not in said and ("certifying" in said) == (who == "at a terminal")


def test_training_says_it_in_training_and_testing(tmp_path, generated_mnist, capsys, clock, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    small = ["--data", generated_mnist, "--subset", 40, "--batch_size", 20, "--end_epoch", 0]
    succeed("train_mnist_band.py", *small, folder=tmp_path)
    said = capsys.readouterr().err.splitlines()
    steps = [f"epoch 0/0{part}: {done} of 40 images" for part in ("", ", testing") for done in (20, 40)]
    assert [line.partition(" images")[0] + " images" for line in said] == steps
    assert "right" in said[1] and "loss" in said[1]
    succeed("train_mnist_band.py", *small, "--overwrite", "--quiet", folder=tmp_path)
    assert capsys.readouterr().err == ""


def test_python_has_it_too(clock, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 64, 3))
    images, labels = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    certify(SmoothedClassifier(network, Band(8, 8, 3)), images, labels, Patch(2, 2))
    assert "certifying: 4 of 4 images" in capsys.readouterr().err
