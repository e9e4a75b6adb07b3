"""One format for all results: what lies in docs/results, what scripts write, and that it refuses what is not of it."""

import argparse
import copy
import json
from unittest import mock

import PIL
import pytest
import torch
from jsonschema import Draft202012Validator

from patchcert import arithmetic, cli, result_format, results
from patchcert.epochs import record_epoch
from patchcert.option_values import patch_sizes
from patchcert.patch import Patch
from tests.helpers import ROOT

WRITTEN = ROOT / "docs" / "results"
FILES = sorted(WRITTEN.glob("*.json"))
COUNTED = {"precision": "float32", "engine": "dense", "processors": ["AVX2"]}


def written(name):
    return json.loads((WRITTEN / name).read_text())


def test_the_schema_is_one():
    Draft202012Validator.check_schema(result_format.schema())
    assert result_format.schema()["properties"]["format"]["const"] == result_format.FORMAT


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_result_in_docs_is_of_the_format(file):
    record = json.loads(file.read_text())
    assert result_format.flaw(record) is None
    for answer in record.get("results", []):
        for share in (name for name in answer if "_accuracy" in name and answer[name] is not None):
            assert answer[share] == answer[share.replace("clean_", "").replace("accuracy", "correct")] / answer["total"]


def test_every_kind_lies_in_docs():
    assert {written(file.name)["kind"] for file in FILES} == {"certify", "attack", "evaluate", "benchmark"}


def test_training_logs_are_of_the_format():
    for line in (WRITTEN / "mnist_masked_band_training.jsonl").read_text().splitlines():
        assert result_format.flaw(json.loads(line), result_format.EPOCH) is None


@pytest.mark.parametrize(("turbo", "said"), [("3.1.2", "libjpeg-turbo 3.1.2"), (None, "libjpeg 9.5")])
def test_results_name_what_decoded_their_pictures(monkeypatch, turbo, said):
    monkeypatch.setattr(results.features, "version_feature", {"libjpeg_turbo": turbo}.get)
    monkeypatch.setattr(results.features, "version", {"jpg": "9.5"}.get)
    record = written("mnist_band_4.json") | {"environment": results.environment()}
    assert record["environment"]["decoder"] == f"Pillow {PIL.__version__}, {said}"
    assert result_format.flaw(record) is None
    record["environment"]["decoder"] = None
    assert "is not of type 'string'" in result_format.flaw(record)


@pytest.mark.parametrize(
    ("name", "where", "value", "said"),
    [
        ("mnist_band_4", ("format",), 2, "1 was expected"),
        ("mnist_band_4", ("kind",), "certified", "is not one of"),
        ("mnist_band_4", ("results", 3, "certified_correct"), None, "'certified_correct' is a required property"),
        ("mnist_band_4", ("results", 3, "patches"), None, "'patches' is a required property"),
        ("mnist_band_4", ("results", 0, "correct"), 0.5, "['results'][0]['correct']: 0.5 is not of type 'integer'"),
        ("mnist_band_4", ("results", 0, "certified_rigth"), 1, "certified_rigth"),
        ("mnist_band_4", ("results", 0, "size_to_certify"), "2 x 8", "size_to_certify"),
        ("mnist_masked_band", ("config", "size_to_certify"), ["5 x 5"], "size_to_certify"),
        ("mnist_masked_band", ("config", "about", "sha256"), {"checkpoint": "5e"}, "'5e' does not match"),
        ("mnist_band_4", ("seconds",), None, "'seconds' is a required property"),
        ("mnist_masked_band", ("within_numerical_margin", "5"), -1, "-1 is less than the minimum of 0"),
        ("mnist_masked_band", ("environment", "commit"), None, "'commit' is a required property"),
        ("mnist_masked_band", ("arithmetic",), {"precision": "float32"}, "'engine' is a required property"),
        ("attack_mnist_band_5", ("arithmetic",), COUNTED | {"processors": "AVX2"}, "'AVX2' is not of type 'array'"),
        ("interval_mnist_p22", ("arithmetic",), COUNTED | {"amx": True}, "amx"),
        ("attack_mnist_band_5", ("results", 0, "attacked_accuracy"), 1.5, "1.5 is greater than the maximum of 1"),
        ("attack_mnist_band_5", ("attacked_correct",), None, "'attacked_correct' is a required property"),
        ("attack_mnist_band_5", ("flipped",), 3, "flipped"),
        ("interval_mnist_k4", ("evaluated_against", "bound_type"), None, "'bound_type' is a required property"),
        ("interval_mnist_p22", ("evaluated_against", "patch"), None, "'patch' is a required property"),
        ("interval_mnist_p22", ("models", 0, "clean_eror"), 0.1, "clean_eror"),
        ("bench_mnist", ("environment",), None, "'environment' is a required property"),
    ],
)
def test_what_is_not_of_the_format_is_named(name, where, value, said):
    """A value of None takes the field away."""
    record = written(f"{name}.json")
    *path, last = where
    entry = record
    for step in path:
        entry = entry[step]
    entry[last] = value
    if value is None:
        del entry[last]
    assert said in result_format.flaw(record)


def test_sizes_that_were_asked_for_are_written_as_those_that_were_answered():
    """Earlier versions wrote them as objects, which lie in docs/results."""
    options = argparse.Namespace(size_to_certify=patch_sizes("5,2x8,2%,area:25"), size_of_attack=Patch(3, 3))
    config = cli.configuration(options)
    assert config["size_to_certify"] == [5, "2x8", "2%", "area:25"] and config["size_of_attack"] == 3
    record = written("mnist_joint.json")
    assert record["config"]["size_to_certify"][0] == {"height": 1, "width": 1}
    assert result_format.flaw(record | {"config": config}) is None


def test_a_log_measures_test_images_or_training_images_that_are_held_out(tmp_path):
    row = json.loads((WRITTEN / "cifar_windows_training.jsonl").read_text().splitlines()[0])
    assert "test_accuracy" not in row
    record_epoch(row, tmp_path / "log", {}, [])
    del row["held_out_accuracy"]
    with pytest.raises(ValueError, match="'test_accuracy' is a required property"):
        record_epoch(row, tmp_path / "log", {}, [])


@pytest.mark.parametrize("taken", ["test_accuracy", "lr"])
def test_a_line_of_a_log_that_lacks_something_is_not_written(tmp_path, taken):
    row = json.loads((WRITTEN / "mnist_masked_band_training.jsonl").read_text().splitlines()[0])
    record_epoch(row, tmp_path / "log", {}, [])
    del row[taken]
    with pytest.raises(ValueError, match=f"epoch 0 .*('{taken}' is a required property|is not valid under any of)"):
        record_epoch(row, tmp_path / "log", {}, [])
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_a_result_that_is_not_of_the_format_is_kept(tmp_path):
    record = written("mnist_band_4.json") | {"arithmetic": COUNTED}
    results.write_json(record, tmp_path / "good.json")
    broken = copy.deepcopy(record)
    broken["results"][0]["correct"] = "many"
    with pytest.raises(ValueError, match=r"bad\.json is not in the format .*'many' is not of type 'integer'"):
        results.write_json(broken, tmp_path / "bad.json")
    assert json.loads((tmp_path / "bad.json").read_text()) == broken


@pytest.mark.parametrize(
    ("has", "named"),
    [
        ({"amx_tile": True, "avx512_vnni": True, "avx512_bf16": True}, " + AMX + VNNI + bfloat16"),
        ({"amx_tile": False, "avx_vnni": True}, " + VNNI"),
        ({"neon": True, "bf16": True}, " + bfloat16"),
        ({}, ""),
        (RuntimeError, ", AMX and VNNI unknown"),
        (AttributeError, ", AMX and VNNI unknown"),
    ],
)
def test_a_processor_is_named_by_its_instructions(has, named, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", mock.Mock(side_effect=[has] if isinstance(has, dict) else has))
    vectors = torch.backends.cpu.get_cpu_capability()
    assert arithmetic.processor(torch.device("cpu")) == vectors + named


@pytest.mark.parametrize(
    ("kind", "has", "emulates"),
    [
        ("cpu", {"avx512_f": True, "avx512_vnni": True}, True),
        ("cpu", {"avx512_bf16": True}, False),
        ("cpu", {"amx_tile": True}, False),
        ("cpu", RuntimeError, False),
        ("cuda", {}, False),
    ],
)
def test_where_bfloat16_is_slow_is_known(kind, has, emulates, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", mock.Mock(side_effect=[has] if isinstance(has, dict) else has))
    assert arithmetic.emulates_bfloat16(torch.device(kind)) is emulates


def test_what_processes_counted_with_comes_together(monkeypatch):
    monkeypatch.setattr(results.distributed, "to_first", lambda own: [own, {"AVX512"}, own])
    assert results.computed_with("float32", "dense", {"AVX2"}) == COUNTED | {"processors": ["AVX2", "AVX512"]}
