"""What the documents say of results, and of the networks that ship, is what docs/results and the files say."""

import json
import shlex

import pytest
import torch

from benchmarks import readme_tables, reproduce
from tests.helpers import ROOT


@pytest.mark.parametrize("document", readme_tables.documents(), ids=lambda document: document.name)
def test_tables_are_those_of_their_results(document):
    text = document.read_text()
    assert readme_tables.filled(text) == text, "make tables writes them anew"


@pytest.mark.parametrize("name", readme_tables.TABLES)
def test_every_table_stands_somewhere(name):
    text = "".join(document.read_text() for document in readme_tables.documents())
    assert text.count(f"<!-- table: {name} -->\n|") == 1


def test_a_number_that_was_typed_is_written_over():
    document = "before\n<!-- table: mnist_masked -->\n| patch |\n<!-- end of table -->\nafter\n"
    filled = readme_tables.filled(document)
    results = json.loads((ROOT / "docs" / "results" / "mnist_masked_band.json").read_text())["results"]
    assert filled.startswith("before\n<!-- table: mnist_masked -->\n| patch | bands, all 10,000 |")
    assert filled.endswith("|\n<!-- end of table -->\nafter\n")
    for entry in results:
        size, clean, certified = (entry[name] for name in ("size_to_certify", "clean_accuracy", "certified_accuracy"))
        assert f"\n| {size} × {size} | {100 * certified:.2f} / {100 * clean:.2f} |" in filled
    assert readme_tables.filled(filled.replace("72.59 /", "72.60 /")) == filled != filled.replace("72.59 /", "72.60 /")


def test_what_was_counted_of_networks_that_ship_is_written_over():
    text = readme_tables.MODELS.read_text()
    assert readme_tables.counted(text) == text, "make tables writes it anew"
    changed = text.replace('"certified": 0.7264}', '"certified": 0.7265}')
    assert readme_tables.counted(changed) == text != changed


def test_numbers_whose_file_is_gone_are_taken_out_and_come_back_with_it(tmp_path, monkeypatch):
    text, of_bands = readme_tables.MODELS.read_text(), readme_tables.RESULTS / "mnist_masked_band.json"
    monkeypatch.setattr(readme_tables, "RESULTS", tmp_path)
    without = readme_tables.counted(text)
    assert '"patch"' not in without and "half" not in without
    assert len(readme_tables.networks()) == 1
    (tmp_path / of_bands.name).write_text(of_bands.read_text())
    assert '{"patch": 5, "clean": 0.9862, "certified": 0.7264}' in readme_tables.counted(without)
    assert [row[0] for row in readme_tables.networks()[1:]] == ['`"mnist-bands"`']


def test_what_is_said_of_votes_is_counted_with_their_own_threshold_by_the_exact_certificate(tmp_path, monkeypatch):
    results = [
        {"size_to_certify": size, "threshold": threshold, "certificate": kind, "total": 9}
        | {"clean_accuracy": threshold, "certified_accuracy": threshold / size - (kind == "margin") / 100}
        for size in (2, 5)
        for threshold in (0.2, 0.25)
        for kind in ("margin", "exact")
    ]
    (tmp_path / "votes.json").write_text(json.dumps({"config": {"test": True, "limit": 9}, "results": results}))
    monkeypatch.setattr(readme_tables, "RESULTS", tmp_path)
    rows = '"threshold": 0.25, "results": "votes.json", "counted_on": null, "counted": []'
    assert json.loads("{" + readme_tables.counted(rows) + "}") == {
        "threshold": 0.25,
        "results": "votes.json",
        "counted_on": "9 images of the test half",
        "counted": [
            {"patch": 2, "clean": 0.25, "certified": 0.125},
            {"patch": 5, "clean": 0.25, "certified": 0.05},
        ],
    }


@pytest.mark.parametrize("command", reproduce.COMMANDS.values(), ids=reproduce.COMMANDS)
def test_weights_that_ship_are_small_finite_and_say_what_they_are(command):
    names = [word for word in shlex.split(command) if word.endswith(".pth")]
    networks = "column", ("resnet14", "pooled")
    for file, network in zip([ROOT / "checkpoints" / name for name in names], networks, strict=False):
        content = torch.load(file, weights_only=True)
        assert file.stat().st_size < 10_000_000 and content["about"]["network"]["name"].startswith(network)
        assert all(tensor.isfinite().all() for tensor in content["net"].values())
