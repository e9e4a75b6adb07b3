"""The attack scripts, run as people run them, on generated pictures and a network with random weights."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from patchcert import certificate, checkpoint, datasets
from patchcert.ablation import Band, encode
from patchcert.attack import Classifier
from patchcert.networks import mnist_network
from patchcert.voting import ThresholdVote
from tests.helpers import ROOT, run_here, succeed, succeed_in_two_processes, write_idx_files

ATTACK = ["--checkpoint", "net.pth", "--steps", 5, "--randomizations", 3, "--step_size", 0.2, "--loss", "margin"]
SCRIPTS = sorted(path.name for path in ROOT.glob("attack_*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with MNIST's files and a network with random weights, whose smoothed answers are the test labels."""
    folder = tmp_path_factory.mktemp("run")
    raw = folder / "data" / "MNIST" / "raw"
    write_idx_files(raw)
    torch.manual_seed(0)
    network = mnist_network()
    images = datasets.load("mnist", folder / "data", train=False).images / 255
    with torch.no_grad():
        network[9].weight *= 300
        copies = (encode(images)[:, None] * Band(28, 28, 4).masks()[None, :, None])[::4].flatten(0, 1)
        network[9].bias -= network(copies).mean(dim=0)  # no class is ahead everywhere
    checkpoint.save({"net": network.state_dict(), "acc": 0.0, "epoch": 0}, folder / "checkpoints" / "net.pth")
    classifier = Classifier(network.eval(), Band(28, 28, 4), ThresholdVote(0.3))
    labels = classifier.predict(images, 4096).to(torch.uint8)
    file = raw / "t10k-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:8] + labels.numpy().tobytes())
    return folder


def test_results_rows_and_pictures_agree(folder, capsys):
    written = ["--output", "run.json", "--per_image", "rows.csv", "--save_images", "pictures"]
    options = ["--all", "--skip", 2, "--limit", 40, "--patch_height", 24, "--patch_width", 12, *written]
    succeed("attack_mnist_band.py", *ATTACK, *options, folder=folder)
    record, rows = json.loads((folder / "run.json").read_text()), list(csv.DictReader((folder / "rows.csv").open()))
    clean = datasets.load("mnist", folder / "data", train=False)
    assert [int(row["index"]) for row in rows] == list(range(0, 80, 2)) and record["total"] == 40
    assert record["correct"] == sum(row["predicted"] == row["label"] for row in rows)
    assert record["attacked_correct"] == sum(row["predicted_after"] == row["label"] for row in rows)
    assert record["certified_correct"] <= record["certified_correct_exact"] <= record["attacked_correct"]
    flipped = [row for row in rows if row["flipped"] == "True"]
    assert record["correct"] - record["attacked_correct"] == len(flipped) > 0
    assert (folder / "pictures" / f"grid_from_{int(flipped[0]['index']):05d}.png").is_file()
    assert {path.suffix for path in (folder / "pictures").iterdir()} == {".png"}
    for row in flipped:
        name = f"image_{int(row['index']):05d}"
        before, after = (
            np.array(Image.open(folder / "pictures" / f"{name}_{part}.png")) for part in ("clean", "attacked")
        )
        assert (before == clean.images[int(row["index"]), 0].numpy()).all()
        top, left = int(row["row"]), int(row["column"])
        differs = before != after
        assert differs.any()
        differs[top : top + 24, left : left + 12] = False
        assert not differs.any()
    assert f"pictures: {len(flipped)} flipped images; rounded to 8 bits" in capsys.readouterr().out


def test_two_processes_find_what_one_finds(folder):
    """Of 3 images one process has 2 and the other 1."""
    arguments = [*ATTACK, "--all", "--limit", 3, "--patch_height", 24, "--patch_width", 12]
    for name, run in (("one", succeed), ("two", succeed_in_two_processes)):
        written = ["--output", f"{name}.json", "--per_image", f"{name}.csv", "--save_images", name]
        run("attack_mnist_band.py", *arguments, *written, folder=folder)
    assert (folder / "one.csv").read_text() == (folder / "two.csv").read_text()
    one, two = (json.loads((folder / name).read_text())["results"] for name in ("one.json", "two.json"))
    assert one == two and one[0]["attacked_correct"] < one[0]["correct"]
    one, two = (sorted(path.name for path in (folder / name).glob("image_*")) for name in ("one", "two"))
    assert one == two != []


def test_a_broken_certificate_ends_with_exit_code_3(folder, monkeypatch, capsys):
    monkeypatch.setattr(certificate, "safe_lead", lambda certain, *_: torch.full(certain.shape[:2], 1000))
    arguments = [*ATTACK, "--all", "--size_of_attack", 14, "--save_images", "pictures"]
    assert run_here("attack_mnist_band.py", *arguments, folder=folder) == 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "is certified, and was flipped: the counterexample is in pictures/" in message
    (path,) = (folder / "pictures").glob("counterexample_*.pt")
    assert path.with_suffix(".png").is_file()
    found = torch.load(path, weights_only=True)
    top, left, height, width = found["patch"]
    differs = (found["clean"] != found["attacked"])[0]
    assert differs.any()
    differs[top : top + height, left : left + width] = False
    assert not differs.any()
    assert found["votes_before"].argmax() == found["label"] != found["votes_after"].argmax()


def test_blocks_are_attacked(folder, capsys):
    arguments = ["--block_size", 20, "--limit", 1, "--randomizations", 1, "--locations", "all", "--momentum", 0.9]
    succeed("attack_mnist_block.py", *ATTACK, *arguments, "--size_of_attack", 2, folder=folder)
    assert "attacked correct" in capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_itself(script, capsys, tmp_path):
    assert run_here(script, "--help", folder=tmp_path) == 0
    text = capsys.readouterr().out
    assert f"python3 {script}" in text and "--skip" in text and "--limit" in text and "--loss" in text


@pytest.mark.parametrize(
    ("script", "arguments", "named"),
    [
        ("attack_mnist_band.py", ["--size_of_attack", 29], "--size_of_attack 29: expected a whole number from 1 to 28"),
        ("attack_mnist_band.py", ["--patch_width", 40], "--patch_width 40: expected a whole number from 1 to 28"),
        ("attack_mnist_band.py", ["--patch_height", 0], "--patch_height: 0: expected"),
        ("attack_mnist_block.py", ["--steps", 0], "--steps: 0: expected"),
        ("attack_mnist_block.py", ["--step_size", "1/0"], "--step_size: 1/0: expected a number above 0"),
        ("attack_mnist_band.py", ["--threshold", "0.2,0.3"], "0.2,0.3: expected a number from 0 to 1"),
        ("attack_mnist_band.py", ["--loss", "best"], "--loss: invalid choice: 'best'"),
        ("attack_mnist_band.py", ["--save_images", "net.pth/x"], "--save_images: net.pth/x: cannot be made"),
        ("attack_cifar_band_linf.py", ["--epsilon", 0], "--epsilon: 0: expected a number above 0"),
    ],
)
def test_bad_input_is_one_clear_line(folder, script, arguments, named, capsys):
    (folder / "net.pth").touch()
    assert run_here(script, "--checkpoint", "net.pth", *arguments, folder=folder) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith(f"{script}: error: ") and named in message
