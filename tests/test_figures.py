"""Figures for papers: what is drawn from which files, and that its numbers are those of the files."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from patchcert.reports import figures
from patchcert.reports.points import Point, lines, names_of, points_of
from tests.helpers import ROOT, run_here, succeed

RESULTS = ROOT / "docs" / "results"
MASKED, BAND = RESULTS / "mnist_masked_band.json", RESULTS / "mnist_band_4.json"
INTERVALS = [RESULTS / f"interval_mnist_{size}.json" for size in ("p22", "p55")]
POINT = Point("run", "exact", 5, 1, 0.2, 0.0, 4, 1.0, 100, clean=0.9, certified=0.5)


def points_in(*files):
    return [point for file in files for point in points_of(file.stem, json.loads(file.read_text()))]


def curves(figure):
    """What is drawn in the first axes: (x, y) lists of numbers by line style."""
    drawn = figure.axes[0].lines
    return [(line.get_linestyle(), *(list(map(float, ends)) for ends in line.get_data())) for line in drawn]


def test_the_script_writes_what_the_files_allow(tmp_path, capsys):
    log = RESULTS / "mnist_masked_band_training.jsonl"
    succeed("figures.py", MASKED, *INTERVALS, log, "--out", "drawn", folder=tmp_path)
    written = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert written == {f"{name}.{kind}" for name in ("patch_size", "training") for kind in ("pdf", "png")}
    assert len(capsys.readouterr().out.splitlines()) == len(written)
    for path in (tmp_path / "drawn").glob("*.pdf"):
        content = path.read_bytes()
        assert b"/FontFile2" in content and b"/Type3" not in content, "TrueType, embedded"
    with Image.open(tmp_path / "drawn" / "patch_size.png") as picture:
        assert picture.width == 960


def test_what_is_drawn_are_the_numbers_of_the_files():
    drawn = figures.accuracies(points_in(MASKED, *INTERVALS))
    answers = json.loads(MASKED.read_text())["results"]
    names = ("size_to_certify", "certified_accuracy", "clean_accuracy")
    sizes, certified, clean = ([answer[name] for answer in answers] for name in names)
    masked, its_clean, bounds, their_clean = curves(drawn["patch_size"])
    assert masked == ("-", sizes, certified) and its_clean == ("--", sizes, clean)
    models = [json.loads(file.read_text())["models"][0] for file in INTERVALS]
    assert bounds == ("None", [2, 5], [pytest.approx(1 - model["certified_error"]) for model in models])
    assert their_clean == ("None", [2, 5], [pytest.approx(1 - model["clean_error"]) for model in models])


def words(part):
    """What the legend of a figure, or of a part of one, says."""
    return [text.get_text() for legend in part.legends for text in legend.get_texts() if text.get_text()]


def test_each_data_set_has_a_panel_and_legends_are_in_words():
    files = [RESULTS / f"{name}.json" for name in ("cifar_joint_test", "cifar_masked_band", "mnist_joint")]
    drawn = figures.accuracies(points_in(*files, MASKED, *INTERVALS))["patch_size"]
    assert [axes.get_title() for axes in drawn.axes] == ["CIFAR-10", "MNIST"]
    of_cifar, of_mnist = map(words, drawn.subfigs)
    assert of_cifar[:2] == ["bands and hidden windows of 11 × 11", "bands of columns and rows"]
    assert of_mnist[0] == "double masking, bands and hidden windows of 5 × 5" and of_mnist[2] == "interval bounds"
    assert of_cifar[2:] == of_mnist[3:] == ["certified", "clean"]
    many = [replace(POINT, data=data, patch=side) for data in "abcd" for side in (2, 5)]
    assert [words(part) for part in figures.accuracies(many)["patch_size"].subfigs] == [[*"abcd", "certified", "clean"]]


def test_alarms_are_a_curve_of_certified_against_clean():
    alarm = replace(POINT, goal="alert", confidence=None, clean=0.6, certified=0.6)
    curve = [replace(alarm, confidence=c, clean=0.5 + c / 2, certified=0.75 - c / 2) for c in (0.75, 0.0, 0.5)]
    recovery = replace(POINT, goal="recover", clean=0.8, certified=0.4)
    drawn = figures.accuracies([*curve, alarm, recovery])["alarms"]
    assert curves(drawn) == [
        ("-", [0.5, 0.75, 0.875], [0.75, 0.5, 0.375]), ("None", [0.6], [0.6]), ("None", [0.8], [0.4]),
    ]  # fmt: skip
    assert [text.get_text() for text in drawn.axes[0].texts] == ["0", "0.5", "0.75"]
    assert words(drawn) == ["alarms over τ, which stands beside each", "alarms, strict", "recovery, no alarm"]
    two = figures.accuracies([*curve, replace(alarm, patches=2, clean=0.3)])["alarms"]
    assert words(two)[:2] == ["one patch", "two patches"]
    assert "alarms" not in figures.accuracies([alarm, recovery, replace(POINT, patch=2)])


def test_alarms_are_told_apart_where_patches_differ():
    points = [replace(POINT, patch=side, goal="alert", confidence=c) for side in (2, 5) for c in (None, 0.5)]
    assert list(lines([*points, replace(POINT, goal="recover")], "patch")) == [
        "alarms, strict", "alarms, τ = 0.5", "recovery",
    ]  # fmt: skip


def test_attacks_have_three_shares():
    drawn = figures.accuracies(points_in(RESULTS / "attack_mnist_band_2.json", RESULTS / "attack_mnist_band_5.json"))
    assert drawn.keys() == {"patch_size"}
    assert [share for _, _, (share,) in curves(drawn["patch_size"])] == [0.86, 0.96, 0.94, 0.33, 0.96, 0.69]


def test_training_is_drawn_by_epoch():
    accuracies = {"train_accuracy": 0.5, "test_accuracy": 0.4, "seconds": 1}
    rows = [{"epoch": epoch, "loss": 2.0 - epoch, "lr": 0.1} | accuracies for epoch in range(2)]
    errors = {"train_robust_err": 0.9, "robust_err": 0.8, "clean_err": 0.1, "train_seconds": 1}
    bounds = [{"epoch": epoch, "loss": 1.0, "epsilon": 1.0, "lr": 0.1} | errors for epoch in range(2)]
    loss, shares = figures.training({"band": rows, "bounds": bounds}).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[2.0, 1.0], [1.0, 1.0]]
    assert [line.get_ydata()[0] for line in shares.lines] == pytest.approx([0.4, 0.5, 0.2, 0.1, 0.9])


def test_lines_are_told_apart_by_what_differs():
    points = [replace(POINT, patch=side, threshold=t) for side in (5, 2) for t in (0.2, 0.3)]
    found = lines(points, "patch")
    assert list(found) == ["θ = 0.2", "θ = 0.3"]
    assert [point.patch for point in found["θ = 0.2"]] == [2, 5]
    masking = replace(POINT, run="other", certificate="double masking", threshold=None)
    assert list(lines([*points, masking], "patch")) == [
        "exact, θ = 0.2", "exact, θ = 0.3", "double masking",
    ]  # fmt: skip


def test_exact_stands_for_the_margin():
    margin = replace(POINT, certificate="margin", certified=0.4)
    assert list(lines([margin, POINT], "patch").values()) == [[POINT]]
    assert list(lines([margin, replace(POINT, patch=2)], "patch")) == ["margin", "exact"]


def test_the_best_threshold_stands_for_too_many():
    points = [replace(POINT, patch=side, threshold=t / 10, certified=t / 20) for side in (2, 5) for t in range(1, 10)]
    ((name, best),) = lines(points, "patch").items()
    assert name == "best θ" and [(p.threshold, p.certified) for p in best] == [("best", 0.45)] * 2
    of_two = [*points, *(replace(p, run="other") for p in points[:8])]
    assert list(lines(of_two, "patch")) == ["run, best θ", "other, best θ"]


def test_runs_of_networks_of_several_sizes_make_one_line():
    drawn = figures.accuracies([replace(POINT, run=f"band_{s}", shown=s, certified=s / 10) for s in (4, 2, 3)])
    assert curves(drawn["shown"])[0] == ("-", [2, 3, 4], [0.2, 0.3, 0.4])


def test_time_is_compared_at_the_patch_that_most_runs_have():
    points = [replace(POINT, run=run, milliseconds=ms) for run, ms in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    drawn = figures.accuracies([*points, replace(POINT, run="d", patch=2, milliseconds=9.0)])
    assert [x for _, x, _ in curves(drawn["time"])] == [[1.0], [1.0], [2.0], [2.0], [3.0], [3.0]]
    assert drawn["time"].axes[0].get_xlabel() == "milliseconds for an image, patch 5 × 5"


@pytest.mark.parametrize(
    ("leads", "boundary"),
    [
        ([-61.2, -3.0, 0.4, 7.5, 66.0], 0.001),
        ([-300.0, -2.0, 14.0, 15.0, 201.0], 14.5),
        ([-3.0, -1.0, 0.0, 2.0], 0.0),
        ([1.0, 2.5], 4.0),
        ([2.0, 2.0], 2.0),
    ],
)
def test_no_bar_of_a_histogram_straddles_the_line_of_certificates(leads, boundary):
    axes = figures.decisions({"wrong": leads}, "lead", boundary).axes[0]
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert sum(bar.get_height() for bar in axes.patches) == len(leads)
    assert not any(left < boundary < right - 1e-9 for left, right in bars)


def test_the_legend_of_a_histogram_stands_below_it_and_hides_no_bar():
    figure = figures.decisions({"wrong": [-3.0, -1.0], "certified": [5.0] * 9 + [6.0]}, "lead", 0.5)
    assert words(figure) == ["wrong", "certified", "certified from here on"]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= figure.axes[0].get_tightbbox().y0


def test_results_of_one_name_are_told_apart(tmp_path):
    assert names_of([tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c" / "a.json"]) == [
        str(tmp_path / "a.json"), "b", str(tmp_path / "c" / "a.json"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.jsonl", "", "is empty"),
        ("run.jsonl", '{"epoch": 0}', "'loss' is a required property"),
        ("run.log", "epoch 0", "is not JSON"),
        ("run.json", (RESULTS / "interval_mnist_k4.json").read_text(), "nothing to draw"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path, capsys, name, content, said):
    (tmp_path / name).write_text(content)
    assert run_here("figures.py", name, "--out", "drawn", folder=tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
