"""certify_imagenet_windows.py as a script: a network of the user's own, as it is, on pictures in a folder."""

import csv
import json

import numpy as np
import pytest
import torch

from patchcert import WindowMaskedClassifier
from patchcert.experiments import windows
from tests.helpers import run_here, succeed, succeed_in_two_processes
from tests.test_pictures import write_pictures

SCRIPT = "certify_imagenet_windows.py"

FACTORY = """
import torch
from torch import nn
from torchvision import transforms


def network(classes=3):
    torch.manual_seed(0)
    made = nn.Sequential(nn.AvgPool2d(5), nn.Flatten(), nn.Linear(48, classes))
    made.preparation = transforms.Compose([transforms.Resize((20, 20)), transforms.ToTensor()])
    return made.eval()


class OfFew(nn.Module):  # answers otherwise in large batches, by little of its large logits
    def __init__(self):
        super().__init__()
        self.network, self.preparation = network(), network().preparation

    def forward(self, images):
        return self.network(images) + torch.tensor([0.0, 40.0 - 3e-4 * len(images), 0.0])


def of_few():
    return OfFew().eval()


def of_a_file():
    made = network()
    made.preparation.transforms.append(transforms.Normalize(float(open("mean.txt").read()), 1.0))
    return made


def in_bfloat16():
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    return network()


def with_norm():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 12, 5, stride=5), nn.BatchNorm2d(12), nn.Flatten(), nn.Linear(192, 3))
    made.preparation = network().preparation
    return made.eval()
"""


@pytest.fixture
def folder(tmp_path, let_import):
    let_import(tmp_path, "small", FACTORY)
    write_pictures(tmp_path / "pets", ("cat", "dog", "eel"), 4, size=20)
    return tmp_path


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


COMMAND = ("--model", "small:network", "--data", "pets", "--size_to_certify", "1%,3x2", "--per_side", 2)


def test_recovery_and_alarms_by_hidden_windows(folder, capsys):
    files = ("--output", "found.json", "--per_image", "found.csv")
    goals = ("--goal", "recover,alert", "--confidence", "strict,0.3")
    succeed(SCRIPT, *COMMAND, *goals, *files, folder=folder)
    record = json.loads((folder / "found.json").read_text())
    asked = [(entry["size_to_certify"], entry["goal"], entry["confidence"]) for entry in record["results"]]
    assert record["config"]["size_to_certify"] == ["1%", "3x2"] and record["config"]["about"]["sha256"] == {}
    assert record["config"]["about"]["network"]["size"] == [20, 20]
    assert asked == [(s, g, c) for s in (2, "3x2") for g, c in (("recover", None), ("alert", None), ("alert", 0.3))]
    rows = rows_of(folder / "found.csv")
    assert len(rows) == 12 * 6
    recovered, strict = (rows[12 * number : 12 * number + 12] for number in (0, 1))
    assert record["passes"] == sum(int(row["passes"]) for row in rows[24:36] + rows[60:])
    for one, other in zip(recovered, strict, strict=True):
        assert one["certified"] == "False" or other["certified"] == "True", "recovery certifies no more than alarms do"
        assert (other["predicted"] == "-1") == (one["dissenting"] != "")
    printed = capsys.readouterr().out
    assert "4 windows of 11 × 11 pixels" in printed
    assert "double masking and alarms (one on a clean image is an error), numerical margin 0.001" in printed
    for number, entry in enumerate(record["results"]):
        of_entry = rows[12 * number : 12 * number + 12]
        assert entry["correct"] == sum(row["predicted"] == row["label"] for row in of_entry)
        alarms = sum(row["predicted"] == "-1" for row in of_entry)
        assert entry.get("false_alarms", 0) == alarms and entry["clean_accuracy"] <= 1 - alarms / 12
    assert any(entry.get("false_alarms") for entry in record["results"]) and "false_alarms" in printed


def test_two_patches_raise_alarms_where_one_is_recovered(folder):
    succeed(SCRIPT, *COMMAND, "--per_image", "one.csv", folder=folder)
    succeed(SCRIPT, *COMMAND, "--patches", 2, "--goal", "alert", "--per_image", "two.csv", folder=folder)
    one, two = rows_of(folder / "one.csv"), rows_of(folder / "two.csv")
    assert [row["certified"] for row in one] == [row["certified"] for row in two]
    assert all(row["predicted"] == "-1" for row in two if row["dissenting"])


def test_a_size_that_is_named_in_two_ways_is_asked_about_once(folder):
    command, sizes = (*COMMAND[:4], "--per_side", 2), ("--size_to_certify", "1%,2,3x2")  # 1 % are 2 × 2 pixels
    succeed(SCRIPT, *command, *sizes, "--save_votes", "a.answers", "--output", "a.json", folder=folder)
    succeed("certify_votes.py", "--votes", "a.answers", *sizes, "--output", "b.json", folder=folder)
    for name in ("a.json", "b.json"):
        record = json.loads((folder / name).read_text())
        assert [entry["size_to_certify"] for entry in record["results"]] == [2, "3x2"]


@pytest.mark.parametrize(("name", "engine"), [("network", "dense"), ("with_norm", "folded")])
def test_results_say_whether_the_network_was_folded(folder, capsys, name, engine):
    succeed(SCRIPT, *COMMAND, "--model", f"small:{name}", "--output", "found.json", folder=folder)
    assert json.loads((folder / "found.json").read_text())["arithmetic"]["engine"] == engine
    assert ("normalisations are not folded" in capsys.readouterr().err) == (engine == "dense")


def test_what_batches_change_has_to_be_within_the_margin(folder, capsys):
    command = (*COMMAND, "--model", "small:of_few")
    assert run_here(SCRIPT, *command, folder=folder) == 2
    assert "--numerical_margin auto: expected 0.0018 or more, since the network computes" in capsys.readouterr().err
    succeed(SCRIPT, *command, "--numerical_margin", 0.002, folder=folder)
    succeed(SCRIPT, *command, "--batch_size", 1, folder=folder)


def test_what_a_factory_sets_counts_and_is_said(folder, capsys):
    command, of = (*COMMAND, "--model", "small:in_bfloat16", "--output", "found.json"), torch.backends.mkldnn.matmul
    try:
        assert run_here(SCRIPT, *command, folder=folder) == 2
        assert "auto: expected 1 or more, since the network computes in bfloat16, and its" in capsys.readouterr().err
        succeed(SCRIPT, *command, "--numerical_margin", 1, "--save_votes", "found.npz", folder=folder)
    finally:
        of.fp32_precision = "none"
    assert json.loads((folder / "found.json").read_text())["arithmetic"]["precision"] == "bfloat16"
    with np.load(folder / "found.npz") as saved:
        assert (saved["magnitudes"] >= saved["leads"] / 2).all() and saved["magnitudes"].max() < 20


def test_a_damaged_picture_is_named_before_the_network_is_asked(folder, monkeypatch, capsys):
    picture = folder / "pets" / "dog" / "0003.png"
    picture.write_bytes(picture.read_bytes()[:-50])
    monkeypatch.setattr(windows, "IMAGES_AT_ONCE", 4)
    monkeypatch.setattr(WindowMaskedClassifier, "_logits", lambda *_: pytest.fail("was asked"))
    assert run_here(SCRIPT, *COMMAND, folder=folder) == 2
    assert capsys.readouterr().err.endswith("--data pets/dog/0003.png: a damaged image; repair or remove it\n")


def test_an_interrupted_run_does_not_go_on_with_pixels_normalised_otherwise(folder, monkeypatch, capsys):
    """Weights and pixels are the same, and so is all code: the factory reads a file."""

    def stop(*_):
        raise KeyboardInterrupt

    command = (*COMMAND, "--model", "small:of_a_file", "--output", "found.json")
    (folder / "mean.txt").write_text("0.5")
    with monkeypatch.context() as patched:
        patched.setattr(windows, "write_and_print", stop)
        assert run_here(SCRIPT, *command, folder=folder) == 130
    (folder / "mean.txt").write_text("0.25")
    assert run_here(SCRIPT, *command, folder=folder) == 2
    assert "is of an interrupted run with network mean [0.5, 0.5, 0.5], not [0.25, " in capsys.readouterr().err
    (folder / "mean.txt").write_text("0.5")
    succeed(SCRIPT, *command, folder=folder)


def test_two_processes_find_and_save_what_one_does(folder):
    command = [*COMMAND, "--batch_size", 1]
    succeed(SCRIPT, *command, "--per_image", "one.csv", "--save_votes", "one.npz", folder=folder)
    succeed_in_two_processes(SCRIPT, *command, "--per_image", "two.csv", "--save_votes", "two.npz", folder=folder)
    one, two = rows_of(folder / "one.csv"), rows_of(folder / "two.csv")
    for row in (*one, *two):
        row["lead"] = f"{float(row['lead']):.4f}"
    assert one == two
    with np.load(folder / "one.npz") as one, np.load(folder / "two.npz") as two:
        for name in set(one) - {"about"}:
            assert np.allclose(one[name], two[name], atol=1e-5), name


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (["--size_to_certify", "100%"], "100: expected a share above 0 % and below 100 %, such as 2%"),
        (["--size_to_certify", "20"], "--size_to_certify 20: expected a patch smaller than the image"),
        (["--size_to_certify", "21"], "--size_to_certify 21: expected a patch that fits into 20 × 20 pixels"),
        (["--size_to_certify", "area:x"], "x: expected a number of pixels, such as area:100"),
        (["--per_side", "1"], "--per_side 1: expected a whole number from 2 to 16"),
        (["--goal", "win"], "win: expected recover, alert or both"),
        (["--confidence", "2"], "2: expected a number from 0 to 1"),
        (["--compile"], "--compile True: expected none: the network is certified as it is"),
        (["--patches", "2"], "--patches 2: expected 1 to recover; --goal alert is for two"),
    ],
)
def test_wrong_use_is_said_in_one_line(folder, capsys, arguments, right):
    assert run_here(SCRIPT, *COMMAND, *arguments, folder=folder) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert right in error[-1]
