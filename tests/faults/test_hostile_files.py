"""Hostile files of every kind: one line, no harm, no more memory than is due. benchmarks/break_it.py tries all."""

from itertools import islice

import pytest

from tests.faults import hostile, mutations
from tests.faults.hostile import Outcome, Target, Victims


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    return Victims(tmp_path_factory.mktemp("victims"))


KINDS = ["--resume", "CIFAR-10", "SVHN", "checkpoint", "config", "images", "interrupted run", "labels", "log", "model",
         "picture", "split in a tensor", "split in text", "train.py --resume", "votes"]  # fmt: skip


def test_every_kind_is_tried(victims):
    assert sorted(victims.targets) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files_are_refused_in_one_line_or_do_no_harm(victims, kind, workers):
    attempts = list(islice(victims.attempts(kind), 0, 120, 4))
    found = {what: victims.attempt(kind, what) for what in attempts}
    assert {what: wrong for what, (_, wrong) in found.items() if wrong} == {}
    assert any(outcome.code == 2 for outcome, _ in found.values())


TARGET = Target("x.py", (), "file")


@pytest.mark.parametrize(("outcome", "said"), [
    (Outcome(2, "x.py: error: is wrong\n", 1000), None),
    (Outcome(1, "note: it is late\nx.py: error: is wrong\n", 1000), None),
    (Outcome(0, "", 1000), None),
    (Outcome(0, "Warning: look\n", 1000), "said Warning: look"),
    (Outcome(1, "Traceback:\n  x.py\nValueError: x\n", 1000), "said 3 lines: ValueError: x"),
    (Outcome(2, f"x.py: error: {'x' * 600}\n", 1000), "said 613 characters"),
    (Outcome(2, "x.py: error: \x1b[31m\n", 1000), "said 1 lines: x.py: error: \x1b[31m"),
    (Outcome(-9, "", 1000), "exit code -9"),
    (Outcome(2, "x.py: error: is wrong\n", hostile.ALWAYS + 1 + 20 * 7), "took 400 MB"),
])  # fmt: skip
def test_what_may_not_be_is_found(victims, outcome, said):
    assert victims._wrong(TARGET, outcome, size=7) == said


def test_a_script_that_executes_what_it_reads_is_found(victims):
    (victims.folder / "evil.pkl").write_bytes(mutations.pickle.dumps(mutations.Bomb()))
    (victims.folder / "loads.py").write_text("import pickle; pickle.load(open('evil.pkl', 'rb'))\n")
    outcome = victims._run(Target(str(victims.folder / "loads.py"), (), "evil.pkl"), ())
    assert victims._wrong(TARGET, outcome, size=0) == "executed"
    victims._restore()
