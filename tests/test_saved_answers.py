"""Saved answers against the network's own: every certificate from the file is that of the run that wrote it."""

import csv
import json
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcert.errors import UsageError
from patchcert.experiments import saved_windows
from patchcert.masking.alarms import ALARM
from patchcert.masking.answers import UNASKED, Answers
from patchcert.masking.noted import count_of, from_known, noted, numbers_of, pairs_of
from patchcert.masking.questions import two_rounds
from patchcert.votes import archives, saved_answers, saved_votes
from tests.helpers import ROOT, rewrite_votes, run_here, succeed
from tests.test_hidden_windows import verdicts
from tests.test_imagenet_windows_script import COMMAND, SCRIPT, folder  # noqa: F401  a fixture

MARGIN = 0.05


@given(st.integers(1, 12))
def test_questions_are_numbered_windows_first_and_then_pairs_row_by_row(windows):
    expected = [(w, w) for w in range(windows)] + list(combinations(range(windows), 2))
    assert pairs_of(windows).tolist() == list(map(list, expected)) and count_of(windows) == len(expected)
    assert numbers_of(pairs_of(windows), windows).tolist() == list(range(len(expected)))
    assert numbers_of(pairs_of(windows).flip(1), windows).tolist() == list(range(len(expected)))


def answers_to_all(windows: int, seed: int) -> Answers:
    """(Q,), most of one class, with small leads."""
    generator = torch.Generator().manual_seed(seed)
    likely = [0, 0.9, 0.97, 1][seed % 4]
    logits = torch.rand(count_of(windows), 3, generator=generator) / 5
    logits[torch.rand(len(logits), generator=generator) < likely, 1] += 0.2 + MARGIN * (seed % 3)
    return Answers.of(logits)


def ended(questions, given_by, windows):
    """The verdict of `questions` when answers are those `given_by` number, and all numbers that were asked."""
    asked = []
    try:
        wanted = next(questions)
        while True:
            numbers = numbers_of(wanted, windows)
            asked += numbers.tolist()
            wanted = questions.send(given_by[numbers])
    except StopIteration as end:
        return end.value, asked


def essence(verdict):
    return (verdict.predicted, verdict.lead, verdict.dissenting.tolist(), verdict.certified, verdict.left_early)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 7), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_noting_answers_changes_no_verdict_and_asks_nothing_twice(windows, seed, certify, everything):
    every = answers_to_all(windows, seed)
    plain, _ = ended(two_rounds(windows, MARGIN, certify), every, windows)
    questions = noted(two_rounds(windows, MARGIN, certify), windows, all_of_them=everything)
    verdict, asked = ended(questions, every, windows)
    assert essence(verdict) == essence(plain) and len(set(asked)) == len(asked)
    given_answers = (verdict.answers.classes != UNASKED).nonzero().flatten().tolist()
    assert sorted(asked) == given_answers and (not everything or len(asked) == count_of(windows))
    for mine, other in zip(vars(verdict.answers[asked]).values(), vars(every[asked]).values(), strict=True):
        assert torch.equal(mine, other)
    assert essence(from_known(windows, verdict.answers, MARGIN, certify)) == essence(plain)


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(0, 1))
def test_what_was_not_asked_never_counts_as_agreeing(windows, seed, share):
    """Of whatever pairs is known: the verdict is that from all, or there is none."""
    every = answers_to_all(windows, seed)
    known = Answers.none(len(every))
    kept = torch.rand(len(every), generator=torch.Generator().manual_seed(seed)) < share
    kept[:windows] = True
    known.put(kept.nonzero().flatten(), every[kept])
    plain, _ = ended(two_rounds(windows, MARGIN), every, windows)
    found = from_known(windows, known, MARGIN)
    assert found is None or (found.predicted, found.certified) == (plain.predicted, plain.certified)
    pairs = known[windows:]
    dissent = every[:windows].classes.unique().numel() > 1 or (pairs.classes[kept[windows:]] != plain.predicted).any()
    if not plain.dissenting.any() and dissent:
        assert found is not None, "a pair that refutes is enough, whenever it was asked"
    if plain.certified:
        assert (found is not None) == bool(kept.all()), "every pair is needed to certify"


def test_windows_dissent_even_where_the_prediction_is_not_known():
    known = Answers.none(count_of(4))
    known.put(torch.arange(4), Answers(torch.tensor([0, 0, 1, 0]), torch.ones(4), torch.ones(4), torch.zeros(4)))
    assert from_known(4, known, 0.0, certify=False) is None
    verdict = saved_windows._of_prediction(4, known)
    assert verdict.predicted == ALARM and verdict.dissenting.tolist() == [False, False, True, False]


def certify(where, script, *arguments):
    """The entry `results`, the rows and the whole record of a run."""
    own = COMMAND if script == SCRIPT else ()
    succeed(script, *own, *arguments, "--output", "run.json", "--per_image", "rows.csv", folder=where)
    record = json.loads((where / "run.json").read_text())
    with (where / "rows.csv").open() as file:
        rows = [
            {name: row[name] for name in row if name not in ("passes", "not_known")} for row in csv.DictReader(file)
        ]
    return record["results"], rows, record


SAVED = ("certify_votes.py", "--votes", "votes.npz")

BOTH = ("--goal", "recover,alert", "--confidence", "strict,0,0.3,0.9")


@pytest.mark.parametrize("arithmetic", [(), ("--amp",), ("--tf32",), ("--numerical_margin", 0)])
def test_the_file_answers_as_the_network_does(folder, arithmetic):  # noqa: F811
    direct, rows, record = certify(folder, SCRIPT, *BOTH, *arithmetic, "--save_votes", "votes.npz")
    found, found_rows, answered = certify(folder, *SAVED, *BOTH)
    assert (found, found_rows) == (direct, rows) and len(direct) == 10
    assert answered["not_known"] == [0] * 10 and answered["arithmetic"] == record["arithmetic"]
    assert answered["config"]["config_of_votes"]["model"] == "small:network" and "passes" not in answered
    counts = {(entry["certified_correct"], entry["false_alarms"]) for entry in found if entry["goal"] == "alert"}
    assert len(counts) > 1


def test_the_file_answers_what_was_not_asked_when_it_was_written(folder):  # noqa: F811
    *_, record = certify(folder, SCRIPT, "--save_votes", "votes.npz")
    passes = record["passes"]
    two, two_rows, _ = certify(folder, SCRIPT, "--patches", 2, "--goal", "alert")
    assert certify(folder, *SAVED, "--patches", 2)[:2] == (two, two_rows)
    alarms, alarm_rows, _ = certify(folder, SCRIPT, "--goal", "alert", "--confidence", "0.35,0.9")
    assert certify(folder, *SAVED, "--goal", "alert", "--confidence", "0.35,0.9")[:2] == (alarms, alarm_rows)
    *_, everything = certify(folder, SCRIPT, "--save_votes", "all.npz", "--ask_all")
    assert everything["passes"] == 12 * 2 * (4 + 6 + 1) >= passes


TWO = ("--patches", 2, "--goal", "alert", "--confidence", "strict,0,0.3,0.36")
FINE = ("--per_side", 4)  # windows that hide less, so that some answers agree


def test_the_file_answers_alarms_against_two_patches(folder):  # noqa: F811
    direct, rows, record = certify(folder, SCRIPT, *FINE, *TWO, "--save_votes", "votes.npz")
    assert record["passes"] == 12 * 2 * (16 + 120 + 1) and len(direct) == 8
    assert certify(folder, *SAVED, *TWO)[:2] == (direct, rows)
    certify(folder, SCRIPT, *FINE, "--save_votes", "votes.npz", "--ask_all")
    found, found_rows, answered = certify(folder, *SAVED, *TWO)
    assert (found, found_rows) == (direct, rows) and answered["not_known"] == [0] * 8
    assert len({(entry["certified_correct"], entry["false_alarms"]) for entry in found[:4]}) > 1


@pytest.mark.parametrize("asked", ["recover", "alert"])
def test_a_pair_that_was_not_tried_certifies_nothing_against_two_patches(folder, asked):  # noqa: F811
    _, rows, _ = certify(folder, SCRIPT, *FINE, *TWO)
    certify(folder, SCRIPT, *FINE, "--goal", asked, "--save_votes", "votes.npz")
    _, found, record = certify(folder, *SAVED, *TWO)
    changed = 0
    for one, direct in zip(found, rows, strict=True):
        same = (one["predicted"], one["certified"]) == (direct["predicted"], direct["certified"])
        assert same or (one["predicted"], one["certified"]) == ("-1", "False")
        changed += not same
    assert 0 < changed <= sum(record["not_known"]) < len(rows)


def test_smaller_patches_are_answered_by_the_windows_that_hold_them(folder, capsys):  # noqa: F811
    (of_two, of_rows), *_ = certify(folder, SCRIPT, "--save_votes", "votes.npz")
    (one,), _, _ = certify(folder, *SAVED, "--size_to_certify", "1x2")
    assert one == of_two | {"size_to_certify": "1x2"}, "windows for 2 × 2 hide less than those for 3 × 2"
    assert "1x2 (1 × 2, 4 windows of 11 × 11 pixels)" in capsys.readouterr().out
    (tall,), _, _ = certify(folder, *SAVED, "--size_to_certify", "3x1")
    assert tall == of_rows | {"size_to_certify": "3x1"}
    assert certify(folder, *SAVED, "--size_to_certify", "2,1x1", "--limit", 5)[0][0]["total"] == 5


def test_what_was_not_asked_is_said(folder, capsys):  # noqa: F811
    wanted, *_ = certify(folder, SCRIPT)
    certify(folder, SCRIPT, "--goal", "alert", "--save_votes", "votes.npz")
    capsys.readouterr()
    found, _, record = certify(folder, *SAVED, "--goal", "recover,alert")
    recovered = found[::2]
    assert [entry["certified_correct"] for entry in recovered] == [0, 0]
    assert [entry["correct"] for entry in recovered] == [entry["correct"] for entry in wanted]
    assert record["not_known"][1] == record["not_known"][3] == 0 < record["not_known"][0] <= 12
    assert f"was not tried: {record['not_known'][0]}, 0, " in capsys.readouterr().out
    two, _, record = certify(folder, *SAVED, "--patches", 2)
    assert two[0]["certified_correct"] == 0 < record["not_known"][0] and two[0]["false_alarms"] == 12


def written_by_others(path, pictures=12, size="2"):
    """A file that a project writes which has no more than docs/votes-format.md; returns its logits (N, Q, 3)."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "votes-format.md").read_text(), re.DOTALL)[1]
    exec(code, theirs := {})
    logits = np.random.RandomState(0).rand(pictures, 11, 3).astype(np.float32)
    logits[: pictures // 2, :, 1] += 1
    rectangles = [[0, 6, 0, 6], [0, 6, 4, 10], [4, 10, 0, 6], [4, 10, 4, 10]]
    theirs["write"](path, logits, np.arange(pictures) % 3, rectangles, size, (10, 10), "float32")
    return logits


def test_files_of_others_are_answered_from(tmp_path):
    logits = written_by_others(tmp_path / "votes.npz")
    found, rows, _ = certify(tmp_path, *SAVED, *BOTH)
    first, second = np.triu_indices(4, k=1)
    order = [(w, w) for w in range(4)] + list(zip(first, second, strict=True))
    table = torch.zeros(12, 4, 4, 3)
    for number, (one, other) in enumerate(order):
        table[:, one, other] = table[:, other, one] = torch.from_numpy(logits[:, 1 + number])
    expected = verdicts(table, 1e-3)
    recovered = rows[:12]
    assert [row["certified"] for row in recovered] == [str(verdict.certified) for verdict in expected]
    assert [int(row["predicted"]) for row in recovered] == [verdict.predicted for verdict in expected]
    assert 0 < found[0]["certified_correct"] < found[0]["correct"] < 12 and found[1]["false_alarms"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about, arrays: about.update(format=2), "['format']: 1 was expected"),
        (lambda about, arrays: about.update(kind="x"), "it holds x, expected votes or windows"),
        (lambda about, arrays: about.update(height=11), "at some place no window covers them"),
        (lambda about, arrays: about["families"][0].update(size="4"), "at some place no window covers them"),
        (lambda about, arrays: about["families"][0].update(size="11"), "at some place no window covers them"),
        (lambda about, arrays: about["families"][0].update(size="1-2"), "does not match"),
        (lambda about, arrays: about["families"][0].update(windows=3), "rectangles are torch.int64 (4, 4), expected"),
        (lambda about, arrays: about["arithmetic"].update(precision="int8"), "precision is int8, expected one of"),
        (lambda about, arrays: about.pop("config"), "'config' is a required property"),
        (lambda about, arrays: about.update(config={"dataset": "folder", "data": 3}), "options of the run"),
        (lambda about, arrays: about.update(class_count=2), "labels has 2, expected values from 0 to 1"),
        (lambda about, arrays: arrays.pop("leads"), "its arrays are classes, confidences,"),
        (lambda about, arrays: arrays["rectangles"].__setitem__((0, 1), 11), "rectangles has 11"),
        (lambda about, arrays: arrays["rectangles"].__setitem__((0, 1), 0), "some window is not in an image"),
        (lambda about, arrays: arrays["questions"].__setitem__(0, 1), "not in ascending order"),
        (lambda about, arrays: arrays["indices"].__setitem__(0, 1), "some indices are there twice"),
        (lambda about, arrays: arrays["labels"].__setitem__(0, 3), "labels has 3"),
        (lambda about, arrays: arrays["leads"].__setitem__(0, np.nan), "leads has nan"),
        (lambda about, arrays: arrays["leads"].__setitem__(0, 9), "a lead is more than twice the largest magnitude"),
        (lambda about, arrays: arrays["leads"].__imul__(0.2), "a confidence is not the softmax probability"),
        (lambda about, arrays: arrays["confidences"].__setitem__(0, 0.2), "a confidence is not the softmax"),
        (lambda about, arrays: arrays.update(leads=arrays["leads"].astype(np.float64)), "leads are torch.float64"),
        (lambda about, arrays: arrays.update(_without(arrays, 3)), "or for one hidden window is missing"),
        (lambda about, arrays: arrays.update(_without(arrays, 0)), "for some image, the answer for the whole"),
        (lambda about, arrays: arrays.update(labels=np.array([{}] * 12)), "not a complete file of votes"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_clear_line(tmp_path, capsys, change, said):
    path = tmp_path / "votes.npz"
    written_by_others(path)
    rewrite_votes(path, change)
    with pytest.raises(UsageError) as refused:
        archives.read(path, {"votes": saved_votes.of, "windows": saved_answers.of})
    assert said in str(refused.value) and "\n" not in str(refused.value)


def _without(arrays, number):
    """The arrays less one answer about the first picture."""
    counts = arrays["counts"] - (np.arange(12) == 0)
    values = ("questions", "classes", "leads", "confidences", "magnitudes")
    return {"counts": counts} | {name: np.delete(arrays[name], number) for name in values}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threshold", 0.3], "--threshold 0.3: the file has answers about hidden windows"),
        (["--top_one"], "--top_one True: the file has answers about hidden windows"),
        (["--certificate", "exact"], "--certificate exact: the file has answers about hidden windows"),
        (["--size_to_certify", 4], "--size_to_certify 4: no windows of this file cover it; they are for 2"),
        (["--patches", 2, "--goal", "recover"], "--patches 2: expected 1 to recover"),
    ],
)
def test_questions_that_a_file_cannot_answer_are_refused_in_one_line(tmp_path, capsys, arguments, said):
    written_by_others(tmp_path / "votes.npz")
    assert run_here(*SAVED, *arguments, folder=tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_asking_everything_is_for_saving(folder, capsys):  # noqa: F811
    assert run_here(SCRIPT, *COMMAND, "--ask_all", folder=folder) == 2
    assert "--ask_all True: expected --save_votes FILE.npz, too" in capsys.readouterr().err


@pytest.mark.parametrize("config", [{}, {"data": "gone"}, {"data": "gone", "classes": "gone.txt"}])
def test_files_are_answered_from_where_no_pictures_are(tmp_path, capsys, config):
    def change(about, arrays):
        about["config"] |= config
        arrays["labels"][:8] = 1

    written_by_others(tmp_path / "votes.npz")
    rewrite_votes(tmp_path / "votes.npz", change)
    succeed(*SAVED, "--limit", 6, folder=tmp_path)
    assert "6 images" in capsys.readouterr().out


def test_an_interrupted_run_saves_what_an_unbroken_one_does(folder, monkeypatch):  # noqa: F811
    from patchcert.experiments import windows

    monkeypatch.setattr(windows, "IMAGES_AT_ONCE", 4)
    asked = (SCRIPT, *COMMAND, "--output", "run.json", "--save_votes")
    succeed(*asked, "whole.npz", folder=folder)
    looked, look = [], windows.window_goals.look

    def stopping(*arguments):
        looked.append(arguments)
        if len(looked) == 4:
            raise KeyboardInterrupt
        return look(*arguments)

    monkeypatch.setattr(windows.window_goals, "look", stopping)
    assert run_here(*asked, "parts.npz", folder=folder) == 130
    succeed(*asked, "parts.npz", folder=folder)
    assert len(looked) == 4 + 2 * 2, "one of three batches, for two sizes, was there"
    with np.load(folder / "whole.npz") as whole, np.load(folder / "parts.npz") as parts:
        assert all(np.array_equal(whole[name], parts[name]) for name in set(whole) - {"about"})
