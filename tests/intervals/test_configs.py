"""The files in config/, and what is wrong with others."""

import json

import pytest

from patchcert.errors import UsageError
from patchcert.intervals import config_files
from patchcert.intervals.networks import build
from patchcert.patch import Patch
from tests.helpers import ROOT

CONFIGS = sorted((ROOT / "config").glob("*.json"))
P22 = ROOT / "config" / "mnist_robtrain_p22_all.json"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_its_networks_can_be_built(path):
    experiment = config_files.load(path)
    assert experiment.models_path.startswith("checkpoints/")
    for model in experiment.models:
        channels, size = (1, 28) if experiment.dataset == "mnist" else (3, 32)
        assert build(model.model_class, channels, size, 10, model.model_params)


def test_all_configs_of_the_specification_are_there():
    names = {f"{d}_robtrain_k{k}_sparse" for d in ("mnist", "cifar") for k in (1, 4, 10)}
    for patch in ("p22", "p55"):
        for places in ("all", "rand1", "rand5", "rand10", "rand20", "guide10", "guide20"):
            names |= {f"{d}_robtrain_{patch}_{places}" for d in ("mnist", "cifar")}
        names |= {f"cifar_robtrain_{patch}_{places}" for places in ("allpool2", "allpool22", "fast")}
    names |= {f"{d}_adveval_patch_{size}" for d in ("mnist", "cifar") for size in ("22", "55")}
    assert {path.stem for path in CONFIGS} == names


def test_the_values_of_the_table():
    guide = config_files.load(ROOT / "config" / "cifar_robtrain_p22_guide20.json")
    method, training = guide.training_params.method_params, guide.training_params
    assert (method.attack_type, method.patch, method.patch_count) == ("patch-nn", Patch(2, 2), 2)
    assert (method.base_width, method.T) == (10, 1.0)
    assert guide.models[3].model_id == "cnn_5layer_linear_512_width_16"
    assert (training.epochs, training.lr, training.schedule_start, training.schedule_length) == (200, 1e-3, 10, 121)
    sparse = config_files.load(ROOT / "config" / "mnist_robtrain_k10_sparse.json")
    assert (sparse.training_params.epochs, sparse.training_params.schedule_length) == (100, 11)
    assert (sparse.training_params.method_params.k, sparse.models[0].model_id) == (10, "mlp_255")


def test_a_file_holds_its_own_values_over_those_it_extends(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"extends": str(P22), "training_params": {"epochs": 3}}))
    mine, base = config_files.load(tmp_path / "mine.json"), config_files.load(P22)
    assert mine.training_params.epochs == 3 and mine.training_params.lr == base.training_params.lr
    assert mine.models_path == "checkpoints/mine"


@pytest.mark.parametrize(("text", "right"), [
    ('{"dataset": "mnist", "dataset": "mnist"}', "'dataset' is there twice"),
    ('{"dataset": "mnist",}', "not a config in JSON"),
    ('{"dataset": "mnist"}', "the key mean is missing"),
    ('{"extends": "wrong.json"}', "extends itself"),
    ('{"extends": 5}', "expected the path of a config"),
    ('{"extends": "linked.json"}', "extends itself: wrong.json, then linked.json, then wrong.json"),
    ('{"extends": "a\\u0000b"}', "not a config in JSON: embedded null byte"),
    ("[" * 100_000, "not a config in JSON"),
    (json.dumps({"extends": str(P22), "name": "mine"}), "unknown key name"),
    (json.dumps({"extends": str(P22), "model": []}), "the nearest are models"),
])  # fmt: skip
def test_a_wrong_config(text, right, tmp_path):
    (tmp_path / "wrong.json").write_text(text)
    (tmp_path / "linked.json").write_text('{"extends": "wrong.json"}')
    with pytest.raises(UsageError, match=right):
        config_files.load(tmp_path / "wrong.json")


def test_a_config_that_is_not_there_is_said_once_and_with_the_nearest_names(tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(UsageError) as refused:
        config_files.load(tmp_path / "mien.json")
    assert refused.value.right == f"No such file or directory; {tmp_path}/ has mine.json"
