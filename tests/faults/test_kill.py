"""Trainings that are killed: what lies on the disk is whole, the same command goes on, and every bit ends the same.

The long version is benchmarks/breaking/kills.py, whose parts are used here.
"""

import random
import signal

import pytest

from benchmarks.breaking.kills import at_random, ended, unbroken, while_saving
from tests.faults.trainings import Trainings


def test_columns_go_on_after_sigkill_at_random_times(tmp_path):
    trainings = Trainings(tmp_path, "columns")
    whole, seconds = unbroken(trainings)
    assert len(whole) == 2 and trainings.broken("unbroken") == []
    assert ended(trainings, "killed", at_random(signal.SIGKILL, seconds, random.Random(1)), 2, whole) == (0, "")


@pytest.mark.parametrize(("kind", "processes", "moment", "number"), [
    ("smoothing", 1, "before", signal.SIGKILL),
    ("columns", 1, "inside", signal.SIGKILL),
    ("intervals", 1, "before", signal.SIGKILL),
    ("columns", 2, "before", signal.SIGTERM),  # in the first process alone: the other one stops, too
])  # fmt: skip
def test_training_goes_on_after_the_end_while_it_saves(tmp_path, kind, processes, moment, number):
    trainings = Trainings(tmp_path, kind, processes)
    assert trainings.run("unbroken") == 0
    whole = trainings.left("unbroken")
    assert ended(trainings, "ended", while_saving(moment, random.Random(3), number), 1, whole) == (0, "")
    said = trainings.said("ended 0")
    assert "continuing with epoch" in said
    assert ("terminated; the same command continues in epoch" in said) == (number == signal.SIGTERM)


def test_what_is_not_whole_is_noticed(tmp_path):
    trainings = Trainings(tmp_path, "columns")
    assert trainings.run("run") == 0
    (checkpoint,) = tmp_path.glob("run/checkpoints/*.pth")
    (log,) = tmp_path.glob("run/checkpoints/*.jsonl")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    log.write_text(log.read_text()[:-3])
    assert len(trainings.broken("run")) == 2
