"""The attack scripts, run as people run them, on generated pictures and a network with random weights."""

import csv
import json
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from patchcert import checkpoint
from patchcert.ablations.ablation import Band, encode
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.data import named
from patchcert.networks import mnist_network
from patchcert.small_networks import cifar_resnet
from patchcert.votes import certificate
from tests import oracle
from tests.helpers import ROOT, run_here, succeed, succeed_in_two_processes, write_idx_files
from tests.test_counting import ARGUMENTS, SIZES, look_up, undecided
from tests.test_pictures import write_pictures

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
    images = named.load("mnist", folder / "data", train=False).images / 255
    with torch.no_grad():
        network[9].weight *= 300
        copies = (encode(images)[:, None] * Band(28, 28, 4).masks()[None, :, None])[::4].flatten(0, 1)
        network[9].bias -= network(copies).mean(dim=0)  # no class is ahead everywhere
    checkpoint.save({"net": network.state_dict(), "acc": 0.0, "epoch": 0}, folder / "checkpoints" / "net.pth")
    classifier = SmoothedClassifier(network.eval(), Band(28, 28, 4), 0.3)
    labels = classifier.predict(images, 4096).to(torch.uint8)
    file = raw / "t10k-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:8] + labels.numpy().tobytes())
    return folder


def test_results_rows_and_pictures_agree(folder, capsys):
    written = ["--output", "run.json", "--per_image", "rows.csv", "--save_images", "pictures"]
    options = ["--all", "--skip", 2, "--limit", 20, "--patch_height", 24, "--patch_width", 12, *written]
    succeed("attack_mnist_band.py", *ATTACK, *options, folder=folder)
    record, rows = json.loads((folder / "run.json").read_text()), list(csv.DictReader((folder / "rows.csv").open()))
    clean = named.load("mnist", folder / "data", train=False)
    assert [int(row["index"]) for row in rows] == list(range(0, 40, 2)) and record["total"] == 20
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
    assert found["totals_before"].argmax() == found["label"] != found["totals_after"].argmax()


@pytest.mark.parametrize(
    ("script", "options", "copies", "patch", "count"),
    [
        (
            "mnist_block",
            {"block_size": 5, "size_of_attack": 5, "locations": "all", "momentum": 0.9},
            oracle.blocks(28, 28, 5),
            (5, 5),
            4,
        ),
        ("mnist_baseline", {"size_of_attack": 7}, oracle.whole(28, 28), (7, 7), 101),
        (
            "cifar_band",
            {"band_size": 3, "patch_height": 4, "patch_width": 2, "locations": "weak"},
            oracle.bands(8, 8, 3),
            (4, 2),
            24,
        ),
        ("cifar_baseline", {"size_of_attack": "3x2"}, oracle.whole(8, 8), (3, 2), 24),
        ("cifar_band_linf", {"band_size": 3, "epsilon": "9/255"}, oracle.bands(8, 8, 3), None, 24),
        ("cifar_baseline_linf", {"epsilon": "9/255"}, oracle.whole(8, 8), None, 24),
    ],
)
def test_scripts_attack_what_they_say_within_their_threat(
    tmp_path, generated_mnist, script, options, copies, patch, count
):
    """Before the attack rows say what a loop over copies counts; afterwards pictures differ where they may."""
    (tmp_path / "data").symlink_to(generated_mnist)
    for part in ("train", "test"):
        write_pictures(tmp_path / "pictures" / part, ("cat", "dog", "eel"), 8)
    family, threshold = script.split("_")[0], None if "baseline" in script else 0.35
    size = SIZES[family]
    images, _ = look_up(family, tmp_path, count)
    channels = images.shape[1] * (1 if "baseline" in script else 2)
    torch.manual_seed(0)
    network = mnist_network(channels) if family == "mnist" else cifar_resnet("resnet14_half", channels, classes=3)
    inputs = torch.cat([oracle.encoded(image, copies[::7])[:, :channels] for image in images])
    undecided(network, inputs, favour=0)
    checkpoint.save({"net": network.state_dict()}, tmp_path / "checkpoints" / "net.pth")
    asked = options | {
        "checkpoint": "net.pth", "limit": count, "skip": 1, "steps": 4, "step_size": "40/255", "loss": "margin",
        "per_image": "rows.csv", "save_images": "found",
    }  # fmt: skip
    asked |= {"randomizations": 4} if patch else {}
    asked |= {"threshold": threshold} if threshold else {}
    flags = chain.from_iterable((f"--{name}", value) for name, value in asked.items())
    succeed(f"attack_{script}.py", *ARGUMENTS[family], *flags, folder=tmp_path)
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    touched = oracle.touched(copies, size, size, patch or (1, 1))
    for row, image in zip(rows, images, strict=True):
        votes = oracle.votes(oracle.probabilities(lambda seen: network(seen[:, :channels]), image, copies), threshold)
        for kind in ("margin", "exact"):
            counted = oracle.verdict(votes, touched, kind)
            assert (int(row["predicted"]), int(row["votes"])) == (counted["predicted"], counted["votes"])
            assert row.get(f"certified_{kind}") == (str(counted["certified"]) if patch else None)
    flipped = [row for row in rows if row["flipped"] == "True"]
    assert len(flipped) > 0
    for row in flipped:
        before, after = (
            np.array(Image.open(tmp_path / "found" / f"image_{int(row['index']):05d}_{part}.png"), dtype=int)
            for part in ("clean", "attacked")
        )
        assert (before == (images[int(row["index"])] * 255).round().int().permute(1, 2, 0).squeeze(2).numpy()).all()
        changes = abs(after - before).reshape(size, size, -1).max(axis=2)
        changed = set(zip(*changes.nonzero(), strict=True))
        if patch:
            assert set() < changed <= oracle.rectangle(int(row["row"]), int(row["column"]), *patch)
        else:
            assert changes.max() == 9 and len(changed) > size * size / 2


@pytest.mark.parametrize("amp", ["--amp", "--no-amp"])
def test_amp_is_autocast(folder, monkeypatch, amp):
    logits, seen = SmoothedClassifier.logits, set()

    def looked_at(*arguments):
        seen.add(torch.is_autocast_enabled("cpu"))
        return logits(*arguments)

    monkeypatch.setattr(SmoothedClassifier, "logits", looked_at)
    succeed("attack_mnist_band.py", *ATTACK, "--all", "--limit", 2, amp, folder=folder)
    assert seen == {amp == "--amp"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_itself(script, capsys, tmp_path):
    assert run_here(script, "--help", folder=tmp_path) == 0
    text = capsys.readouterr().out
    assert f"python3 {script}" in text and "--skip" in text and "--limit" in text and "--loss" in text


@pytest.mark.parametrize(
    ("script", "arguments", "named"),
    [
        ("attack_mnist_band.py", ["--size_of_attack", 29], "29: expected a patch that fits into 28 × 28"),
        ("attack_mnist_band.py", ["--size_of_attack", "2,5"], "--size_of_attack: 2,5: expected one size, such as 32"),
        ("attack_mnist_band.py", ["--size_of_attack", "2x8", "--patch_width", 7], "7: contradicts --size_of_attack"),
        ("attack_mnist_band.py", ["--size_of_attack", 5, "--patch_height", 2], "which has 5 rows; give one"),
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
