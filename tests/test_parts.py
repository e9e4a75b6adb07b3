"""Certifying all patch sizes in one run where a file with windows that ships knows another one for larger patches."""

import csv
import json
import signal

import pytest

from patchcert import checkpoint, journal, stopping
from patchcert.ablations.kinds import described
from patchcert.classifiers.masked_goals import MaskedLook
from patchcert.experiments import networks
from patchcert.option_values import one_patch
from patchcert.reports.points import points_of
from patchcert.zoo import table
from patchcert.zoo.table import Model, Variant
from tests.helpers import run_here, succeed
from tests.small_windows import NAME

SCRIPT = "certify_cifar_joint.py"
JOINED = ["--checkpoint", "bands.pth", "--windows", "small.pth"]
PICTURES = ["--data", "small", "--all", "--batch_size", 4]
WRITE = ["--output", "run.json", "--per_image", "run.csv"]
OF_SMALL = {"weight": 2.0, "coarse_windows": (12, 2), "sure": 1.0, "mirrored": True}
OF_LARGER = {"weight": 3.0, "coarse_windows": None, "sure": 4.0, "mirrored": False}
SMALL = ["--weight", 2, "--coarse_windows", "12x2", "--sure", 1, "--mirrored"]
LARGER = ["--windows", "larger.pth", "--weight", 3, "--coarse_windows", "none", "--no-mirrored"]


@pytest.fixture
def folder(small_windows, monkeypatch):
    """A folder with networks that "ship": one for bands, and two for windows, which hold up to 3 × 3 and 5 × 5."""
    folder = small_windows("parts")
    kept = folder / "checkpoints"
    content = checkpoint.read("windows", kept / NAME)
    checkpoint.save(content, kept / "larger.pth")
    content["about"]["ablation"] |= {"window_size": 6, "per_side": 4}
    checkpoint.save(content, kept / "small.pth")
    variants = [
        Variant(holds, "", (), bands="bands.pth", windows=file, **settings)
        for holds, file, settings in ((3, "small.pth", OF_SMALL), (5, "larger.pth", OF_LARGER))
    ]
    monkeypatch.setattr(table, "models", lambda: {"both": Model("both", "cifar10", "", tuple(variants))})
    monkeypatch.setattr(checkpoint, "SHIPPED", kept)
    return folder


def certify(folder, *options):
    """The record and the rows per image of a run."""
    succeed(SCRIPT, *PICTURES, *options, *WRITE, folder=folder)
    return json.loads((folder / "run.json").read_text()), list(csv.DictReader((folder / "run.csv").open()))


def test_each_size_is_certified_as_in_a_run_of_its_own_file(folder):
    record, rows = certify(folder, *JOINED, "--size_to_certify", "5,1-2,4")
    small, small_rows = certify(folder, *JOINED, *SMALL, "--size_to_certify", "1-2")
    larger, larger_rows = certify(folder, *JOINED, *LARGER, "--size_to_certify", "5,4")
    both = {entry["size_to_certify"]: entry for entry in small["results"] + larger["results"]}
    assert record["results"] == [both[size] for size in (5, 1, 2, 4)]
    assert rows == [row for size in "5124" for row in small_rows + larger_rows if row["size_to_certify"] == size]
    assert all(len({row["lead"] for row in rows if row["index"] == index}) == 4 for index in "012")
    assert record["passes"] == small["passes"] + larger["passes"]
    assert [count["total"] for count in record["test_half"]] == [5] * 4
    config = record["config"]
    assert not config.keys() & {"windows", "settings", *networks.SETTINGS} and config["size_to_certify"] == [5, 1, 2, 4]
    for part, alone, settings in zip(config["parts"], (larger, small), (OF_LARGER, OF_SMALL), strict=True):
        assert part["size_to_certify"] == alone["config"]["size_to_certify"]
        assert part["windows"] == alone["config"]["windows"]
        assert part["about"] == {name: alone["config"]["about"][name] for name in ("sha256", "run")}
        coarse = settings["coarse_windows"]
        of_part = settings | {"coarse_windows": list(coarse) if coarse else None}
        assert {name: part[name] for name in networks.SETTINGS} == of_part
        assert {name: alone["config"][name] for name in networks.SETTINGS} == of_part


def test_no_size_is_certified_by_windows_that_do_not_hold_it(folder, capsys):
    record, _ = certify(folder, *JOINED, "--size_to_certify", "1-5,2x4,3x1")
    parts = record["config"]["parts"]
    assert [part["size_to_certify"] for part in parts] == [[1, 2, 3, "3x1"], [4, 5, "2x4"]]
    for part in parts:
        for size in part["size_to_certify"]:
            described(part["about"]["run"]["ablation"]).require_fits("patch", one_patch(str(size)))
    for size, said in (
        ("6", "expected at most 5 × 5 pixels"),
        ("2x6", "expected at most 5 × 5 pixels"),
        ("area:4", "areas are for bands, or windows, alone"),
    ):
        assert run_here(SCRIPT, *PICTURES, *JOINED, "--size_to_certify", f"1,{size}", folder=folder) == 2
        assert said in capsys.readouterr().err


def test_shares_of_the_pixels_are_certified_by_windows_that_hold_their_squares(folder, capsys):
    """3 and 9 % of 16 × 16 pixels, 3 × 3 and 5 × 5."""
    record, rows = certify(folder, *JOINED, "--size_to_certify", "9%,3%")
    said = capsys.readouterr().out
    assert "; patch 9% (5 × 5); " in said and "; patch 3% (3 × 3); " in said
    assert record["config"]["size_to_certify"] == ["9%", "3%"]
    assert [part["size_to_certify"] for part in record["config"]["parts"]] == [[5], [3]]
    same, expected = certify(folder, *JOINED, "--size_to_certify", "5,3")
    assert record["results"] == same["results"] and rows == expected
    assert len({point.copies for point in points_of("run", record)}) == 2


def test_what_is_given_holds_for_all_files(folder):
    record, _ = certify(folder, *JOINED, "--size_to_certify", "1,5", "--weight", 4, "--no-mirrored")
    small, larger = record["config"]["parts"]
    assert (small["weight"], small["mirrored"], small["coarse_windows"]) == (4.0, False, [12, 2])
    assert (larger["weight"], larger["mirrored"], larger["coarse_windows"]) == (4.0, False, None)
    alone, _ = certify(folder, "--checkpoint", "bands.pth", "--windows", NAME, "--coarse_windows", "none")
    assert (alone["config"]["weight"], alone["config"]["mirrored"]) == (10.0, True)  # the script's, of files unknown


def test_a_run_that_was_interrupted_in_its_second_part_goes_on_there(folder, monkeypatch, capsys):
    command = [*JOINED, "--size_to_certify", "2,5", "--report", "report"]
    whole, rows = certify(folder, *command)
    monkeypatch.setattr(journal, "EVERY", 0)
    done, look = [], MaskedLook.__call__

    def stopping_at(number):
        def counted(ask, images, noted):
            if len(done) == number:
                raise stopping.Stopped(signal.SIGINT)
            done.append(len(images))
            return look(ask, images, noted)

        done.clear()
        monkeypatch.setattr(MaskedLook, "__call__", counted)

    stopping_at(4)  # of three batches for each part
    assert run_here(SCRIPT, *PICTURES, *command, *WRITE, folder=folder) == 130
    assert "the same command continues from here" in capsys.readouterr().err
    changed = ["--checkpoint", "bands.pth", "--windows", "larger.pth", *command[4:]]
    assert run_here(SCRIPT, *PICTURES, *changed, *WRITE, folder=folder) == 2
    assert "is of an interrupted run with" in capsys.readouterr().err
    stopping_at(None)
    record, again = certify(folder, *command)
    assert again == rows and done == [4, 1] and not list(folder.glob("*.partial"))
    for ended in (record, whole):
        del ended["seconds"], ended["environment"]
    assert record == whole


def test_a_page_shows_a_size_by_the_copies_that_answered_it(folder):
    succeed(SCRIPT, *PICTURES, *JOINED, "--size_to_certify", "2,5", "--report", "page", *WRITE, folder=folder)
    (run,) = json.loads((folder / "page" / "report.json").read_text())["runs"]
    (gallery,) = run["galleries"]
    text = (folder / "page" / "index.html").read_text()
    for part in run["result"]["config"]["parts"]:
        own = gallery["about"].startswith(f"patch {part['size_to_certify'][0]} × ")
        copies = str(described(part["about"]["run"]["ablation"]))
        assert text.count(copies) == (2 if own else 1)  # above the table stand those of all sizes
    succeed("report.py", "run.json", "--out", "later", folder=folder)
    (later,) = json.loads((folder / "later" / "report.json").read_text())["runs"]
    assert later["galleries"][0]["about"] == gallery["about"]
    words = [point.copies for point in points_of("run", run["result"])]
    assert words == [f"bands and hidden windows of {sizes}" for sizes in ("12 × 12", "8 × 8")]


def test_an_attack_is_on_the_file_that_holds_its_patch(folder):
    effort = ["--steps", 1, "--randomizations", 1, "--skip", 4, "--output", "attacked.json"]
    for patch, file, weight in (("3", "small.pth", 2.0), ("4x5", "larger.pth", 3.0), ("9%", "larger.pth", 3.0)):
        succeed("attack_cifar_joint.py", *PICTURES, *JOINED, *effort, "--size_of_attack", patch, folder=folder)
        config = json.loads((folder / "attacked.json").read_text())["config"]
        assert (config["windows"], config["weight"]) == (file, weight)
