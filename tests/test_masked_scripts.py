"""The scripts of networks of limited reach, run as people run them, against bands cut out one by one."""

import argparse
import csv
import json

import pytest
import torch

from patchcert import arithmetic, checkpoint
from patchcert.ablations.ablation import BandAndRow
from patchcert.arithmetic import RELATIVE_MARGINS
from patchcert.data import named
from patchcert.engines.columns import LinesNetwork, Shape
from patchcert.experiments import setting
from patchcert.masking import double_masking
from patchcert.patch import Patch
from patchcert.training import loop
from tests import oracle
from tests.helpers import run_here, succeed, succeed_in_two_processes
from tests.test_pictures import write_pictures

SMALL = ["--channels", "8,16", "--blocks", "0,0", "--batch_size", 16, "--band_size", 7, "--lr", 0.002]
NAME = "mnist_masked_band_lr_0.002_regularization_0.0005_lines_both_size_2_band_7_epoch_0.pth"
COLUMN = "mnist_one_band_lr_0.05_regularization_0.0005_model_column_band_4_epoch_1.pth"
CIFAR = "certify_cifar_band_masked.py"
CERTIFY = "certify_mnist_band_masked.py"
BAR = Patch(6, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generated_mnist):
    """A folder in which a small network for masking and a column network for votes were trained on generated digits."""
    folder = tmp_path_factory.mktemp("masked")
    (folder / "data").symlink_to(generated_mnist)
    for part in ("train", "test"):
        write_pictures(folder / "three" / part, ("cat", "dog", "eel"), 1)
        write_pictures(folder / "ten" / part, [f"class_{label}" for label in range(10)], 1)
    succeed("train_mnist_band_masked.py", *SMALL, "--size_to_train", 2, "--end_epoch", 0, folder=folder)
    succeed("train_mnist_band.py", "--model", "column", "--lr", 0.05, "--end_epoch", 1, folder=folder)
    return folder


@pytest.fixture(scope="module")
def scores(folder):
    """(N, A, K) of the test images: each band cut out alone, by a network built from the checkpoint."""
    content = torch.load(folder / "checkpoints" / NAME, weights_only=True)
    network = LinesNetwork(Shape.described(content["about"]["network"])).eval()
    network.load_state_dict(content["net"])
    images, found = named.load("mnist", folder / "data", train=False).images / 255, []
    for family, axis in zip(network.families, (3, 2), strict=True):
        for start in range(28):
            band = images.index_select(axis, (start + torch.arange(7)) % 28)
            found.append(family.of_bands(band, torch.full((len(images),), start)))
    return torch.stack(found, dim=1).detach()


def test_training_writes_the_promised_names(folder):
    assert {NAME, COLUMN} <= {path.name for path in (folder / "checkpoints").iterdir()}
    about = torch.load(folder / "checkpoints" / NAME, weights_only=True)["about"]
    assert about["ablation"] == {"kind": "BandAndRow", "height": 28, "width": 28, "band_size": 7}
    assert about["network"]["channels"] == [8, 16] and about["network"]["lines"] == "both"


def test_a_whole_stem_trained_on_every_third_band_certifies_without_further_options(folder, capsys):
    arguments = ["--stem", "whole", "--band_stride", 3, "--size_to_train", 3, "--end_epoch", 0, "--subset", 64]
    arguments += ["--loss_power", 0.7]
    succeed("train_mnist_band_masked.py", *SMALL, *arguments, folder=folder)
    name = NAME.replace("size_2", "size_3")
    content = torch.load(folder / "checkpoints" / name, weights_only=True)
    assert content["about"]["network"]["stem"] == "whole" and content["settings"]["band_stride"] == 3
    assert content["settings"]["loss_power"] == 0.7
    succeed(CERTIFY, "--limit", 8, "--checkpoint", name, folder=folder)
    assert "certified correct" in capsys.readouterr().out
    assert run_here("train_mnist_band_masked.py", *SMALL, "--band_stride", 8, folder=folder) == 2
    assert "--band_stride 8: expected a whole number from 1 to 7" in capsys.readouterr().err
    assert run_here("train_mnist_band_masked.py", *SMALL, "--loss_power", 1.5, folder=folder) == 2
    assert "--loss_power: 1.5: expected a number from 0 to 1" in capsys.readouterr().err


def test_training_batches_go_through_the_augmentations_that_are_named(folder, capsys):
    write_pictures(folder / "small" / "train", ("cat", "dog"), 4)
    write_pictures(folder / "small" / "test", ("cat", "dog"), 1)
    options = ["--dataset", "folder", "--data", "small", "--image_size", 12, "--end_epoch", 0]
    options += ["--channels", "4,6", "--blocks", "0,1", "--lines", "columns"]
    name = "small_masked_band_lr_0.005_regularization_0.005_lines_columns_size_5_band_4_epoch_0.pth"
    for chosen, augmentations in (
        ([], ["random_crop", "random_flip"]),
        (["--augmentations", "none", "--overwrite"], []),
        (["--augmentations", "random_erasing,random_colours", "--overwrite"], ["random_erasing", "random_colours"]),
    ):
        succeed("train_cifar_band_masked.py", *options, *chosen, folder=folder)
        content = torch.load(folder / "checkpoints" / name, weights_only=True)
        assert content["settings"]["augmentations"] == augmentations
    assert run_here("train_cifar_band_masked.py", *options, "--augmentations", "random_crop,blur", folder=folder) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--augmentations: random_crop,blur: expected none, or some of random_flip,alternating_flip" in said


def test_certifying_counts_what_the_definition_gives(folder, scores):
    written = ["--output", "run.json", "--per_image", "run.csv"]
    arguments = ["--all", "--limit", 16, "--size_to_certify", "6x5", *written, "--checkpoint", NAME]
    succeed("certify_mnist_band_masked.py", *arguments, folder=folder)
    record, rows = json.loads((folder / "run.json").read_text()), list(csv.DictReader((folder / "run.csv").open()))
    shown = oracle.bands(28, 28, 7) + oracle.rows(28, 28, 7)
    places = oracle.touched(shown, 28, 28, (BAR.height, BAR.width)).unique(dim=0)
    kept = ~(places[:, None] | places).flatten(0, 1)  # (pairs, A)
    for row, image in zip(rows, scores, strict=False):
        sums = kept.double() @ image.double()
        predicted = oracle.double_masked(image.double(), places)
        leads = sums[:, [predicted]] - sums
        leads[:, predicted] = float("inf")
        assert int(row["predicted"]) == predicted
        assert float(row["lead"]) == pytest.approx(leads.min().item(), abs=1e-4)
        assert (row["certified"] == "True") == (leads.min() > 1e-3)
    right = [row for row in rows if row["predicted"] == row["label"]]
    assert len(rows) == 16 and record["correct"] == len(right) > 3
    assert 0 < record["certified_correct"] == sum(row["certified"] == "True" for row in right) < 16


def test_a_report_shows_the_leads_that_were_certified(folder):
    arguments = ["--all", "--limit", 12, "--size_to_certify", "6x5", "--per_image", "run.csv", "--report", "report"]
    succeed(CERTIFY, *arguments, "--checkpoint", NAME, folder=folder)
    rows = {int(row["index"]): row for row in csv.DictReader((folder / "run.csv").open())}
    (run,) = json.loads((folder / "report" / "report.json").read_text())["runs"]
    images = run["galleries"][0]["images"]
    assert len(images) == 12 and all(len(image["weak_spots"]) == 28 - 6 + 1 for image in images)
    for image in images:
        assert image["lead"] == pytest.approx(float(rows[image["index"]]["lead"]), abs=1e-3)


@pytest.mark.parametrize("rule", ["strict", "0", "two"])
def test_a_report_shows_alarms(folder, rule):
    """Leads without one place, or two; of confidences there are none."""
    goal = ["--patches", 2] if rule == "two" else ["--confidence", rule]
    arguments = ["--all", "--limit", 30, "--size_to_certify", "6x5", "--goal", "alert", *goal]
    succeed(CERTIFY, *arguments, "--per_image", "run.csv", "--report", "alarms", "--checkpoint", NAME, folder=folder)
    rows = {int(row["index"]): row for row in csv.DictReader((folder / "run.csv").open())}
    (run,) = json.loads((folder / "alarms" / "report.json").read_text())["runs"]
    images = run["galleries"][0]["images"]
    assert len(images) == 30 and {image["outcome"] for image in images} >= {"certified", "false alarm"}
    for image in images:
        row = rows[image["index"]]
        assert (image["predicted"] < 0) == (image["outcome"] == "false alarm") and image["predicted"] == int(
            row["predicted"]
        )
        if rule == "0":
            assert image["lead"] is None and image["weak_spots"] is None
        elif image["predicted"] >= 0:  # of an alarm it is the lead of the class that is most frequent
            assert len(image["weak_spots"]) == 28 - 6 + 1
            assert image["lead"] == pytest.approx(float(row["lead"]), abs=1e-2) and image["lead"] > 0
        else:
            assert image["lead"] < 0


def test_one_pass_answers_every_size_whatever_the_batch(folder):
    results = []
    for batch in (7, 64):
        arguments = ["--size_to_certify", "1-4,2x8", "--batch_size", batch, "--output", "run.json"]
        succeed("certify_mnist_band_masked.py", *arguments, "--checkpoint", NAME, folder=folder)
        record = json.loads((folder / "run.json").read_text())
        results.append(record["results"])
    assert record["config"]["size_to_certify"] == [entry["size_to_certify"] for entry in results[0]]
    assert results[0] == results[1] and [entry["size_to_certify"] for entry in results[0]] == [1, 2, 3, 4, "2x8"]
    certified = [entry["certified_correct"] for entry in results[0]]
    assert certified == sorted(certified, reverse=True) or certified[4] > certified[3]


def test_where_all_images_are_looked_at_the_test_half_is_counted_too(folder, capsys):
    found = {}
    for part in ("--all", "--test"):
        arguments = [part, "--size_to_certify", "1,2", "--output", "run.json", "--checkpoint", NAME]
        succeed("certify_mnist_band_masked.py", *arguments, folder=folder)
        found[part] = json.loads((folder / "run.json").read_text()), capsys.readouterr().out
    alone = found["--test"][0]["results"]
    of_all = found["--all"][0]["test_half"]
    assert of_all == [{name: answer[name] for name in of_all[0]} for answer in alone]
    assert f"certified on the test half alone, {alone[0]['total']} images: " in found["--all"][1]
    assert "test_half" not in found["--test"][0]


@pytest.mark.parametrize(
    ("options", "precision", "margin"),
    [
        ([], "float32", 1e-3),
        (["--tf32"], "float32", 1e-3),  # which is for GPUs
        (["--amp"], "bfloat16", 1.0),
        (["--amp", "--tf32"], "bfloat16", 1.0),
        (["--amp", "--numerical_margin", 0.2], "bfloat16", 0.2),
    ],
)
def test_the_numerical_margin_follows_the_arithmetic(folder, options, precision, margin, capsys):
    shared = [*options, "--limit", 4, "--output", "run.json", "--checkpoint", NAME]
    for script, more in ((CERTIFY, []), ("attack_mnist_band_masked.py", ["--steps", 1, "--randomizations", 1])):
        succeed(script, *shared, *more, folder=folder)
        record = json.loads((folder / "run.json").read_text())
        assert record["config"]["numerical_margin"] == record["results"][0]["numerical_margin"] == margin
        assert f"masking certificate, numerical margin {margin}" in capsys.readouterr().out
        here = arithmetic.processor(torch.device("cpu"))
        assert record["arithmetic"] == {"precision": precision, "engine": "shared", "processors": [here]}


@pytest.mark.parametrize(("device", "found"), [("cpu", "float32"), ("cuda", "tf32")])
def test_only_gpus_round_to_tf32(device, found):
    options = argparse.Namespace(amp=False, tf32=True, device=torch.device(device))
    assert setting.precision(options) == found


@pytest.mark.parametrize(("amp", "emulates", "said"), [(True, True, True), (True, False, False), (False, True, False)])
def test_it_is_said_where_bfloat16_is_slow(amp, emulates, said, monkeypatch, capsys):
    monkeypatch.setattr(arithmetic, "emulates_bfloat16", lambda device: emulates)
    setting.set_up(argparse.Namespace(amp=amp, tf32=False, deterministic=False, device=torch.device("cpu")))
    assert ("no instructions for bfloat16 (--amp), so --no-amp is faster" in capsys.readouterr().err) == said


@pytest.mark.parametrize(("options", "precision"), [([], "float32"), (["--amp"], "bfloat16")])
def test_leads_must_exceed_a_share_of_what_was_added_up(folder, scores, options, precision):
    """Without a numerical margin, of the images whose leads nobody could tell from the share."""
    written = ["--output", "run.json", "--per_image", "run.csv", "--numerical_margin", 0]
    arguments = ["--all", "--limit", 101, "--size_to_certify", "6x5", *written, *options, "--checkpoint", NAME]
    succeed(CERTIFY, *arguments, folder=folder)
    rows = list(csv.DictReader((folder / "run.csv").open()))
    for row, image in zip(rows, scores, strict=True):
        assert (row["certified"] == "True") <= (float(row["lead"]) > 0)
        most = RELATIVE_MARGINS[precision] * image.abs().amax(dim=1).sum().item()
        if float(row["lead"]) > 1.1 * most:
            assert row["certified"] == "True"
    if options:
        assert any(row["certified"] == "False" and float(row["lead"]) > 0 for row in rows)


def test_two_patches_and_two_processes(folder):
    shared = ["--size_to_certify", "1,2", "--patches", 2, "--limit", 9, "--checkpoint", NAME]
    succeed("certify_mnist_band_masked.py", *shared, "--output", "one.json", folder=folder)
    succeed_in_two_processes("certify_mnist_band_masked.py", *shared, "--output", "two.json", folder=folder)
    one, two = (json.loads((folder / name).read_text())["results"] for name in ("one.json", "two.json"))
    assert one == two and one[0]["patches"] == 2


def test_alarms_promise_more_and_are_counted_as_errors(folder, capsys):
    goals = ["--goal", "recover,alert", "--confidence", "strict,0,0.5,0.99", "--size_to_certify", "2,6x5"]
    written = ["--output", "run.json", "--per_image", "run.csv"]
    succeed(CERTIFY, *goals, *written, "--all", "--limit", 60, "--checkpoint", NAME, folder=folder)
    results = json.loads((folder / "run.json").read_text())["results"]
    rows = list(csv.DictReader((folder / "run.csv").open()))
    assert [(entry["goal"], entry["confidence"]) for entry in results[:5]] == [
        ("recover", None), ("alert", None), ("alert", 0), ("alert", 0.5), ("alert", 0.99)
    ]  # fmt: skip
    recovered, strict, *by_confidence = results[5:]
    certified = [entry["certified_correct"] + entry["certified_wrong"] for entry in (recovered, strict, *by_confidence)]
    assert certified[0] < certified[1] and certified[2:] == sorted(certified[2:], reverse=True)
    alarms = [entry["false_alarms"] for entry in (strict, *by_confidence)]
    assert alarms == sorted(alarms, reverse=True) and alarms[0] > alarms[-1]
    assert sum(row["predicted"] == "-1" for row in rows) == sum(entry.get("false_alarms", 0) for entry in results)
    two = ["--goal", "alert", "--patches", 2, "--size_to_certify", "6x5", "--output", "two.json"]
    succeed(CERTIFY, *two, "--all", "--limit", 60, "--checkpoint", NAME, folder=folder)
    (against_two,) = json.loads((folder / "two.json").read_text())["results"]
    for name in ("certified_correct", "certified_wrong"):  # the same pairs of places, with another promise
        assert against_two[name] == recovered[name]
    two = [*two, "--confidence", "strict,0,0.5"]
    succeed(CERTIFY, *two, "--all", "--limit", 60, "--checkpoint", NAME, folder=folder)
    strict, *by_confidence = json.loads((folder / "two.json").read_text())["results"]
    assert strict == against_two and [entry["confidence"] for entry in by_confidence] == [0, 0.5]
    assert 0 < by_confidence[0]["certified_correct"] <= strict["certified_correct"]
    assert by_confidence[0]["false_alarms"] > by_confidence[1]["false_alarms"]
    capsys.readouterr()
    for wrong, said in (
        (["--goal", "recover,alert", "--patches", 2], "--goal recover,alert: expected one of them with --patches 2"),
    ):
        assert run_here(CERTIFY, *wrong, "--checkpoint", NAME, folder=folder) == 2
        assert said in capsys.readouterr().err


def test_every_rectangle_of_an_area_is_one_question(folder, capsys):
    sizes = ["--size_to_certify", "area:4,1x4,2,4x1", "--all", "--limit", 60, "--output", "run.json"]
    succeed(CERTIFY, *sizes, "--goal", "recover,alert", "--checkpoint", NAME, folder=folder)
    results = json.loads((folder / "run.json").read_text())["results"]
    assert "any rectangle of at most 4 pixels, 1 × 4, 2 × 2, 4 × 1" in capsys.readouterr().out
    for kind in (results[::2], results[1::2]):
        area, *shapes = kind
        assert area["size_to_certify"] == "area:4" and area["certified_correct"] > 0
        assert area["certified_correct"] <= min(entry["certified_correct"] for entry in shapes)
    votes = ["--size_to_certify", "area:4,1x4,2,4x1", "--certificate", "exact,masking", "--all", "--top_one"]
    options = [*votes[:-1], "--save_votes", "votes.npz", "--output", "direct.json"]
    succeed("certify_mnist_band_top_one.py", *options, "--checkpoint", COLUMN, folder=folder)
    succeed(
        "certify_votes.py", "--votes", "votes.npz", *votes[:4], "--top_one", "--output", "saved.json", folder=folder
    )
    direct, saved = (json.loads((folder / name).read_text())["results"] for name in ("direct.json", "saved.json"))
    assert direct == saved
    exact, masked = ([entry["certified_correct"] for entry in kind] for kind in (direct[::2], direct[1::2]))
    assert exact[0] == min(exact) > 0 and masked[0] <= min(masked)
    capsys.readouterr()
    assert run_here("report.py", "direct.json", "--out", "page", folder=folder) == 2
    assert "--size_to_certify area:4: no page can show it" in capsys.readouterr().err
    page = ["--size_to_certify", "area:4", "--report", "page"]
    for script, weights in ((CERTIFY, NAME), ("certify_mnist_band_top_one.py", COLUMN)):
        assert run_here(script, *page, "--checkpoint", weights, folder=folder) == 2
        assert "--report page: expected sizes such as 5 or 2x8 beside it" in capsys.readouterr().err


ATTACK = ["--all", "--skip", 5, "--steps", 6, "--randomizations", 4, "--step_size", 0.3, "--loss", "margin"]


def test_attacks_flip_images_but_none_that_is_certified(folder):
    options = ["--size_of_attack", 6, "--output", "run.json", "--per_image", "run.csv", "--checkpoint", NAME]
    succeed("attack_mnist_band_masked.py", *ATTACK, *options, folder=folder)
    record, rows = json.loads((folder / "run.json").read_text()), list(csv.DictReader((folder / "run.csv").open()))
    assert 0 < record["certified_correct"] <= record["attacked_correct"] < record["correct"]
    assert not any(row["flipped"] == row["certified_masking"] == "True" for row in rows)


def test_a_broken_certificate_is_caught(folder, monkeypatch, capsys):
    monkeypatch.setattr(double_masking, "beats_all", lambda leads, *_: torch.ones(leads.shape[:-1], dtype=torch.bool))
    options = ["--size_of_attack", "14x12", "--save_images", "pictures", "--checkpoint", NAME]
    assert run_here("attack_mnist_band_masked.py", *ATTACK, *options, folder=folder) == 3
    assert "is certified, and was flipped: the counterexample is in pictures/" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["band", "band_top_one"])
def test_votes_of_a_column_network_are_certified_by_masking_too(folder, script):
    options = ["--certificate", "margin,exact,masking", "--size_to_certify", "1,2", "--all", "--output", "run.json"]
    succeed(f"certify_mnist_{script}.py", *options, "--checkpoint", COLUMN, folder=folder)
    results = json.loads((folder / "run.json").read_text())["results"]
    for margin, exact, masked in zip(results[::3], results[1::3], results[2::3], strict=True):
        certified = [entry["certified_correct"] + entry["certified_wrong"] for entry in (margin, exact, masked)]
        assert certified == sorted(certified) and certified[2] > 0


def test_saved_votes_and_attacks_take_column_networks(folder):
    save = ["--threshold", 0.2, "--all", "--save_votes", "votes.npz", "--output", "direct.json"]
    succeed("certify_mnist_band.py", *save, "--certificate", "masking", "--checkpoint", COLUMN, folder=folder)
    votes = ["--votes", "votes.npz", "--threshold", 0.2, "--certificate", "masking", "--output", "saved.json"]
    succeed("certify_votes.py", *votes, folder=folder)
    direct, saved = (json.loads((folder / name).read_text())["results"] for name in ("direct.json", "saved.json"))
    assert direct == saved
    succeed("attack_mnist_band.py", *ATTACK, "--size_of_attack", 12, "--checkpoint", COLUMN, folder=folder)


def test_pictures_in_folders(folder):
    for part in ("train", "test"):
        write_pictures(folder / "pictures" / part, ("cat", "dog", "eel"), 4)
    pictures = ["--dataset", "folder", "--data", "pictures", "--image_size", 12]
    small = ["--channels", "4,6", "--blocks", "0,1", "--lines", "columns", "--size_to_train", "2x3"]
    succeed("train_cifar_band_masked.py", *pictures, *small, "--end_epoch", 0, folder=folder)
    name = "pictures_masked_band_lr_0.005_regularization_0.005_lines_columns_size_2x3_band_4_epoch_0.pth"
    shared = ["--data", "pictures", "--all", "--checkpoint", name]
    succeed("certify_cifar_band_masked.py", *shared, folder=folder)
    succeed("attack_cifar_band_masked.py", *shared, "--steps", 1, "--randomizations", 2, folder=folder)


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (CERTIFY, ["--checkpoint", "plain.pth"], "--checkpoint plain.pth: is not from a network"),
        (CERTIFY, ["--checkpoint", "odd.pth"], "describes a network that is not possible"),
        (CERTIFY, ["--checkpoint", NAME, "--size_to_certify", 29], "29: expected a patch that fits"),
        (CIFAR, ["--dataset", "folder", "--data", "ten", "--checkpoint", NAME], "has images of 3 × 28 × 28"),
        (CIFAR, ["--dataset", "folder", "--data", "three", "--checkpoint", NAME], "it has 10 classes"),
        ("certify_mnist_band.py", ["--checkpoint", COLUMN, "--band_size", 6], "4 pixels alone, not for Band of 6"),
        ("certify_mnist_row.py", ["--checkpoint", COLUMN], "alone, not for Row of 4"),
        ("train_mnist_band_masked.py", ["--size_to_train", 30], "--size_to_train 30: expected a patch that fits"),
        ("train_mnist_band_masked.py", ["--blocks", "1,1"], "--blocks 1,1: expected one number for each"),
        ("train_mnist_band_masked.py", ["--band_size", 40], "--band_size 40: expected a whole number from 1 to 28"),
    ],
)
def test_bad_input_is_one_clear_line(folder, capsys, script, options, message):
    about = torch.load(folder / "checkpoints" / NAME, weights_only=True)
    checkpoint.save({"net": {}, "acc": 0.0, "epoch": 0}, folder / "checkpoints" / "plain.pth")
    about["about"]["network"]["channels"] = [-1]
    checkpoint.save(about, folder / "checkpoints" / "odd.pth")
    capsys.readouterr()
    assert run_here(script, *options, folder=folder) == 2
    printed = capsys.readouterr().err
    assert printed.count("error:") == 1 and message in printed.splitlines()[-1], printed  # after a note, perhaps


def test_an_interrupted_run_comes_to_the_same_network(folder, tmp_path, monkeypatch):
    arguments = [*SMALL, "--size_to_train", 2, "--end_epoch", 2]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(folder / "data")
    succeed("train_mnist_band_masked.py", *arguments, folder=tmp_path / "whole")
    epoch_of = loop.train_epoch

    def stop_in_epoch_1(*given):
        if given[-1].epoch == 1:
            raise KeyboardInterrupt
        return epoch_of(*given)

    monkeypatch.setattr(loop, "train_epoch", stop_in_epoch_1)
    assert run_here("train_mnist_band_masked.py", *arguments, folder=tmp_path / "stopped") == 130
    monkeypatch.setattr(loop, "train_epoch", epoch_of)
    succeed("train_mnist_band_masked.py", *arguments, folder=tmp_path / "stopped")
    name = NAME.replace("epoch_0", "epoch_2")
    files = [torch.load(tmp_path / run / "checkpoints" / name, weights_only=True) for run in ("whole", "stopped")]
    assert all(torch.equal(files[0]["net"][key], files[1]["net"][key]) for key in files[0]["net"])


def test_a_resumed_run_takes_the_shape_from_its_checkpoint(folder, capsys):
    succeed("train_mnist_band_masked.py", "--resume", NAME, "--end_epoch", 1, "--subset", 32, folder=folder)
    assert f"resume_{NAME}.pth: worst pair test" in capsys.readouterr().out


def test_both_is_the_ablation_of_columns_and_rows():
    ablation = BandAndRow(5, 6, 2)
    shown = oracle.bands(5, 6, 2) + oracle.rows(5, 6, 2)
    assert [{tuple(pixel) for pixel in mask.nonzero().tolist()} for mask in ablation.masks()] == shown
    assert torch.equal(ablation.touched_by(Patch(2, 3)), oracle.touched(shown, 5, 6, (2, 3)))
