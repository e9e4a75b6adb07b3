"""train.py and eval.py as scripts on generated pictures, and what people get wrong."""

import csv
import json
import os
import sys

import pytest
import torch

from patchcert import checkpoint, distributed
from patchcert.data import named
from patchcert.errors import UsageError
from patchcert.intervals import arguments, config_files
from patchcert.intervals.bounds import certified
from patchcert.intervals.networks import build
from patchcert.intervals.places import Scale, Threat
from patchcert.intervals.sparse import SparseThreat, sparse_margins
from patchcert.patch import Patch
from tests.helpers import ROOT, run_here, succeed, succeed_in_two_processes
from tests.intervals.oracle import plain_margins

FAST = ["training_params:epochs=2", "training_params:schedule_start=0", "training_params:schedule_length=1"]
P22, SPARSE, ADV = (
    ROOT / "config" / f"{name}.json"
    for name in ("mnist_robtrain_p22_all", "cifar_robtrain_k4_sparse", "mnist_adveval_patch_22")
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, generated_mnist):
    """A folder in which train.py has trained models 0 and 1 of the 2 × 2 patch config."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data").symlink_to(generated_mnist)
    succeed("train.py", "--config", P22, "--model_subset", 0, 1, *FAST, "--subset", 200, folder=folder)
    return folder


def test_eval_counts_what_the_plain_construction_certifies(trained):
    succeed("eval.py", "--config", P22, "--model_subset", 0, 1, "--limit", 16,
            "--output", "o.json", "--per_image", "o.csv", folder=trained)  # fmt: skip
    output = json.loads((trained / "o.json").read_text())
    rows = list(csv.DictReader((trained / "o.csv").open()))
    assert [model["model_id"] for model in output["models"]] == ["mlp_255", "cnn_2layer_width_1"]
    data = named.load("mnist", trained / "data", train=False).take(slice(16))
    images, experiment = data.images / 255, config_files.load(P22)
    for model, entry in zip(experiment.models[:2], output["models"], strict=True):
        folder = trained / "checkpoints" / "mnist_robtrain_p22_all"
        network = build(model.model_class, 1, 28, 10, model.model_params)
        network.load_state_dict(torch.load(folder / f"{model.model_id}_best.pth", weights_only=True)["state_dict"])
        with torch.no_grad():
            margins = plain_margins(network, images, data.labels, Threat(Patch(2, 2)), Scale((0.0,), (1.0,)))
            predicted = network(images).argmax(dim=1)
        expected = certified(margins.amin(0), data.labels)
        mine = [row for row in rows if row["model_id"] == model.model_id]
        assert [int(row["index"]) for row in mine] == list(range(16))
        assert [row["certified"] == "True" for row in mine] == expected.tolist()
        assert [int(row["predicted"]) for row in mine] == predicted.tolist()
        assert entry["epoch"] == 1 and entry["checkpoint"].endswith(f"mnist_robtrain_p22_all/{model.model_id}_best.pth")
        assert entry["sha256"] == checkpoint.sha256(trained / entry["checkpoint"])
        assert entry["total"] == 16 and entry["certified_correct"] == int(expected.sum())
        assert entry["clean_error"] == pytest.approx(float((predicted != data.labels).double().mean()))
    errors = [model["certified_error"] for model in output["models"]]
    assert errors[0] < 1, "some images are certified"
    assert output["summary"]["certified_error"]["mean"] == pytest.approx(sum(errors) / 2)


def test_a_report_shows_where_bounds_are_weak(trained):
    succeed("eval.py", "--config", P22, "--model_subset", 0, 1, "--limit", 10, "--report", "report", folder=trained)
    (run,) = json.loads((trained / "report" / "report.json").read_text())["runs"]
    data, experiment = named.load("mnist", trained / "data", train=False), config_files.load(P22)
    for model, gallery in zip(experiment.models[:2], run["galleries"], strict=True):
        folder = trained / "checkpoints" / "mnist_robtrain_p22_all"
        network = build(model.model_class, 1, 28, 10, model.model_params)
        network.load_state_dict(torch.load(folder / f"{model.model_id}_best.pth", weights_only=True)["state_dict"])
        images = sorted(gallery["images"], key=lambda image: image["index"])
        assert [image["index"] for image in images] == list(range(10))
        predicted = torch.tensor([image["predicted"] for image in images])
        with torch.no_grad():
            pixels = data.images[:10] / 255
            margins = plain_margins(network, pixels, predicted, Threat(Patch(2, 2)), Scale((0.0,), (1.0,)))
        margins = margins.scatter(2, predicted.expand(len(margins), -1)[:, :, None], torch.inf)
        found = torch.tensor([image["weak_spots"] for image in images])
        room = margins.amin(dim=2).T.view(10, 27, 27) - found  # for rounding
        assert room.min() > -1e-4 and room.max() < 0.02
        for image in images:
            assert (image["outcome"] == "certified") == (image["label"] == image["predicted"] and image["lead"] > 0)


def test_files_have_what_the_specification_says(trained):
    folder = trained / "checkpoints" / "mnist_robtrain_p22_all"
    content = torch.load(folder / "mlp_255.pth", weights_only=True)
    assert {"state_dict", "opt_state_dict", "lr_scheduler_dict", "robust_err", "clean_err", "epoch"} <= set(content)
    assert [json.loads(line)["epoch"] for line in (folder / "mlp_255.log").open()] == [0, 1]


def test_training_again_says_what_is_finished_and_where_the_networks_lie(trained, tmp_path, capsys):
    folder = trained / "checkpoints" / "mnist_robtrain_p22_all"
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = ["--config", P22, "--data", trained / "data", *FAST, "--subset", 200, "--path_prefix", trained]
    capsys.readouterr()
    succeed("train.py", *again, "--model_subset", 0, 1, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left
    lines = capsys.readouterr().out.splitlines()
    for line, name in zip(lines[:2], ("mlp_255.pth", "cnn_2layer_width_1.pth"), strict=True):
        assert line == f"{folder / name} is finished after epoch 1; --overwrite trains anew"
    for line, name in zip(lines[2:4], ("mlp_255.pth", "mlp_255_best.pth"), strict=True):
        assert line.startswith(f"{folder / name}: epoch 1, test error: robust (patch-all) ")
    assert len(lines) == 6
    assert run_here("train.py", *again, "--model_subset", 2, 0, "--seed", 1, folder=tmp_path) == 2
    said = capsys.readouterr()
    assert "mlp_255.pth: was trained with seed=2019, expected the 1 of this run; --overwrite trains anew" in said.err
    assert said.err.count("\n") == 1 and not said.out and len(list(folder.iterdir())) == len(left)


def test_a_run_goes_on_or_begins_anew(tmp_path, capsys):
    assert run_here("train.py", "--config", P22, "--resume", "m.pth", "--overwrite", folder=tmp_path) == 2
    assert "--overwrite: not allowed with argument --resume" in capsys.readouterr().err


def test_training_says_that_there_is_no_best_network(tmp_path, generated_mnist, capsys):
    schedule = ["training_params:epochs=1", "training_params:schedule_start=0", "training_params:schedule_length=1"]
    arguments = ["--config", P22, "--model_subset", 0, "--data", generated_mnist, "--subset", 20, "models_path=models"]
    succeed("train.py", *arguments, *schedule, folder=tmp_path)
    last, best = capsys.readouterr().out.splitlines()[-2:]
    assert last.startswith("models/mlp_255.pth: epoch 0, ")
    assert best == "models/mlp_255_best.pth: there is none, ε grows until epoch 1"
    for seed, overwrite in ((0, []), (0, ["--overwrite"])):
        done = run_here("train.py", *arguments, *schedule, "--seed", seed, *overwrite, folder=tmp_path)
        assert done == (0 if overwrite else 2)


def test_the_path_prefix_comes_before_the_models_path(trained):
    succeed("eval.py", "--config", P22, "--path_prefix", trained, "--data", trained / "data", "--model_subset", 0,
            "--limit", 5, folder=trained.parent)  # fmt: skip
    succeed("eval.py", "--config", P22, "--model_subset", 0, "models_path=checkpoints/mnist_robtrain_p22_all",
            "--limit", 5, folder=trained)  # fmt: skip


def test_an_attack_finds_no_more_than_the_certificate_allows(trained, capsys):
    params = "eval_params:method_params"
    effort = [f"{params}:{value}" for value in ("steps=9", "random_mask_count=8", "sample_limit=60")]
    capsys.readouterr()
    succeed("eval.py", "--config", ADV, "--model_subset", 0, *effort, "--output", "o.json", "--per_image", "o.csv",
            folder=trained)  # fmt: skip
    assert capsys.readouterr().out.splitlines()[0] == (
        "mnist_adveval_patch_22: mnist: 60 of 101 test images; evaluated against a patch of 2 × 2 pixels anywhere, "
        "ε = 1; attacked at 8 random places × 9 steps"
    )
    rows = list(csv.DictReader((trained / "o.csv").open()))
    (model,) = json.loads((trained / "o.json").read_text())["models"]
    assert [int(row["index"]) for row in rows] == list(range(60)) and model["total"] == 60
    assert not any(row["certified"] == "True" and row["flipped"] == "True" for row in rows)
    assert any(row["certified"] == "True" for row in rows) and any(row["flipped"] == "True" for row in rows)
    wrong = [row["flipped"] == "True" or row["predicted"] != row["label"] for row in rows]
    assert model["attacked_error"] == pytest.approx(sum(wrong) / 60)
    assert model["clean_error"] < model["attacked_error"] <= model["certified_error"]


IN_EVALUATION = "eval_params:method_params"


@pytest.mark.parametrize(
    ("values", "said", "against"),
    [
        (["patch_w=1"], "a patch of 1 × 2 pixels anywhere", {"patch": "1x2"}),
        (["patch_l=1", "patch_w=1"], "a patch of 1 × 1 pixels anywhere", {"patch": 1}),
        (
            ["attack_type=sparse", "bound_type=sparse-interval", "k=2"],
            "any 2 inputs, by sparse-interval bounds",
            {"k": 2, "bound_type": "sparse-interval"},
        ),
    ],
)
def test_networks_are_evaluated_against_more_than_they_were_trained_for(trained, values, said, against, capsys):
    files = ["--output", "o.json", "--per_image", "o.csv"]
    overrides = [f"{IN_EVALUATION}:{value}" for value in values]
    succeed("eval.py", "--config", P22, "--model_subset", 0, "--limit", 60, *files, *overrides, folder=trained)
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith(f"evaluated against {said}, ε = 1; trained against a patch of 2 × 2 pixels anywhere")
    assert json.loads((trained / "o.json").read_text())["evaluated_against"] == against | {"epsilon": 1.0}
    data, scale = named.load("mnist", trained / "data", train=False).take(slice(60)), Scale((0.0,), (1.0,))
    network = build("mlp", 1, 28, 10, {"hidden": 255})
    file = trained / "checkpoints" / "mnist_robtrain_p22_all" / "mlp_255_best.pth"
    network.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    with torch.no_grad():
        if "k" in against:
            worst = sparse_margins(network, data.images / 255, data.labels, SparseThreat(2), scale)
        else:
            patch = Patch(1, 2) if against["patch"] == "1x2" else Patch(1, 1)
            worst = plain_margins(network, data.images / 255, data.labels, Threat(patch), scale).amin(0)
    expected = certified(worst, data.labels).tolist()
    assert [row["certified"] == "True" for row in csv.DictReader((trained / "o.csv").open())] == expected
    assert any(expected) and not all(expected)


def test_attacks_have_the_patch_of_the_evaluation(trained):
    """A patch of 12 × 12 flips images that are certified for the 2 × 2 of training."""
    few = ["--config", ADV, "--model_subset", 0, "--limit", 60, "--output", "o.json"]
    effort = [f"{IN_EVALUATION}:{value}" for value in ("steps=9", "random_mask_count=8")]
    errors = []
    for size in ([], [f"{IN_EVALUATION}:patch_w=12", f"{IN_EVALUATION}:patch_l=12"]):
        succeed("eval.py", *few, *effort, *size, folder=trained)
        errors += json.loads((trained / "o.json").read_text())["models"]
    assert errors[0]["certified_error"] < errors[1]["attacked_error"] <= errors[1]["certified_error"]


def test_attacking_a_network_that_is_never_right_flips_nothing(trained):
    content = torch.load(trained / "checkpoints" / "mnist_robtrain_p22_all" / "mlp_255.pth", weights_only=True)
    wrong = (int(named.load("mnist", trained / "data", train=False).labels[0]) + 1) % 10
    content["state_dict"]["3.bias"][wrong] = 1e6
    checkpoint.save(content, trained / "wrong" / "mlp_255.pth")
    succeed("eval.py", "--config", ADV, "models_path=wrong", "--model_subset", 0, "--limit", 1, "--output", "o.json",
            "--per_image", "o.csv", folder=trained)  # fmt: skip
    (model,) = json.loads((trained / "o.json").read_text())["models"]
    assert model["correct"] == 0 and model["attacked_error"] == model["clean_error"] == 1


def test_two_processes_train_certify_and_attack_the_same(generated_mnist, tmp_path):
    """Each with half of every batch; the state after two epochs and the rows per image are those of one process."""
    arguments = ["--model_subset", 0, "--data", generated_mnist, "--device", "cpu", "models_path=models"]
    effort = [f"eval_params:method_params:{value}" for value in ("steps=5", "random_mask_count=4")]
    runs = [
        ("train.py", ["--config", P22, *FAST, "training_params:batch_size=20", "--subset", 41]),
        ("eval.py", ["--config", P22, "--per_image", "rows.csv", "--limit", 41]),
        ("eval.py", ["--config", ADV, "--per_image", "attacked.csv", *effort, "--limit", 41]),
    ]
    states, rows = [], []
    for run in (succeed, succeed_in_two_processes):
        folder = tmp_path / run.__name__
        folder.mkdir()
        for script, more in runs:
            run(script, *arguments, *more, folder=folder)
        states.append(torch.load(folder / "models" / "mlp_255.pth", weights_only=True)["state_dict"])
        rows.append([(folder / name).read_text() for name in ("rows.csv", "attacked.csv")])
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[1][key], atol=1e-5, rtol=0)
    assert rows[0] == rows[1]
    assert "True" in rows[0][1]


def test_training_has_a_subset_in_place_of_a_limit(trained, capsys):
    assert run_here("train.py", "--config", P22, "--limit", 20, folder=trained) == 2
    assert "argument --limit: 20: training has --subset N instead" in capsys.readouterr().err


def test_gpus_that_are_not_there(trained, capsys):
    capsys.readouterr()
    assert run_here("eval.py", "--config", P22, "--gpu", "0,99", folder=trained) == 2
    assert "GPUs here" in capsys.readouterr().err


WRONG = {
    "unknown key": (["training_params:epoch=1"], "training_params:epochs"),
    "unknown attack": (["training_params:method_params:attack_type=patch-most"], "patch-random"),
    "unknown data": (["dataset=emnist"], "expected mnist, fashion-mnist"),
    "unknown bound": (["training_params:method_params:bound_type=exact"], "expected interval"),
    "larger patch in evaluation": (
        ["eval_params:method_params:patch_w=29"],
        "eval_params:method_params:patch_w=29: expected at most 28, images have 28 rows",
    ),
    "no patch in evaluation": (["eval_params:method_params:patch_l=0"], "method_params:patch_l=0: expected at least 1"),
    "bounds of another adversary": (
        ["eval_params:method_params:attack_type=sparse"],
        "eval_params:method_params:bound_type=interval: expected sparse-interval or sparse-interval-tight",
    ),
    "attack on any inputs": (
        [
            "eval_params:method=adv",
            *(f"eval_params:method_params:{v}" for v in ("attack_type=sparse", "bound_type=sparse-interval", "k=1")),
        ],
        "eval_params:method=adv: expected robust",
    ),
    "patch larger than the image": (["training_params:method_params:patch_w=29"], "images have 28 rows"),
    "text for a number": (["training_params:epochs=many"], "expected a whole number"),
    "model out of range": (["--model_subset", "3"], "0 mlp_255"),
    "model that is no number": (["--model_subset", "first"], "expected whole numbers"),
    "no model file": (["models_path=nowhere"], "has neither mlp_255_best.pth nor mlp_255.pth"),
    "model twice": (["--model_subset", "0", "0"], "none twice"),
    "models without a number": (["--model_subset", "training_params:lr=1"], "at least one number"),
    "number for text": (["models_path=5"], "expected text"),
    "endless number": (["training_params:lr=Infinity"], "expected a number within"),
    "no number": (["std=[NaN]"], "expected a number within"),
    "negative temperature": (["training_params:method_params:T=-1"], "T=-1.0: expected at least 0"),
    "unknown schedule": (
        ["training_params:schedule_shape=cubic"],
        "schedule_shape=cubic: expected linear or exponential",
    ),
    "exponential from 0": (
        ["training_params:schedule_shape=exponential"],
        "starting_epsilon=0.0: expected above 0, as an exponential schedule multiplies it",
    ),
    "negative decay": (["training_params:weight_decay=-1"], "weight_decay=-1.0: expected at least 0"),
    "unknown augmentation": (['training_params:augmentations=["load"]'], "expected random_flip, alternating_flip"),
    "other channels": (["mean=[0,0,0]", "std=[1,1,1]"], "expected 1 numbers"),
    "nothing to merge": (["training_params:method_params:attack_type=patch-all-pool"], "merges places"),
    "more places than there are": (["training_params:method_params:patch_count=730"], "there are 729 places"),
    "no hidden units": (['models=[{"model_id":"mlp","model_class":"mlp","model_params":{"hidden":0}}]'], "from 1 to"),
    "one name for two": (
        [
            'models=[{"model_id":"m","model_class":"mlp","model_params":{}},'
            '{"model_id":"m","model_class":"mlp","model_params":{}}]'
        ],
        "a model_id of its own",
    ),
    "no GPU named": (["--gpu", ""], "expected numbers of GPUs"),
    "large seed": (["--seed", "9999999999999999"], "expected a whole number from 0 to 4294967295"),
    "endless memory": (["--max_memory", "1e300"], "expected gigabytes"),
    "data elsewhere": (["--data", "nowhere"], "the data set digits needs no files"),
    "no config": (["--config", "mnist_robtrain_p22_al.json"], "No such file"),
    "another model": (["--model_subset", "1", "models_path=other"], "is of another network"),
    "inputs normalised otherwise": (["mean=[0.5]"], "was trained with mean=(0.0,), expected the (0.5,)"),
    "override without a value": (["--model_subset", "0", "training_params:lr"], "overrides are section:key=value"),
    "number without end": (["training_params:lr=1" + "0" * 400], "000: expected a number within ±1000000000"),
    "huge batch": (["eval_params:batch_size=10000000000"], "expected a whole number within"),
    "growing learning rate": (["training_params:lr_decay_factor=2"], "above 0 and up to 1"),
    "groups larger than the image": (
        ["training_params:method_params:neighbor=[2,20]"],
        "neighbor=[2, 20], multiplied=40: expected at most 27, there are 27 × 27 places",
    ),
    "places of training in evaluation": (["eval_params:method_params:patch_count=3"], "no such key to override"),
    "huge network": (['models=[{"model_id":"m","model_class":"mlp","model_params":{"hidden":9999999}}]'], "to 1000000"),
    "no file name": (['models=[{"model_id":"../m","model_class":"mlp","model_params":{}}]'], "letters, digits"),
    "best of another": (
        [
            'models=[{"model_id":"m","model_class":"mlp","model_params":{}},'
            '{"model_id":"m_best","model_class":"mlp","model_params":{}}]'
        ],
        "none of them another's with _best",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name, trained, capsys):
    arguments, right = WRONG[name]
    other = trained / "other"
    other.mkdir(exist_ok=True)
    content = torch.load(trained / "checkpoints" / "mnist_robtrain_p22_all" / "mlp_255.pth", weights_only=True)
    torch.save(content, other / "cnn_2layer_width_1.pth")
    capsys.readouterr()
    assert run_here("eval.py", "--config", P22, "--model_subset", 0, *arguments, folder=trained) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1 and right in message


def test_a_network_trained_on_few_images_knows_all_classes(generated_mnist, tmp_path):
    data = ["--config", P22, "--model_subset", 0, "--data", generated_mnist]
    succeed("train.py", *data, *FAST, "--subset", 1, folder=tmp_path)
    succeed("eval.py", *data, "--limit", 1, folder=tmp_path)


@pytest.mark.parametrize(
    ("subset", "file", "right"),
    [
        ([1], "mlp_255.pth", "is of another network"),
        ([0, 1], "mlp_255.pth", "with --model_subset"),
        ([0], "mlp_256.pth", "no such checkpoint"),
        ([0], "", "not a checkpoint"),
        ([0], "mlp_255.log", "not a checkpoint"),
    ],
)
def test_resuming_from_something_else_is_an_error(subset, file, right, trained, capsys):
    last = trained / "checkpoints" / "mnist_robtrain_p22_all" / file
    arguments = ["--config", P22, "--model_subset", *subset, "--resume", last, "--subset", 20, *FAST]
    assert run_here("train.py", *arguments, folder=trained) == 2
    assert right in capsys.readouterr().err


def test_k_larger_than_the_kernel_says_what_fits():
    experiment = config_files.load(SPARSE, ["training_params:method_params:k=170"])
    model = experiment.models[0]
    network = build(model.model_class, 3, 32, 10, model.model_params)
    with pytest.raises(UsageError, match="from 1 to 169, the pixels of the 13 × 13 kernel"):
        sparse_margins(network, torch.rand(1, 3, 32, 32), torch.tensor([0]), SparseThreat(170), experiment.scale)


def test_nothing_starts_where_a_later_model_cannot(trained, tmp_path, capsys):
    """Units of the multilayer perceptron see 784 inputs, those of the 2-layer network 16 pixels."""
    sparse = {"attack_type": "sparse", "bound_type": "sparse-interval", "k": 17}
    values = {"extends": str(P22), "training_params": {"method_params": sparse}}
    (tmp_path / "sparse.json").write_text(json.dumps(values))
    arguments = ["--config", tmp_path / "sparse.json", "--model_subset", 0, 1, "--data", trained / "data", *FAST]
    assert run_here("train.py", *arguments, folder=tmp_path) == 2
    assert "from 1 to 16, the pixels of the 4 × 4 kernel" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("script", "few"), [("train.py", "--subset"), ("eval.py", "--limit")])
def test_more_processes_than_images(script, few, trained, capsys, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "from_first", lambda value: value)
    assert run_here(script, "--config", P22, "--model_subset", 0, few, 1, folder=trained) == 2
    assert "more processes than images: expected at most 1" in capsys.readouterr().err


def test_a_models_path_that_cannot_be_made(trained, capsys):
    (trained / "file").touch()
    arguments = ["--config", P22, "--model_subset", 0, *FAST, "--subset", 20, "models_path=file"]
    assert run_here("train.py", *arguments, folder=trained) == 2
    assert "models_path=file: expected a folder" in capsys.readouterr().err


def test_overrides_stand_anywhere_and_name_any_known_key(tmp_path, monkeypatch):
    """`patch_count` is not written in this config or in those that it extends."""
    method = "training_params:method_params"
    given = [f"{method}:attack_type=patch-random", "--config", str(P22), f"{method}:patch_count=5",
             "--model_subset", "0", "--seed", "1", f"models_path={tmp_path}"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["train.py", *given])
    options = arguments.parse(arguments.shared_parser(""))
    assert options.experiment.training_params.method_params.patch_count == 5
    assert options.folder == tmp_path and options.model_subset == [0]


@pytest.mark.parametrize(("visible", "expected"), [("", "1,0"), ("GPU-a,GPU-b,GPU-c", "GPU-b,GPU-a")])
def test_gpus_are_numbered_among_those_that_are_visible(visible, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    started = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(os, "execv", lambda _, command: started.append((os.environ["CUDA_VISIBLE_DEVICES"], command)))
    arguments._restart_on_gpus("1,0")
    ((devices, command),) = started
    assert devices == expected and command[command.index("--nproc_per_node") + 1] == "2"
