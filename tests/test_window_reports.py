"""Pages about hidden windows: against rows per image and saved answers, and what a map of places promises."""

import csv
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcert import result_format
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.classifiers import weak_spots
from patchcert.experiments import reporting, window_galleries
from patchcert.masking.answers import UNASKED, Answers
from patchcert.masking.noted import count_of, from_known, numbers_of, pairs_of
from patchcert.patch import Patch
from tests.helpers import succeed
from tests.test_attack_windows_script import COMMAND as ATTACK
from tests.test_imagenet_windows_script import COMMAND, SCRIPT, folder  # noqa: F401  a fixture
from tests.test_pictures import write_pictures
from tests.test_saved_answers import written_by_others

GOALS = ("--goal", "recover,alert", "--confidence", "strict,0.3")
SAID = ["recovery", "alarms, strict", "alarms, τ = 0.3"]
WINDOWS = HiddenWindows.for_patch(5, 5, Patch(2, 2), 2)


def gallery_in(place):
    """The gallery of the page in a folder, and the page."""
    record = json.loads((place / "report.json").read_text())
    assert result_format.flaw(record) is None
    ((run,), page) = record["runs"], (place / "index.html").read_text()
    return run["galleries"][0], page


def test_a_page_shows_what_the_windows_say(folder):  # noqa: F811
    written = ("--output", "run.json", "--per_image", "run.csv", "--save_votes", "votes.npz", "--report", "report")
    succeed(SCRIPT, *COMMAND, *GOALS, *written, folder=folder)
    gallery, page = gallery_in(folder / "report")
    with (folder / "run.csv").open() as file:
        every = list(csv.DictReader(file))
    size = {"2 × 2": "2", "3 × 2": "3x2"}[gallery["about"].split(", ")[0].removeprefix("patch ")]
    assert ", recovery, " in gallery["about"]
    rows = [row for row in every if row["size_to_certify"] == size]
    of_goals = [{int(row["index"]): row for row in rows[start : start + 12]} for start in (0, 12, 24)]
    assert len(gallery["images"]) == 12
    for image in gallery["images"]:
        seen, recovery = image["windows"], of_goals[0][image["index"]]
        said = [(int(of[image["index"]]["predicted"]), of[image["index"]]["certified"] == "True") for of in of_goals]
        assert seen["said"] == [[name, *found] for name, found in zip(SAID, said, strict=True)]
        assert (seen["asked"] < seen["questions"]) == (recovery["left_early"] == "True")
        numbers = map(int, recovery["dissenting"].split())  # of the 2 × 2 windows, row by row
        assert [window[:2] for window in seen["dissenting"]] == [
            [(20 - seen["dissenting"][0][2]) * (number // 2), (20 - seen["dissenting"][0][3]) * (number % 2)]
            for number in numbers
        ]
        assert bool(seen["weakest"]) != bool(seen["dissenting"])
        assert image["lead"] == min(seen["leads"]) <= float(recovery["lead"]) + 1e-4 and image["weak_spots"] is None
    assert {len(image["windows"]["dissenting"]) > 0 for image in gallery["images"]} == {True, False}
    assert page.count('class="spots"') == 12 and "It is a hint and no certificate" in page
    certified = [kept for image in gallery["images"] for *_, kept in image["windows"]["said"]]
    assert page.count('<li class="yes">') == sum(certified) > 0

    succeed("report.py", "run.json", "--out", "again", folder=folder)
    asked = ("--votes", "votes.npz", *GOALS, "--output", "votes.json", "--report", "votes")
    succeed("certify_votes.py", *asked, folder=folder)
    for place in ("again", "votes"):
        found, page = gallery_in(folder / place)
        assert found == gallery and page.count('class="spots"') == 12 and 'alt="Image' not in page


def test_a_file_of_others_gives_a_page(tmp_path):
    written_by_others(tmp_path / "votes.npz")
    succeed("certify_votes.py", "--votes", "votes.npz", *GOALS, "--report", "page", folder=tmp_path)
    gallery, _ = gallery_in(tmp_path / "page")
    assert [image["windows"]["questions"] for image in gallery["images"]] == [10] * 12


def test_rows_alone_give_a_page_of_areas_and_alarms(folder):  # noqa: F811
    about = (*COMMAND[:4], "--size_to_certify", "area:4", "--per_side", 2, "--goal", "alert")
    succeed(SCRIPT, *about, "--output", "run.json", "--per_image", "run.csv", "--report", "report", folder=folder)
    gallery, page = gallery_in(folder / "report")
    assert gallery["about"].startswith("patch any rectangle of at most 4 pixels, alarms, strict, ")
    outcomes = {image["index"]: image["outcome"] for image in gallery["images"]}
    assert "false alarm" in outcomes.values() and 'class="spots"' not in page and "dissenting" in page
    succeed("report.py", "run.json", "--out", "rows", folder=folder)
    rows, _ = gallery_in(folder / "rows")
    assert {image["index"]: image["outcome"] for image in rows["images"]} == outcomes
    assert all("windows" not in image for image in rows["images"])


def test_rows_of_which_only_some_have_leads_give_a_page(folder):  # noqa: F811
    asked = ("--patches", 2, "--goal", "alert", "--confidence", "0.5,strict")
    succeed(SCRIPT, *COMMAND[:4], *asked, "--output", "run.json", "--per_image", "run.csv", folder=folder)
    with (folder / "run.csv").open() as file:
        assert {(row["confidence"], bool(row["lead"])) for row in csv.DictReader(file)} == {("0.5", False), ("", True)}
    succeed("report.py", "run.json", "--out", "page", folder=folder)
    gallery, _ = gallery_in(folder / "page")
    assert ", alarms, " in gallery["about"] and len(gallery["images"]) == 12


def test_an_attack_that_is_left_as_files_gives_a_page(folder):  # noqa: F811
    """Without pictures, which only the network's own transform makes."""
    attack = (*ATTACK, "--size_of_attack", "2%", "--output", "run.json", "--per_image", "run.csv")
    succeed("attack_imagenet_windows.py", *attack, folder=folder)
    succeed("report.py", "run.json", "--out", "page", folder=folder)
    gallery, page = gallery_in(folder / "page")
    assert gallery["about"] == "patch 3 × 3" and len(gallery["images"]) == 12
    with (folder / "run.csv").open() as file:
        flipped = {int(row["index"]) for row in csv.DictReader(file) if row["flipped"] == "True"}
    assert {image["index"] for image in gallery["images"] if image["outcome"] == "flipped"} == flipped
    assert "<img" not in page


@pytest.mark.parametrize("made_by", [{"image_size": 20, "about": {"network": {"name": "small:network"}}}, {}])
def test_pictures_that_a_network_prepares_are_not_guessed(folder, made_by):  # noqa: F811
    own = {"dataset": "folder", "data": str(folder / "pets"), "image_channels": 3, "model": "small:network"}
    assert reporting.saved_pictures(own | made_by, torch.tensor([0])) is None
    write_pictures(folder / "mine" / "test", ("cat", "dog"), 1)
    resized = own | {"data": str(folder / "mine"), "image_size": 20, "about": {"run": {}}}
    assert reporting.saved_pictures(resized, torch.tensor([0])).shape == (1, 3, 20, 20)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_no_patch_changes_an_answer_where_the_map_says_so(seed, agreement):
    """An attacker who sets all answers of a network that sees the patch."""
    random = torch.Generator().manual_seed(seed)
    count = count_of(WINDOWS.count)
    classes = torch.randint(3, (count,), generator=random) * (torch.rand(count, generator=random) > agreement)
    known = Answers(classes, torch.rand(count, generator=random) + 0.1, torch.full((count,), 0.5), torch.zeros(count))
    predicted = from_known(WINDOWS.count, known, 0.0).predicted
    leads = torch.tensor(window_galleries.seen(WINDOWS, known, predicted, []).leads)
    spots = weak_spots.by_place(WINDOWS, Patch(2, 2), leads)
    covering = WINDOWS.covering(Patch(2, 2))
    for row, column in (spots > 0).nonzero().tolist():
        hidden = covering[:, row, column][pairs_of(WINDOWS.count)].any(dim=1)
        for _ in range(4):
            attacked = torch.where(hidden, classes, torch.randint(3, (count,), generator=random))
            now = Answers(attacked, *list(vars(known).values())[1:])
            assert from_known(WINDOWS.count, now, 0.0).predicted == predicted
    of_singles = window_galleries.seen(WINDOWS, known[: WINDOWS.count], predicted, []).leads
    for row, column in (weak_spots.by_place(WINDOWS, Patch(2, 2), torch.tensor(of_singles)) > 0).nonzero().tolist():
        hidden = covering[:, row, column]
        attacked = torch.where(hidden, classes[: WINDOWS.count], torch.randint(3, (WINDOWS.count,), generator=random))
        assert len(attacked.unique()) > 1 or attacked[0] == predicted, "all agree on another class, without an alarm"


def test_what_was_not_asked_makes_no_place_weaker():
    known = Answers.none(count_of(WINDOWS.count))
    first = torch.arange(WINDOWS.count)
    known.put(first, Answers(torch.zeros_like(first), first + 1.0, first * 0.1, torch.zeros(len(first))))
    pair = numbers_of(torch.tensor([[1, 2]]), WINDOWS.count)
    known.put(pair, Answers(torch.tensor([1]), torch.tensor([3.0]), torch.tensor([0.9]), torch.zeros(1)))
    seen = window_galleries.seen(WINDOWS, known, 0, [])
    assert seen.leads == [1.0, -3.0, -3.0, 4.0] and seen.asked == 5 < seen.questions == 10
    assert (known.classes == UNASKED).sum() == 5
    assert len(seen.weakest) == 2 and seen.dissenting == []


def test_confidences_have_no_map_of_places(folder):  # noqa: F811
    about = (*COMMAND[:4], "--size_to_certify", 2, "--per_side", 2, "--goal", "alert", "--confidence")
    for confidence, shown in (("strict", 12), (0.3, 0)):
        succeed(SCRIPT, *about, confidence, "--report", "report", folder=folder)
        assert gallery_in(folder / "report")[1].count('class="spots"') == shown
