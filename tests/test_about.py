"""What a checkpoint says of itself: options default to it, other runs say what differs, other networks are refused."""

import json

import pytest
import torch

from patchcert import checkpoint
from patchcert.ablations import ablation, choices, kinds, windows
from patchcert.experiments import about
from patchcert.networks import mnist_network
from patchcert.version import VERSION
from tests.helpers import run_here, succeed
from tests.test_pictures import write_pictures

DIGITS = "digits_one_band_lr_0.01_regularization_0.0005_band_5_epoch_0.pth"
PETS = "pets_one_band_lr_0.1_regularization_0.0005_model_resnet14_half_band_3_epoch_0.pth"
UNDEFENDED = "digits_baseline_lr_0.01_regularization_0.0005_epoch_0.pth"
FOLDER = ["--dataset", "folder", "--data", "pets"]
ATTACK = ["--skip", 30, "--steps", 1, "--randomizations", 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generated_mnist):
    """Networks of one epoch: bands of 5 of the digits, whole digits, and bands of 3 of pictures of 8 × 8 pixels."""
    folder = tmp_path_factory.mktemp("about")
    (folder / "data").symlink_to(generated_mnist)
    for part in ("train", "test"):
        write_pictures(folder / "pets" / part, ("cat", "dog", "eel"), 4)
    short = ["--end_epoch", 0, "--subset", 60]
    succeed("train_mnist_band.py", "--dataset", "digits", "--band_size", 5, *short, folder=folder)
    succeed("train_mnist_baseline.py", "--dataset", "digits", *short, folder=folder)
    small = ["--model", "resnet14_half", "--image_size", 8, "--band_size", 3]
    succeed("train_cifar_band.py", *FOLDER, *small, *short, folder=folder)
    return folder


def run(folder, capsys, script, *arguments):
    """Let a script evaluate an image; returns its configuration in --output, and what it said on stderr."""
    capsys.readouterr()
    succeed(script, *arguments, "--limit", 1, "--output", "run.json", folder=folder)
    notes = [line for line in capsys.readouterr().err.splitlines() if "note: " in line]
    return json.loads((folder / "run.json").read_text())["config"], notes


def test_a_checkpoint_says_what_it_is(folder):
    of = {
        name: torch.load(folder / "checkpoints" / name, weights_only=True)["about"]
        for name in (DIGITS, UNDEFENDED, PETS)
    }
    band = {"kind": "Band", "height": 28, "width": 28, "band_size": 5}
    digits = {"dataset": "digits", "classes": 10, "network": {"name": "mnist"}, "patchcert": VERSION}
    assert of[DIGITS] == digits | {"ablation": band}
    assert of[UNDEFENDED] == digits | {"ablation": {"kind": "Whole", "height": 28, "width": 28}}
    assert of[PETS] == {
        "dataset": "folder",
        "folder": "pets",
        "classes": 3,
        "ablation": {"kind": "Band", "height": 8, "width": 8, "band_size": 3},
        "network": {"name": "resnet14_half"},
        "patchcert": VERSION,
    }


@pytest.mark.parametrize(
    ("script", "arguments", "name", "known"),
    [
        ("certify_mnist_band.py", [], DIGITS, {"dataset": "digits", "band_size": 5}),
        ("certify_mnist_band_top_one.py", [], DIGITS, {"dataset": "digits", "band_size": 5}),
        ("certify_mnist_band_randomized.py", [], DIGITS, {"dataset": "digits", "band_size": 5}),
        ("attack_mnist_band.py", ATTACK, DIGITS, {"dataset": "digits", "band_size": 5}),
        ("attack_mnist_baseline.py", ATTACK, UNDEFENDED, {"dataset": "digits"}),
        (
            "certify_cifar_band.py",
            ["--data", "pets", "--size_to_certify", 2],
            PETS,
            {"dataset": "folder", "model": "resnet14_half", "image_size": 8, "band_size": 3},
        ),
    ],
)
def test_what_is_not_given_is_what_the_checkpoint_says(folder, capsys, script, arguments, name, known):
    config, notes = run(folder, capsys, script, *arguments, "--checkpoint", name)
    assert known.items() <= config.items()
    assert config["about"]["checkpoint"] == config["about"]["run"] and config["checkpoint"] == name
    assert not notes


@pytest.mark.parametrize(
    ("script", "arguments", "name", "note"),
    [
        (
            "certify_mnist_band.py",
            ["--band_size", 6],
            DIGITS,
            "ablation Band (band_size 5); this run has ablation Band (band_size 6)",
        ),
        ("certify_mnist_band.py", ["--dataset", "mnist"], DIGITS, "data set digits; this run has data set mnist"),
        (
            "certify_mnist_row.py",
            [],
            DIGITS,
            "ablation Band (band_size 5); this run has ablation Row (band_size 5)",
        ),
        (
            "certify_mnist_block.py",
            ["--dataset", "mnist"],
            DIGITS,
            "data set digits, ablation Band (band_size 5); this run has data set mnist, ablation Block (block_size 4)",
        ),
        (
            "attack_mnist_baseline.py",
            [*ATTACK, "--dataset", "mnist"],
            UNDEFENDED,
            "data set digits; this run has data set mnist",
        ),
        (
            "certify_cifar_band.py",
            ["--data", "pets", "--image_size", 12, "--size_to_certify", 2],
            PETS,
            "8 × 8 pixels; this run has 12 × 12 pixels",
        ),
    ],
)
def test_a_run_of_another_kind_says_so_in_one_line(folder, capsys, script, arguments, name, note):
    config, notes = run(folder, capsys, script, *arguments, "--checkpoint", name)
    assert notes == [f"note: {name} was trained with {note}"]
    assert config["about"]["checkpoint"] == torch.load(folder / "checkpoints" / name, weights_only=True)["about"]
    assert config["about"]["run"] != config["about"]["checkpoint"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "resnet14"], "is of another network: resnet14_half, not resnet14"),
        (["--dataset", "cifar10", "--data", "cifar", "--image_size", 32], "it has 3 classes, the data set has 10"),
    ],
)
def test_another_network_or_number_of_classes_is_refused(folder, capsys, arguments, said):
    arguments = ["--data", "pets", *arguments, "--checkpoint", PETS]
    assert run_here("certify_cifar_band.py", *arguments, folder=folder) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("certify_cifar_band.py: error: --checkpoint ")
    assert said in message


@pytest.mark.parametrize("said", [{}, {"about": "a network"}, {"about": {"dataset": "digits", "ablation": {}}}])
def test_a_checkpoint_that_says_nothing_is_run_as_the_script_says(folder, capsys, said):
    weights = {f"module.{key}": tensor for key, tensor in mnist_network().state_dict().items()}
    checkpoint.save({"net": weights, "acc": 0.0, "epoch": 0} | said, folder / "checkpoints" / "paper.pth")
    config, notes = run(folder, capsys, "certify_mnist_band.py", "--checkpoint", "paper.pth")
    assert (config["dataset"], config["band_size"], config["about"]["checkpoint"]) == ("mnist", 4, None)
    assert config["about"]["run"]["ablation"]["band_size"] == 4 and not notes


def test_training_that_resumes_takes_over_what_the_checkpoint_says(folder, capsys):
    more = ["--end_epoch", 1, "--subset", 60, "--resume", DIGITS]
    for given, name in (([], "digits_one_band"), (["--dataset", "mnist"], "mnist_one_band")):
        capsys.readouterr()
        succeed("train_mnist_band.py", *given, *more, folder=folder)
        resumed = f"{name}_lr_0.01_regularization_0.0005_band_5_epoch_1_resume_{DIGITS}.pth"
        now = torch.load(folder / "checkpoints" / resumed, weights_only=True)["about"]
        assert now["dataset"] == name.split("_")[0] and now["ablation"]["band_size"] == 5
        assert ("data set digits; this run has data set mnist" in capsys.readouterr().err) == bool(given)
    arguments = ["--data", "pets", "--end_epoch", 1, "--model", "resnet14", "--resume", PETS]
    assert run_here("train_cifar_band.py", *arguments, folder=folder) == 2
    assert "is of another network: resnet14_half, not resnet14" in capsys.readouterr().err


def test_what_no_option_of_a_script_can_be_is_not_taken_over(folder):
    """The digits are no data set of this script, and ImageNet has no option for it."""
    parser = about.CheckpointParser("", "checkpoint")
    parser.set_defaults(dataset="imagenet")
    parser.add_argument("--checkpoint")
    parser.add_argument("--model", choices=("resnet18",), default="resnet18")
    options = parser.parse_args(["--checkpoint", str(folder / "checkpoints" / DIGITS)])
    assert (options.dataset, options.model, vars(options).get("band_size")) == ("imagenet", "resnet18", None)


@pytest.mark.parametrize("script", ["certify_cifar_band.py", "attack_cifar_band.py", "train_cifar_band.py"])
def test_help_tells_whose_value_comes_first(script, tmp_path, capsys):
    assert run_here(script, "--help", folder=tmp_path) == 0
    text = " ".join(capsys.readouterr().out.split())
    for default in ("cifar10", "resnet18", "32", "4"):
        assert f"(default: the checkpoint's, else {default})" in text
    assert text.count("the checkpoint's, else") == 4


def all_below(kind):
    return {found for below in kind.__subclasses__() for found in (below, *all_below(below))}


def test_every_ablation_can_be_described():
    here = {kind for kind in all_below(ablation.Ablation) if kind.__module__.startswith("patchcert.")}
    assert {kind for kind in here if not kind.__name__.startswith("_")} == set(kinds.KINDS.values())


@pytest.mark.parametrize(
    ("made", "sizes"),
    [
        (ablation.Band(6, 8, 3), {"band_size": 3}),
        (ablation.Row(6, 8, 3), {"band_size": 3}),
        (ablation.Block(6, 8, 2), {"block_size": 2}),
        (choices.MultiBand(6, 8, 2, 3), {"bandwidth": 2, "keep": 3}),
        (choices.MultiBlock(6, 8, 2, 3), {"block_size": 2, "keep": 3}),
        (windows.WindowPairs(6, 8, 5, 2), {"window_size": 5, "per_side": 2}),
        (
            windows.BandsAndWindows(6, 8, 2, 5, 2),
            {"band_size": 2, "window_size": 5, "per_side": 2, "fine_size": 0, "fine_per_side": 0},
        ),
        (ablation.Whole(6, 8), {}),
    ],
)
def test_an_ablation_can_be_made_again_from_its_description(made, sizes):
    description = made.description()
    assert description == {"kind": type(made).__name__, "height": 6, "width": 8} | sizes
    again = kinds.described(json.loads(json.dumps(description)))
    assert type(again) is type(made) and torch.equal(again.masks(), made.masks())
