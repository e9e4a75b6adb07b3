"""The scripts of double masking with hidden windows, run as people run them, against every pair hidden by hand."""

import csv
import json

import numpy as np
import pytest
import torch

from patchcert import checkpoint
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.arithmetic import RELATIVE_MARGINS
from patchcert.classifiers.masked import MaskedClassifier
from patchcert.data import named, splits
from patchcert.data.folders import load_folder
from patchcert.engines.columns import LinesNetwork
from patchcert.engines.joint import JointNetwork
from patchcert.experiments import attacking
from patchcert.masking.linked import LinkedMasking, masking_of
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.small_networks import cifar_resnet, network_of_copies
from tests import oracle
from tests.helpers import run_here, succeed
from tests.small_windows import NAME, PICTURES, TRAIN
from tests.test_linked import two_rounds_by_hand
from tests.test_pictures import write_pictures

JOINT = ["--checkpoint", "bands.pth", "--windows", NAME]
MARGIN = Margin.of_scores(1e-3, "float32")
CERTIFY, ATTACK = "certify_cifar_windows.py", "attack_cifar_windows.py"


@pytest.fixture(scope="module")
def folder(small_windows):
    return small_windows("windows")


def test_training_keeps_what_certifying_needs(folder):
    content = torch.load(folder / "checkpoints" / NAME, weights_only=True)
    sizes = {"window_size": 8, "per_side": 3}
    assert content["about"]["ablation"] == {"kind": "WindowPairs", "height": 16, "width": 16} | sizes
    assert content["about"]["network"] == {"name": "pooled"} and content["settings"]["tries"] == 3


def dissenting_by_hand(answers):
    """The numbers of those without which the answer is another than without most."""
    most = max(sorted(set(answers)), key=answers.count)
    return " ".join(str(number) for number, answer in enumerate(answers) if answer != most)


@pytest.mark.parametrize("arithmetic", [[], ["--amp"]])
def test_certifying_counts_what_the_definition_gives(folder, arithmetic):
    network = network_of_copies("pooled", classes=3).eval()
    network.load_state_dict(torch.load(folder / "checkpoints" / NAME, weights_only=True)["net"])
    shown = oracle.window_pairs(16, 16, 8, 3)
    pairs = list(map(set, oracle.pairs_and_singles(9)))
    assert len(shown) == 45 == len(pairs)
    images = load_folder(folder / "small", train=False, image_size=16).images / 255
    expected, spare = [], []  # how much the least lead of each image exceeds what rounding may change
    for image in images:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bool(arithmetic)):
            scores = network(oracle.encoded(image, shown)).double()
        table = torch.stack([torch.stack([scores[pairs.index({i, j})] for j in range(9)]) for i in range(9)])
        predicted = two_rounds_by_hand(table)
        expected.append((predicted, dissenting_by_hand(table.argmax(dim=2).diagonal().tolist())))
        leads = scores[:, [predicted]] - scores
        leads[:, predicted] = torch.inf
        rounding = RELATIVE_MARGINS["bfloat16" if arithmetic else "float32"] * scores.abs().amax(dim=1)
        spare.append(float((leads - rounding[:, None]).min()))
    margin = max(spare) / 2  # whatever the processor made of the weights, some image is certified
    written = ["--output", "run.json", "--per_image", "run.csv", "--numerical_margin", margin]
    succeed(CERTIFY, *PICTURES, *arithmetic, "--all", *written, "--checkpoint", NAME, folder=folder)
    record, rows = json.loads((folder / "run.json").read_text()), list(csv.DictReader((folder / "run.csv").open()))
    for row, (predicted, dissenting), least in zip(rows, expected, spare, strict=True):
        assert int(row["predicted"]) == predicted
        assert row["dissenting"] == dissenting
        assert (row["certified"] == "True") == (least > margin)
        assert 9 <= int(row["passes"]) <= 45 and (row["left_early"] == "True") <= (row["certified"] == "False")
        assert row["left_early"] == "True" or int(row["passes"]) == 45
    assert record["certified_correct"] + record["certified_wrong"] > 0
    assert record["passes"] == sum(int(row["passes"]) for row in rows) < 45 * len(rows)


WRITE = ["--output", "saved.json", "--per_image", "saved.csv"]
SAVE = [*WRITE, "--save_votes", "windows.npz"]


def counts_and_rows(folder):
    names = ("total", "correct", "certified_correct", "certified_wrong", "false_alarms")
    entries = json.loads((folder / "saved.json").read_text())["results"]
    rows = list(csv.DictReader((folder / "saved.csv").open()))
    return [[entry.get(name) for name in names] for entry in entries], [
        (row["index"], row["predicted"], row["certified"], row["dissenting"]) for row in rows
    ]


@pytest.mark.parametrize("arithmetic", [[], ["--amp"], ["--amp", "--numerical_margin", "measured"]])
def test_saved_answers_give_the_same_counts(folder, arithmetic):
    asked = ["--goal", "recover,alert", "--confidence", "strict,0,0.34,0.9", "--size_to_certify", "2,5"]
    succeed(CERTIFY, *PICTURES, *arithmetic, "--all", "--checkpoint", NAME, *asked, *SAVE, folder=folder)
    direct = counts_and_rows(folder)
    succeed("certify_votes.py", "--votes", "windows.npz", *asked, *WRITE, folder=folder)
    assert counts_and_rows(folder) == direct and len(direct[0]) == 10
    assert json.loads((folder / "saved.json").read_text())["not_known"] == [0] * 10
    two = ["--goal", "alert", "--patches", 2]
    succeed("certify_votes.py", "--votes", "windows.npz", *two, *WRITE, folder=folder)
    found = counts_and_rows(folder)
    succeed(CERTIFY, *PICTURES, *arithmetic, "--all", "--checkpoint", NAME, *two, *WRITE, folder=folder)
    assert counts_and_rows(folder) == found


def test_everything_is_asked_for_where_it_is_wished(folder):
    asked = ["--goal", "alert", "--ask_all", *SAVE]
    succeed(CERTIFY, *PICTURES, "--all", "--checkpoint", NAME, *asked, folder=folder)
    with np.load(folder / "windows.npz") as saved:
        assert (saved["counts"] == 1 + 45).all() and saved["rectangles"].tolist()[1] == [0, 8, 4, 12]
    succeed("certify_votes.py", "--votes", "windows.npz", *WRITE, folder=folder)
    recovered = counts_and_rows(folder)
    succeed(CERTIFY, *PICTURES, "--all", "--checkpoint", NAME, *SAVE, folder=folder)
    assert counts_and_rows(folder) == recovered


def test_a_report_shows_the_windows_of_saved_answers(folder):
    for asked, said in (["--patches", 1], "recovery"), (["--goal", "alert", "--patches", 2], "alarms, strict"):
        succeed(CERTIFY, *PICTURES, "--all", "--checkpoint", NAME, *asked, *SAVE, folder=folder)
        succeed("report.py", "saved.json", "--out", "page", folder=folder)
        (run,) = json.loads((folder / "page" / "report.json").read_text())["runs"]
        shown = {image["index"]: image["windows"] for image in run["galleries"][0]["images"]}
        assert len(shown) == 9
        for row in csv.DictReader((folder / "saved.csv").open()):
            windows = shown[int(row["index"])]
            assert windows["said"] == [[said, int(row["predicted"]), row["certified"] == "True"]]
            assert len(windows["dissenting"]) == len(row["dissenting"].split())


def test_attacks_flip_nothing_that_is_certified(folder):
    effort = ["--steps", 3, "--randomizations", 3, "--skip", 1, "--size_of_attack", 5, "--locations", "all"]
    succeed(CERTIFY, *PICTURES, "--output", "certified.json", "--checkpoint", NAME, folder=folder)
    succeed(ATTACK, *PICTURES, *effort, "--output", "attacked.json", "--checkpoint", NAME, folder=folder)
    certified, attacked = (json.loads((folder / f"{name}.json").read_text()) for name in ("certified", "attacked"))
    for count in ("total", "correct", "certified_correct"):
        assert certified[count] == attacked[count]
    assert attacked["certified_correct"] <= attacked["attacked_correct"]


HINTS = ("dissenting", "dissent_covers")


LINEAR = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    linear = nn.Linear(6 * 16 * 16, 3)
    for colour, weights in enumerate(linear.weight.data.view(3, 6, 256)):
        weights[colour] += 0.005
    return nn.Sequential(nn.Flatten(), linear).eval()
"""


def test_attacks_count_on_how_many_images_a_window_that_dissents_covers_the_patch(
    tmp_path, let_import, monkeypatch, capsys
):
    let_import(tmp_path, "linear", LINEAR)
    write_pictures(tmp_path / "small" / "test", ("cat", "dog", "eel"), 8, size=16)
    runs, columns_of = [], attacking._attack_columns
    monkeypatch.setattr(attacking, "_attack_columns", lambda clean, run: runs.append(run) or columns_of(clean, run))
    attack = ["--model", "linear:network", "--ablation", "window_pairs:8x3", "--size_of_attack", "4x5", "--skip", 1]
    effort = ["--all", "--steps", 6, "--step_size", 0.3, "--randomizations", 6]
    succeed("attack_masked.py", *PICTURES, *attack, *effort, *WRITE, folder=tmp_path)
    record, rows = (
        json.loads((tmp_path / "saved.json").read_text()),
        list(csv.DictReader((tmp_path / "saved.csv").open())),
    )
    (run,), windows = runs, oracle.windows(16, 16, 8, 3)
    shown = [oracle.rectangle(0, 0, 16, 16) - window for window in windows]
    flipped = [row for row in rows if row["flipped"] == "True"]
    for row, image in zip(flipped, run.findings.images[run.findings.flipped], strict=True):
        with torch.no_grad():
            answers = run.classifier.network(oracle.encoded(image, shown)).argmax(dim=1).tolist()
        assert row["dissenting"] == dissenting_by_hand(answers)
        patch = oracle.rectangle(int(row["row"]), int(row["column"]), 4, 5)
        covers = [patch <= windows[int(number)] for number in row["dissenting"].split()]
        assert (row["dissent_covers"] == "True") == any(covers)
    assert all(not row["dissenting"] and row["dissent_covers"] == "False" for row in rows if row not in flipped)
    dissenting, covering = (sum(row[name] not in ("", "False") for row in rows) for name in HINTS)
    assert record["where"] == {"attacked": len(flipped), "dissenting": dissenting, "covering": covering}
    assert 0 < covering < dissenting
    said = f"left a patch in {len(flipped)} images; on {dissenting} of them some windows dissent, and on {covering} one"
    assert said in capsys.readouterr().out


def test_training_goes_on_with_the_hardest_of_some_copies(folder):
    more = ["--tries", 2, "--easy_epochs", 1, "--augmentations", "random_flip,random_colours", "--resume", NAME]
    succeed(
        "train_cifar_windows.py", *PICTURES, "--lr", 0.02, "--end_epoch", 2, "--batch_size", 11, *more, folder=folder
    )
    (path,) = (folder / "checkpoints").glob("*epoch_2*.pth")
    content = torch.load(path, weights_only=True)
    assert content["about"]["ablation"]["window_size"] == 8 and content["epoch"] == 2
    assert content["settings"]["tries"] == 2 and content["settings"]["easy_epochs"] == 1


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        (CERTIFY, ["--size_to_certify", 6], "--size_to_certify 6: expected at most 5 × 5 pixels"),
        (ATTACK, ["--size_of_attack", "5x6"], "--size_of_attack 5x6: expected at most 5 × 5 pixels"),
        (CERTIFY, ["--per_side", 2, "--window_size", 7], "--per_side 2: so many windows of 7 pixels leave gaps"),
        (CERTIFY, ["--window_size", 17], "--window_size 17: expected a whole number from 1 to 16"),
    ],
)
def test_patches_that_no_window_holds_are_refused(folder, capsys, script, arguments, said):
    assert run_here(script, *PICTURES, *arguments, "--checkpoint", NAME, folder=folder) == 2
    assert said in capsys.readouterr().err


def test_no_tries_are_refused(folder, capsys):
    assert run_here("train_cifar_windows.py", *TRAIN, "--tries", 0, folder=folder) == 2
    assert "--tries: 0: expected" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["resnet14", "resnet14_half", "resnet50", "pooled"])
def test_folded_networks_give_the_same_logits(name):
    torch.manual_seed(0)
    network, images = network_of_copies(name), torch.rand(4, 6, 16, 16)
    network(torch.rand(16, 6, 16, 16))  # statistics
    with torch.no_grad():
        expected = network.eval()(images)
        network.fold()
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules())


def networks_and_images(folder):
    """Both networks of `JOINT`, and the test images of its pictures in [0, 1]."""
    bands = LinesNetwork.load(folder / "checkpoints" / "bands.pth")
    windows = network_of_copies("pooled", classes=3).eval()
    windows.load_state_dict(torch.load(folder / "checkpoints" / NAME, weights_only=True)["net"])
    images = load_folder(folder / "small", train=False, image_size=16).images / 255
    return bands, windows, images


def test_bands_and_windows_are_certified_and_attacked_together(folder, capsys):
    networks = [*JOINT, "--weight", 2, "--coarse_windows", "none", "--no-mirrored"]
    written = ["--output", "run.json", "--per_image", "run.csv", "--report", "report"]
    succeed("certify_cifar_joint.py", *networks, "--data", "small", "--all", *written, folder=folder)
    said = capsys.readouterr()
    assert "checkpoint" not in said.err and "double masking of their scores;" in said.out
    record, rows = json.loads((folder / "run.json").read_text()), list(csv.DictReader((folder / "run.csv").open()))
    assert record["config"]["about"]["run"]["ablation"]["kind"] == "BandsAndWindows"
    files = {"checkpoint": "bands.pth", "windows": NAME}
    digests = {option: checkpoint.sha256(folder / "checkpoints" / name) for option, name in files.items()}
    assert record["config"]["about"]["sha256"] == digests
    assert record["config"]["weight"] == 2 and record["certified_correct"] > 0
    bands, windows, images = networks_and_images(folder)
    masking = LinkedMasking(BandsAndWindows(16, 16, 3, 8, 3), Patch(5, 5))
    shown = oracle.window_pairs(16, 16, 8, 3)
    with torch.no_grad():
        hidden = torch.stack([windows(oracle.encoded(image, shown)) for image in images])
        verdicts = masking.verdicts(torch.cat([bands(images), 2 * hidden], dim=1), MARGIN)
    assert [int(row["predicted"]) for row in rows] == verdicts.predicted.tolist()
    assert [row["certified"] == "True" for row in rows] == verdicts.certified.tolist()
    effort = ["--steps", 2, "--randomizations", 2, "--skip", 1, "--all", "--data", "small", "--output", "attacked.json"]
    succeed("attack_cifar_joint.py", *networks, *effort, folder=folder)
    attacked = json.loads((folder / "attacked.json").read_text())
    for count in ("total", "correct", "certified_correct"):
        assert attacked[count] == record[count]
    assert attacked["where"]["attacked"] == attacked["correct"] - attacked["attacked_correct"]


def test_coarse_windows_are_hidden_first_and_mirror_images_asked(folder, capsys):
    networks = [*JOINT, "--coarse_windows", "11x2", "--sure", 1]
    options = [*networks, "--data", "small", "--all"]
    succeed("certify_cifar_joint.py", *options, "--output", "run.json", "--per_image", "run.csv", folder=folder)
    assert "double masking of their scores and those of mirror images;" in capsys.readouterr().out
    record, rows = json.loads((folder / "run.json").read_text()), list(csv.DictReader((folder / "run.csv").open()))
    ablation = BandsAndWindows(16, 16, 3, 11, 2, 8, 3)
    assert record["config"]["about"]["run"]["ablation"] == ablation.description()
    bands, windows, images = networks_and_images(folder)
    with torch.no_grad():
        scores = JointNetwork(bands.eval(), windows, ablation, weight=6.0, sure=1.0, mirrored=True)(images)
    verdicts = LinkedMasking(ablation, Patch(5, 5)).verdicts(scores, MARGIN)
    assert [int(row["predicted"]) for row in rows] == verdicts.predicted.tolist()
    assert [row["certified"] == "True" for row in rows] == verdicts.certified.tolist()
    effort = ["--steps", 2, "--randomizations", 2, "--skip", 4, "--output", "attacked.json"]
    succeed("attack_cifar_joint.py", *options, *effort, folder=folder)
    attacked = json.loads((folder / "attacked.json").read_text())
    assert attacked["certified_correct"] <= attacked["attacked_correct"] <= attacked["correct"]


@pytest.mark.parametrize("script", ["windows", "joint"])
def test_a_broken_certificate_ends_with_exit_code_3(folder, monkeypatch, capsys, script):
    """The defence answers otherwise than its certificates say: the attack asks the defence, and so it is found out."""
    predict = MaskedClassifier.predict
    monkeypatch.setattr(MaskedClassifier, "predict", lambda *arguments: (predict(*arguments) + 1) % 3)
    networks = [*JOINT, "--coarse_windows", "none"] if script == "joint" else ["--checkpoint", NAME, *PICTURES]
    effort = ["--steps", 1, "--randomizations", 1, "--skip", 1, "--all", "--data", "small", "--save_images", "broken"]
    assert run_here(f"attack_cifar_{script}.py", *networks, *effort, folder=folder) == 3
    assert "is certified, and was flipped: the counterexample is in broken/" in capsys.readouterr().err


@pytest.mark.parametrize("networks", [["--checkpoint", NAME], [*JOINT, "--coarse_windows", "11x2"]])
def test_alarms_of_windows_cost_one_pass_for_each(folder, networks):
    script, pictures = (CERTIFY, PICTURES) if "--windows" not in networks else ("certify_cifar_joint.py", PICTURES[2:4])
    shared = [*pictures, "--all", "--output", "run.json", "--per_image", "run.csv"]
    counts = {}
    for goal in ("recover", "alert", "recover,alert"):
        succeed(script, *networks, *shared, "--goal", goal, "--confidence", "strict,0.4", folder=folder)
        record = json.loads((folder / "run.json").read_text())
        entries = [
            {name: entry[name] for name in ("correct", "certified_correct", "certified_wrong")}
            for entry in record["results"]
        ]
        counts[goal] = entries, record["passes"]
    assert counts["recover,alert"][0] == counts["recover"][0] + counts["alert"][0]
    assert counts["alert"][1] < counts["recover"][1] < counts["recover,alert"][1]
    assert counts["recover"][0][0]["certified_correct"] <= counts["alert"][0][0]["certified_correct"] > 0
    two = ["--goal", "alert", "--patches", 2, "--report", "two"]
    succeed(script, *networks, *shared, *two, folder=folder)
    (run,) = json.loads((folder / "two" / "report.json").read_text())["runs"]
    leads = {int(row["index"]): float(row["lead"]) for row in csv.DictReader((folder / "run.csv").open())}
    for image in run["galleries"][0]["images"]:  # what was left early has a smaller lead than was seen
        assert image["lead"] <= leads[image["index"]] + 1e-3
        assert image["outcome"] != "certified" or image["lead"] == pytest.approx(leads[image["index"]], abs=1e-3)
    (against_two,) = json.loads((folder / "run.json").read_text())["results"]
    assert against_two["certified_correct"] == counts["recover"][0][0]["certified_correct"]


def test_digits_are_certified_and_attacked(tmp_path):
    """By windows alone and by windows and bands: in one test, as both need the network that takes longest to train."""
    brief = ["--dataset", "digits", "--end_epoch", 8, "--lr", 0.05, "--batch_size", 16, "--subset", 300, "--no-amp"]
    succeed(
        "train_mnist_windows.py",
        *brief,
        "--tries",
        1,
        "--filters_lr",
        0,
        "--window_size",
        12,
        "--per_side",
        3,
        folder=tmp_path,
    )
    small = ["--channels", "8,16", "--blocks", "0,0", "--band_weight", 1]
    succeed("train_mnist_band_masked.py", *brief, *small, folder=tmp_path)
    for kind in ("windows", "masked_band"):
        (path,) = (tmp_path / "checkpoints").glob(f"digits_{kind}_*.pth")
        path.rename(tmp_path / "checkpoints" / f"{kind}.pth")
    images, _ = next(splits.choose_half(named.load("digits", tmp_path, train=False), test=False).batches(32))
    windows, shown = cifar_resnet("resnet14_half", channels=2).eval(), oracle.window_pairs(28, 28, 12, 3)
    windows.load_state_dict(torch.load(tmp_path / "checkpoints" / "windows.pth", weights_only=True)["net"])
    bands = LinesNetwork.load(tmp_path / "checkpoints" / "masked_band.pth")
    with torch.no_grad():
        hidden = torch.stack([windows(oracle.encoded(image, shown)) for image in images])
        both = torch.cat([bands(images), 5 * hidden], dim=1)
    networks = ["--checkpoint", "windows.pth"]
    hold_digits(tmp_path, "windows", networks, masking_of(WindowPairs(28, 28, 12, 3), Patch(4, 4)), hidden)
    networks = ["--checkpoint", "masked_band.pth", "--windows", "windows.pth", "--coarse_windows", "none"]
    hold_digits(tmp_path, "joint", networks, masking_of(BandsAndWindows(28, 28, 4, 12, 3), Patch(4, 4)), both)


def hold_digits(folder, script, networks, masking, scores):
    """Certified is what `masking` finds in these scores; every 16th digit is attacked."""
    limit = ["--size_to_certify", 4, "--limit", len(scores)]
    written = ["--output", "run.json", "--per_image", "run.csv"]
    succeed(f"certify_mnist_{script}.py", *networks, *limit, *written, folder=folder)
    record, rows = json.loads((folder / "run.json").read_text()), list(csv.DictReader((folder / "run.csv").open()))
    verdicts = masking.verdicts(scores, MARGIN)
    assert [int(row["predicted"]) for row in rows] == verdicts.predicted.tolist()
    assert [row["certified"] == "True" for row in rows] == verdicts.certified.tolist()
    assert record["certified_correct"] > 0 and not verdicts.certified.all()
    effort = ["--size_of_attack", 4, "--steps", 2, "--randomizations", 2, "--skip", 16, "--output", "attacked.json"]
    succeed(f"attack_mnist_{script}.py", *networks, *effort, folder=folder)
    attacked = json.loads((folder / "attacked.json").read_text())
    assert attacked["certified_correct"] <= attacked["attacked_correct"] <= attacked["correct"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint", "bands.pth", "--windows", "bands.pth"], "expected a checkpoint of train_*_windows.py"),
        (["--checkpoint", NAME, "--windows", NAME], "expected a checkpoint of train_*_band_masked.py"),
        (["--checkpoint", "bands.pth", "--windows", "none.pth"], "--windows none.pth: no such checkpoint"),
        (["--checkpoint", "bands.pth"], "--windows"),
        ([*JOINT, "--patches", 2], "--patches 2: expected 1"),
        ([*JOINT, "--weight", 0], "--weight: 0: expected"),
        ([*JOINT, "--weight", 11], "--weight 11.0: expected at most 10"),
        ([*JOINT, "--sure", 0.5], "--sure 0.5: expected at least 1"),
        (
            ["--checkpoint", "bands.pth", "--windows", NAME, "--coarse_windows", 11],
            "--coarse_windows: 11: expected WxK",
        ),
        (
            ["--checkpoint", "bands.pth", "--windows", NAME, "--coarse_windows", "17x2"],
            "17: expected a whole number from",
        ),
    ],
)
def test_other_files_are_refused(folder, capsys, arguments, said):
    assert run_here("certify_cifar_joint.py", "--data", "small", *arguments, folder=folder) == 2
    assert said in capsys.readouterr().err
