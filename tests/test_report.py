"""Pages that people look at: what is on them against the results, rows and certificates that they are about."""

import csv
import html
import json
import re
import shutil
import tempfile
from collections import Counter

import pytest
import torch
from PIL import Image

from patchcert import result_format
from patchcert.ablations.ablation import Band, BandAndRow
from patchcert.ablations.windows import BandsAndWindows
from patchcert.experiments import reporting
from patchcert.reports import drawing, figures
from patchcert.reports.exhibits import MOST_IMAGES, OUTCOMES, Decisions
from tests.helpers import ROOT, run_here, succeed, write_idx_files
from tests.networks import save_random_network

NET = ["--checkpoint", "net.pth", "--band_size", 4]
QUESTIONS = ["--size_to_certify", "2,4,3x6", "--threshold", "0.2,0.3", "--certificate", "margin,exact"]
ASKED = ["--all", "--limit", 80, *QUESTIONS]
WRITTEN = ["--output", "run.json", "--per_image", "run.csv", "--save_votes", "votes.npz"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a network whose answers are the labels of three digits in four, certified with a report."""
    folder = tmp_path_factory.mktemp("report")
    raw = folder / "data" / "MNIST" / "raw"
    write_idx_files(raw)
    save_random_network(folder)
    succeed("certify_mnist_band.py", *NET, "--all", "--threshold", 0.3, "--per_image", "first.csv", folder=folder)
    answers = [int(row["predicted"]) for row in csv.DictReader((folder / "first.csv").open())]
    labels = [(answer + (number % 4 == 0)) % 10 for number, answer in enumerate(answers)]
    file = raw / "t10k-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:8] + bytes(labels))
    succeed("certify_mnist_band.py", *NET, *ASKED, *WRITTEN, "--report", "report", folder=folder)
    return folder


def report_in(place):
    """The numbers of the page in a folder, which must be of the format."""
    record = json.loads((place / "report.json").read_text())
    assert result_format.flaw(record) is None
    return record["runs"]


def rows_of(table, **asked):
    """Rows per image by index, of the question that has these values."""
    rows = csv.DictReader(table.open())
    return {int(row["index"]): row for row in rows if all(row[name] == str(value) for name, value in asked.items())}


def outcome(row):
    if row["predicted"] != row["label"]:
        return "wrong, certified" if row["certified"] == "True" else "wrong"
    return "certified" if row["certified"] == "True" else "uncertified"


def test_the_gallery_says_what_the_rows_say(folder):
    ((run,), page) = report_in(folder / "report"), (folder / "report" / "index.html").read_text()
    (gallery,) = run["galleries"]
    written = json.loads((folder / "run.json").read_text())
    assert run["result"]["results"] == written["results"]
    (counted,) = re.findall("Counted in float32, engine windowed, by (.+)[.]</p>", page)
    assert [html.unescape(counted)] == written["arithmetic"]["processors"]
    size, threshold, kind = re.fullmatch(r"patch (.+), θ = (.+), (\w+) certificate", gallery["about"]).groups()
    patch = size.split(" × ")[0] if size[0] == size[-1] else size.replace(" × ", "x")
    rows = rows_of(folder / "run.csv", size_to_certify=patch, threshold=threshold, certificate=kind)
    assert gallery["total"] == len(rows) == 80 and len(gallery["images"]) == MOST_IMAGES
    for image in gallery["images"]:
        row = rows[image["index"]]
        assert (str(image["label"]), str(image["predicted"])) == (row["label"], row["predicted"])
        assert image["outcome"] == outcome(row)
        least = min(lead for line in image["weak_spots"] for lead in line)
        top, left, *_ = image["weakest"]
        assert least == image["lead"] == image["weak_spots"][top][left]
        assert (least >= 0) == (row["certified"] == "True")
        assert f'alt="Image {image["index"]} of class {row["label"]}' in page
    assert Counter(image["outcome"] for image in gallery["images"])["certified"] < 80
    leads = [abs(image["lead"]) for image in gallery["images"]]
    assert leads == sorted(leads)


def test_the_table_is_read_without_a_manual(folder):
    """The shares stand first, sizes have two sides, and what headings and certificates mean stands on the page."""
    page = (folder / "report" / "index.html").read_text()
    headings = re.findall(r"<th .*?<button[^>]*>(.*?)</button>", page)
    assert headings[:3] == ["clean", "certified", "patch"] and {"θ", "s", "certificate"} < set(headings)
    sizes = re.findall(r'data-value="([^"]*)">\1</td>', page)
    assert {"2 × 2", "4 × 4", "3 × 6"} < {size.replace("\u00a0", " ") for size in sizes} and "3x6" not in page
    explained = re.findall(r"<dt>(.*?)</dt><dd>(.+?)</dd>", page)
    assert [word for word, _ in explained] == [*headings, "margin", "exact", "copy", "lead", "weak spot"]


def test_a_colour_means_one_thing():
    ours = (drawing.BROKEN, drawing.WEAK, drawing.MARKED, drawing.PREDICTED, drawing.LABEL, drawing.OTHERS)
    used = [*("#{:02X}{:02X}{:02X}".format(*colour) for colour in ours), *figures.OUTCOMES.values()]
    assert figures.OUTCOMES.keys() == OUTCOMES.keys() and len(set(used)) == len(used)


def test_kinds_of_copies_are_told_apart():
    assert reporting.borders_of(Band(8, 8, 3)).tolist() == []
    assert reporting.borders_of(BandAndRow(8, 8, 3)).tolist() == [8]
    assert reporting.borders_of(BandsAndWindows(8, 8, 3, 5, 2)).tolist() == [8, 16]


def test_the_page_needs_nothing_else(folder):
    page = (folder / "report" / "index.html").read_text()
    assert len(page) < 5_000_000
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)|@import|url\((?!#)|https?://(?!www\.w3\.org)""", page)
    assert page.count("<img") == page.count(' alt="') > 3 * MOST_IMAGES - 1
    pictures = [*(folder / "report" / "gallery").glob("*.png"), *(folder / "report" / "figures").glob("*.png")]
    assert {"patch_size.png", "threshold.png", "leads_0.png"} < {path.name for path in pictures}
    for path in pictures:
        with Image.open(path) as picture:
            picture.verify()
    assert len(pictures) == MOST_IMAGES + 3


def test_saved_votes_give_the_same_gallery(folder):
    """Through report.py, and through certify_votes.py with the question that the page chose."""
    (live,) = report_in(folder / "report")
    question = ["--size_to_certify", 4, "--threshold", 0.3, "--certificate", "exact"]
    assert live["galleries"][0]["about"] == "patch 4 × 4, θ = 0.3, exact certificate"
    succeed("certify_votes.py", "--votes", "votes.npz", *question, "--output", "q.json", "--report", "q", folder=folder)
    succeed("report.py", "q.json", "--out", "saved", folder=folder)
    for name in ("q", "saved"):
        (run,) = report_in(folder / name)
        assert run["galleries"] == live["galleries"]


def test_rows_alone_give_galleries_without_weak_spots(folder, tmp_path, capsys):
    """Of two runs, in figures that they share."""
    other = [*NET, "--all", "--limit", 9, "--size_to_certify", 5, "--threshold", 0.3]
    succeed("certify_mnist_band.py", *other, "--output", "b.json", "--per_image", "b.csv", folder=folder)
    for name in ("run.json", "run.csv", "b.json", "b.csv"):
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "data").symlink_to(folder / "data")
    succeed("report.py", "run.json", "b.json", "--out", "rows", folder=tmp_path)
    runs, (live,) = report_in(tmp_path / "rows"), report_in(folder / "report")
    assert [run["name"] for run in runs] == ["run", "b"]
    assert [len(run["galleries"][0]["images"]) for run in runs] == [MOST_IMAGES // 2, 9]
    (gallery,), (full,) = runs[0]["galleries"], live["galleries"]
    assert gallery["about"] == full["about"] and {image["weak_spots"] for image in gallery["images"]} == {None}
    rows = rows_of(folder / "run.csv", size_to_certify=4, threshold=0.3, certificate="exact")
    assert all(image["outcome"] == outcome(rows[image["index"]]) for image in gallery["images"])
    page = (tmp_path / "rows" / "index.html").read_text()
    assert page.count("<img") == MOST_IMAGES // 2 + 9 and "b, " in page
    (tmp_path / "run.csv").write_text((folder / "run.csv").read_text().rsplit("\n", 2)[0])
    capsys.readouterr()
    assert run_here("report.py", "run.json", "--out", "rows", folder=tmp_path) == 2
    assert "it has 959 rows, the result is about 960" in capsys.readouterr().err


def test_an_attack_shows_the_patch_that_flipped(folder):
    effort = ["--steps", 4, "--randomizations", 3, "--step_size", 0.3, "--loss", "margin", "--skip", 2, "--limit", 16]
    written = ["--output", "attack.json", "--per_image", "attack.csv", "--save_images", "flipped"]
    attack = ["--all", *effort, "--patch_height", 24, "--patch_width", 12, *written, "--report", "attacked"]
    succeed("attack_mnist_band.py", *NET, *attack, folder=folder)
    ((live,), rows) = report_in(folder / "attacked"), rows_of(folder / "attack.csv")
    succeed("report.py", "attack.json", "--out", "attack_saved", folder=folder)
    ((saved,),) = (report_in(folder / "attack_saved"),)
    flipped = [index for index, row in rows.items() if row["flipped"] == "True"]
    assert 0 < len(flipped) < 16
    for run in (live, saved):
        images = {image["index"]: image for image in run["galleries"][0]["images"]}
        assert images.keys() == rows.keys()
        for index, row in rows.items():
            image = images[index]
            assert (image["outcome"] == "flipped") == (index in flipped) == (image["attacked_at"] is not None)
            if index in flipped:
                assert image["attacked_at"] == [int(row["row"]), int(row["column"]), 24, 12]
                assert image["predicted_after"] == int(row["predicted_after"])
    for image in live["galleries"][0]["images"]:
        certified = rows[image["index"]]["certified_exact"] == "True"
        assert (image["lead"] >= 0) == certified
    for name in ("attacked", "attack_saved"):
        assert (folder / name / "index.html").read_text().count(" attacked, answered ") == len(flipped)


def test_images_are_chosen_from_every_outcome_the_closest_first():
    labels = torch.zeros(100, dtype=torch.int64)
    right = torch.arange(100) >= 4
    columns = {"predicted": (~right).long(), "certified": torch.arange(100) % 2 == 0}
    slack = torch.arange(100.0) - 50
    decisions = Decisions.of(torch.arange(100), labels, columns, slack)
    chosen = decisions.choose(10)
    assert Counter(decisions.outcomes[n] for n in chosen.tolist()) == {
        "wrong, certified": 2, "wrong": 2, "uncertified": 3, "certified": 3,
    }  # fmt: skip
    assert {49, 50, 51, 48} < set(chosen.tolist()) and chosen.tolist() == sorted(chosen.tolist())
    assert len(decisions.choose(1000)) == 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"total": 3}', "not a result as this version writes it"),
        ('{"format": 1, "kind": "certify"}', "'seconds' is a required property"),
        ('{"format": 1, "kind": "report", "runs": []}', "not a result of certifying, attacking or eval.py"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(tmp_path, capsys, content, said):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    assert run_here("report.py", "x.json", "--out", "out", folder=tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and len(lines[0]) < 400


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, or a reason to skip."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("there is no chromium with its chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "window-size=1200,900", *quiet):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        options.add_argument(f"--user-data-dir={profile}")
        started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        yield started
        started.quit()


def test_the_page_sorts_filters_and_takes_keys(folder, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    (run,) = report_in(folder / "report")
    images = run["galleries"][0]["images"]
    browser.get((folder / "report" / "index.html").as_uri())

    def shown(name="index"):
        cards = browser.find_elements(By.CSS_SELECTOR, ".cards article")
        return [card.get_attribute(f"data-{name}") for card in cards if card.is_displayed()]

    def choose(name, text):
        Select(browser.find_element(By.NAME, name)).select_by_visible_text(text)

    assert shown() == [str(image["index"]) for image in images]
    broken = "return [...document.images].filter((image) => !image.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    choose("sort", "image")
    assert shown() == sorted(shown(), key=int) != [str(image["index"]) for image in images]
    choose("outcome", "wrong")
    assert set(shown("outcome")) == {"wrong"} and len(shown()) == sum(i["outcome"] == "wrong" for i in images)
    assert browser.find_element(By.TAG_NAME, "output").text == f"{len(shown())} shown"
    choose("outcome", "all")

    heading = next(b for b in browser.find_elements(By.CSS_SELECTOR, "th button") if b.text == "certified")
    cells = [f"td:nth-child({1 + [h.text for h in browser.find_elements(By.TAG_NAME, 'th')].index('certified')})"]
    for falling in (False, True):
        heading.click()
        texts = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, cells[0])]
        values = [float(text.removesuffix(" %")) for text in texts]
        assert values == sorted(values, reverse=falling) and values[0] != values[-1]

    cards = browser.find_elements(By.CSS_SELECTOR, ".cards article")
    first, second, *_ = (card for card in cards if card.is_displayed())
    browser.execute_script("arguments[0].focus()", first)
    first.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element == second
    second.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.TAG_NAME, "dialog")
    assert dialog.is_displayed() and second.get_attribute("data-index") in dialog.text
    assert "Colours on an image say" in dialog.text
    browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert f"image {first.get_attribute('data-index')}" in dialog.text
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed() and browser.switch_to.active_element == first
    first.click()
    dialog.find_element(By.CSS_SELECTOR, "article").click()
    assert dialog.is_displayed()
    dialog.find_element(By.CSS_SELECTOR, "button").click()
    assert not dialog.is_displayed()
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


@pytest.fixture
def look(browser):
    """Looks at a page on a screen, or a sheet of paper, so many pixels wide."""

    def look(width, media):
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})

    yield look
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_figure_of_two_data_sets_is_large_enough_to_read_on_a_phone_and_on_paper(tmp_path, browser, look):
    results = [ROOT / "docs" / "results" / f"{data}_masked_band.json" for data in ("mnist", "cifar")]
    succeed("report.py", *results, "--out", "page", folder=tmp_path)
    browser.get((tmp_path / "page" / "index.html").as_uri())
    inch = "return document.querySelector('figure svg').clientWidth / 8.8"  # as wide as two panels are drawn
    look(400, "screen")
    assert browser.execute_script(inch) >= 70
    assert browser.execute_script("return document.documentElement.scrollWidth") == 400
    look(700, "print")
    assert 70 <= browser.execute_script(inch) <= 700 / 8.8


def test_nothing_is_cut_off_on_a_phone_or_on_paper(folder, browser, look):
    browser.get((folder / "report" / "index.html").as_uri())

    def seen(script):
        return browser.execute_script(f"return {script}")

    cells = "[...document.querySelectorAll('th, td')].map((c) => [c.cellIndex, c.getBoundingClientRect().right])"
    browser.execute_script("document.querySelector('header p').textContent = 'a_long_name_of_a_checkpoint'.repeat(9)")
    look(400, "screen")
    assert seen("document.documentElement.scrollWidth") == 400
    assert all(right <= 400 for column, right in seen(cells) if column < 3)
    look(700, "print")  # A4 without its margins
    assert all(right <= 700 for _, right in seen(cells))
    boxes = "[...document.querySelectorAll('.wide, .cards')].map((box) => getComputedStyle(box).overflow)"
    assert set(seen(boxes)) == {"visible"}
    assert seen("getComputedStyle(document.querySelector('.key')).printColorAdjust") == "exact"
    assert seen("getComputedStyle(document.querySelector('.controls')).display") == "none"
    look(1200, "screen")
    box = "document.querySelector('.wide')"
    assert seen(f"{box}.scrollHeight") == seen(f"{box}.clientHeight")
