"""docs/field.md is what docs/field.json says, and our own numbers in it are those of docs/results."""

import copy
import json

import jsonschema
import pytest

from benchmarks import readme_tables
from docs import make_field
from tests.helpers import ROOT

FIELD = make_field.read()


def test_page_and_file_agree():
    assert make_field.PAGE.read_text() == make_field.page(FIELD), "make pages"


def shares(answer: dict) -> tuple[float, float]:
    """Certified and clean accuracy of an entry of docs/results, in percent."""
    if "certified_error" in answer:
        return tuple(100 - 100 * answer[f"{kind}_error"] for kind in ("certified", "clean"))
    return tuple(100 * answer[f"{kind}_accuracy"] for kind in ("certified", "clean"))


@pytest.mark.parametrize(
    "number",
    [number for number in FIELD["numbers"] if number["standing"] == "recomputed here"],
    ids=lambda number: f"{number['defence']}, {number['data']}, {number['patch']}",
)
def test_what_was_recomputed_here_stands_in_our_results(number):
    both = number["certified"], number["clean"]
    if number["source"].endswith(".json"):
        record = readme_tables.read(number["source"].removeprefix("results/").removesuffix(".json"))
        answers = record["models"] if record["kind"] == "evaluate" else record["results"]
        found = [
            shares(answer) for answer in answers if answer.get("size_to_certify", number["patch"]) == number["patch"]
        ]
        assert found == [pytest.approx(both, abs=1e-6)]
    else:
        page = (ROOT / "docs" / "results.md").read_text()
        assert all(f"{share:.2f}" in page for share in both)


@pytest.mark.parametrize(
    "change",
    [
        {"certified": 101},
        {"certified": "62.1"},
        {"standing": "recomputed"},
        {"source": "http://arxiv.org/abs/2108.09135"},
        {"source": "results.md"},  # ours alone stand there
        {"standing": "recomputed here"},  # which has to lead to our results
        {"network": "ViT | B"},  # would be two cells
        {"false_alarms_are_errors": True},  # of a defence without alarms
        {"accuracy": 62.1},
    ],
    ids=str,
)
def test_an_entry_that_does_not_fit_is_refused(tmp_path, monkeypatch, change):
    changed = copy.deepcopy(FIELD)
    changed["numbers"][0] |= change
    with pytest.raises(jsonschema.ValidationError):
        read_from(tmp_path, monkeypatch, changed)


@pytest.mark.parametrize("unlisted", ["defences", "numbers"])
def test_a_defence_and_its_numbers_are_both_there(tmp_path, monkeypatch, unlisted):
    changed = copy.deepcopy(FIELD)
    if unlisted == "defences":
        changed["numbers"][0]["defence"] = "nobody's"
    else:
        changed["defences"]["nobody's"] = {"year": 2026}
    with pytest.raises(ValueError, match=r"in `numbers` or in `defences` alone: .*nobody's"):
        read_from(tmp_path, monkeypatch, changed)


def read_from(folder, monkeypatch, field):
    (folder / "field.json").write_text(json.dumps(field))
    (folder / "field.schema.json").write_text((make_field.FOLDER / "field.schema.json").read_text())
    monkeypatch.setattr(make_field, "FOLDER", folder)
    make_field.read()


def test_a_false_alarm_that_is_not_counted_is_said_plainly():
    changed = copy.deepcopy(FIELD)
    changed["numbers"] = [
        number | {"false_alarms_are_errors": False} for number in FIELD["numbers"] if number["goal"] == "alarm"
    ]
    rows = [line for line in make_field.page(changed).splitlines() if "| **not counted** |" in line]
    assert len(rows) == len(changed["numbers"]) > 0
