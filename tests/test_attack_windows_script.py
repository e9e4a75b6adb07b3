"""attack_imagenet_windows.py as a script: a network of the user's own, as it is, on pictures in a folder."""

import json
import re
import sys
from collections import Counter

import pytest
import torch
from torchvision.transforms.v2.functional import pil_to_tensor

from patchcert import HiddenWindows, Patch, PlainNetwork, WindowMaskedClassifier
from patchcert.attacks import windows
from patchcert.classifiers import window_masked
from patchcert.data.decoding import decode
from patchcert.experiments import attacking_windows
from patchcert.pretrained.preparation import Preparation
from tests.helpers import run_here, succeed, succeed_in_two_processes
from tests.test_imagenet_windows_script import folder, rows_of
from tests.test_pictures import write_pictures

__all__ = ["folder"]

SCRIPT = "attack_imagenet_windows.py"

COMMAND = ("--model", "small:network", "--data", "pets", "--size_of_attack", "5", "--per_side", 2, "--skip", 1)
COMMAND += ("--randomizations", 2, "--steps", 4, "--step_size", 0.3)


@pytest.mark.parametrize("goal", [("recover",), ("alert",), ("alert", "--confidence", 0.9)])
def test_what_flips_is_counted_beside_what_is_certified(folder, capsys, goal):
    files = ("--output", "found.json", "--per_image", "found.csv", "--save_images", "found")
    succeed(SCRIPT, *COMMAND, "--goal", *goal, *files, folder=folder)
    record, rows = json.loads((folder / "found.json").read_text()), rows_of(folder / "found.csv")
    right = [row for row in rows if row["predicted"] == row["label"]]
    flipped = [row for row in rows if row["flipped"] == "True"]
    assert record["kind"] == "attack" and record["total"] == len(rows) == 12
    assert record["correct"] == len(right) == record["where"]["attacked"] > 0
    assert record["attacked_correct"] == len(right) - len(flipped)
    assert record["certified_correct"] == sum(row["certified"] == "True" for row in right) <= record["attacked_correct"]
    assert record["where"]["covering"] == sum(row["dissent_covers"] == "True" for row in rows)
    assert record["where"]["dissenting"] == sum(row["dissenting"] != "" for row in rows)
    assert record["results"][0]["goal"] == goal[0]
    assert all(row["predicted_after"] != row["label"] and int(row["predicted_after"]) >= 0 for row in flipped)
    assert len(list((folder / "found").glob("image_*_attacked.png"))) == len(flipped)
    assert "this hints at where the patch is, but it is no certificate" in capsys.readouterr().out


def test_the_hint_is_what_the_attacked_pictures_themselves_show(folder, monkeypatch):
    """A window counts if without it the attacked picture is answered otherwise, and the whole patch lies in it."""
    attempts, call = [], windows.WindowAttack.__call__

    def noted(self, *given):
        attempts.append((self.classifier, call(self, *given)))
        return attempts[-1][1]

    monkeypatch.setattr(windows.WindowAttack, "__call__", noted)
    succeed(SCRIPT, *COMMAND, "--per_image", "found.csv", folder=folder)
    expected = []
    for classifier, attempt in attempts:
        top, left = divmod(attempt.place, 16)
        each = torch.arange(4)[:, None].expand(4, 2)
        answers = classifier.logits(attempt.image.expand(4, -1, -1, -1), each).argmax(1)
        dissent = answers != answers.bincount().argmax()
        holds = [
            a <= top and top + 5 <= b and c <= left and left + 5 <= d for a, b, c, d in classifier.windows.rectangles
        ]
        expected.append((dissent.nonzero().flatten().tolist(), bool((dissent & torch.tensor(holds)).any())))
    rows = [row for row in rows_of(folder / "found.csv") if row["attacked"] == "True"]
    found = [(list(map(int, row["dissenting"].split())), row["dissent_covers"] == "True") for row in rows]
    assert found == expected
    assert {covers for _, covers in expected} == {True, False}


@pytest.mark.parametrize("goal", ["recover", "alert"])
def test_clean_pictures_are_asked_about_each_pair_of_windows_once(folder, monkeypatch, goal):
    clean, asked = set(), Counter()
    logits = window_masked.WindowMaskedClassifier._logits

    def counted(self, images, pairs):
        pictures = [picture.numpy().tobytes() for picture in images]
        if isinstance(self, window_masked.OneImageAsked):
            clean.update(pictures)
        asked.update(zip(pictures, map(tuple, pairs.tolist()), strict=True))
        return logits(self, images, pairs)

    monkeypatch.setattr(window_masked.WindowMaskedClassifier, "_logits", counted)
    succeed(SCRIPT, *COMMAND, "--goal", goal, "--output", "found.json", folder=folder)
    of_clean = {question: count for question, count in asked.items() if question[0] in clean}
    assert set(of_clean.values()) == {1} and len(clean) == 12
    right = json.loads((folder / "found.json").read_text())["correct"]
    assert right > 0 and len(of_clean) >= 12 * 4 + (right * 6 if goal == "recover" else 12)


def test_the_pixels_of_a_share_are_named(folder, capsys):
    """2 % of 20 × 20 pixels are 8 of them, which 3 × 3 hold."""
    found = {}
    for size in ("2%", "3"):
        files = ("--per_image", f"{size}.csv", "--output", f"{size}.json")
        succeed(SCRIPT, *COMMAND, "--size_of_attack", size, *files, folder=folder)
        words = {"2%": "patch 2% (3 × 3)", "3": "patch 3 × 3"}[size]
        assert f"; {words} where windows come nearest to failing, " in capsys.readouterr().out
        assert json.loads((folder / f"{size}.json").read_text())["config"]["size_of_attack"] == 3
        found[size] = (folder / f"{size}.csv").read_text()
    assert found["2%"] == found["3"]


def test_certify_says_the_same_of_clean_pictures(folder):
    succeed(SCRIPT, *COMMAND, "--per_image", "attacked.csv", folder=folder)
    asked = ("--model", "small:network", "--data", "pets", "--size_to_certify", 5, "--per_side", 2)
    succeed("certify_imagenet_windows.py", *asked, "--per_image", "certified.csv", folder=folder)
    attacked, certified = rows_of(folder / "attacked.csv"), rows_of(folder / "certified.csv")
    for name in ("index", "label", "predicted", "certified"):
        assert [row[name] for row in attacked] == [row[name] for row in certified]


def test_what_batches_change_has_to_be_within_the_margin(folder, capsys):
    command = (*COMMAND, "--model", "small:of_few", "--steps", 1)
    assert run_here(SCRIPT, *command, folder=folder) == 2
    assert "--numerical_margin auto: expected 0.0018 or more, since the network computes" in capsys.readouterr().err
    succeed(SCRIPT, *command, "--numerical_margin", 0.002, folder=folder)


def test_two_processes_find_what_one_does(folder):
    succeed(SCRIPT, *COMMAND, "--per_image", "one.csv", folder=folder)
    succeed_in_two_processes(SCRIPT, *COMMAND, "--per_image", "two.csv", folder=folder)
    assert (folder / "one.csv").read_text() == (folder / "two.csv").read_text()


def test_the_same_command_goes_on_where_it_was_interrupted(folder, monkeypatch):
    files = ("--output", "found.json", "--per_image", "found.csv")
    succeed(SCRIPT, *COMMAND, "--per_image", "whole.csv", folder=folder)
    seen, call = [], windows.WindowAttack.__call__

    def interrupted(self, image, label, index, asked):
        seen.append(index)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return call(self, image, label, index, asked)

    with monkeypatch.context() as patched:
        patched.setattr(windows.WindowAttack, "__call__", interrupted)
        assert run_here(SCRIPT, *COMMAND, *files, folder=folder) != 0
    again = []
    monkeypatch.setattr(windows.WindowAttack, "__call__", lambda *given: again.append(given[3]) or call(*given))
    succeed(SCRIPT, *COMMAND, *files, folder=folder)
    assert again[0] == seen[2] and not set(again) & set(seen[:2])
    assert (folder / "found.csv").read_text() == (folder / "whole.csv").read_text()


def test_a_broken_certificate_ends_with_exit_code_3(folder, monkeypatch, capsys):
    rows = attacking_windows.Goal.rows

    def all_certified(*given):
        found = rows(*given)
        return found | {"certified": torch.ones_like(found["certified"])}

    monkeypatch.setattr(attacking_windows.Goal, "rows", all_certified)
    assert run_here(SCRIPT, *COMMAND, "--save_images", "kept", folder=folder) == 3
    assert "is certified, and was flipped: the counterexample is in kept" in capsys.readouterr().err
    (path,) = (folder / "kept").glob("counterexample_*.pt")
    found = torch.load(path, weights_only=True)
    top, left, height, width = found["patch"]
    differs = (found["clean"] != found["attacked"])[:]
    assert differs.any()
    differs[:, top : top + height, left : left + width] = False
    assert not differs.any()


def test_pictures_are_judged_in_the_arithmetic_of_the_attack(folder, monkeypatch):
    judged_with, predict = [], attacking_windows.WindowMaskedClassifier.predict

    def watched(classifier, images, **asked):
        judged_with.append(torch.is_autocast_enabled("cpu"))
        return predict(classifier, images, **asked)

    monkeypatch.setattr(attacking_windows.WindowMaskedClassifier, "predict", watched)
    succeed(SCRIPT, *COMMAND, "--amp", "--save_images", "found", folder=folder)
    assert list((folder / "found").glob("image_*_attacked.png")) and all(judged_with)


def test_pictures_of_jpegs_are_saved_pixel_for_pixel_and_the_jpegs_are_left_alone(folder, capsys):
    write_pictures(folder / "photos", ("cat", "dog", "eel"), 4, size=23, suffix="jpg")
    before = {path: path.read_bytes() for path in sorted((folder / "photos").rglob("*.jpg"))}
    files = ("--per_image", "found.csv", "--save_images", "found")
    succeed(SCRIPT, *COMMAND, "--data", "photos", *files, folder=folder)
    assert {path: path.read_bytes() for path in sorted((folder / "photos").rglob("*")) if path.is_file()} == before
    network, still_wrong = sys.modules["small"].network(), 0
    prepared = Preparation.of(network.preparation)
    classifier = WindowMaskedClassifier(PlainNetwork(network), HiddenWindows.for_patch(20, 20, Patch(5, 5), 2))
    flipped = [row for row in rows_of(folder / "found.csv") if row["flipped"] == "True"]
    for row in flipped:
        index, top, left = (int(row[name]) for name in ("index", "row", "column"))
        saved = [folder / "found" / f"image_{index:05d}_{name}.png" for name in ("clean", "attacked")]
        clean, attacked = (pil_to_tensor(decode(path, "RGB")) for path in saved)
        assert clean.equal(prepared.pixels(decode(list(before)[index], "RGB"))), "what the network was shown"
        still_wrong += int(classifier.predict(attacked[None])) != int(row["label"])
        assert not clean.equal(attacked)
        clean[:, top : top + 5, left : left + 5] = attacked[:, top : top + 5, left : left + 5]
        assert clean.equal(attacked), "nothing but the patch has changed"
    said = rf"{len(flipped)} flipped images; rounded to 8 bits, {still_wrong} of them are still classified wrongly"
    assert still_wrong and re.search(said, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (["--size_of_attack", "20"], "--size_of_attack 20: expected a patch smaller than the image"),
        (["--size_of_attack", "1%,2%"], "1%,2%: expected one size, such as 32, 2x8 or 2%"),
        (["--size_of_attack", "area:9"], "area:9: expected one size"),
        (["--confidence", "0.1,0.5"], "0.1,0.5: expected a number from 0 to 1"),
        (["--goal", "win"], "invalid choice: 'win'"),
        (["--compile"], "--compile True: expected none"),
    ],
)
def test_wrong_use_is_said_in_one_line(folder, capsys, arguments, right):
    assert run_here(SCRIPT, *COMMAND, *arguments, folder=folder) == 2
    assert right in capsys.readouterr().err.strip().splitlines()[-1]
