"""What users call from Python, against scripts, plain loops and every content of a patch that is tried."""

import ast
import csv
import json
from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import patchcert
from patchcert import (
    Band,
    BandAndRow,
    Block,
    LinesNetwork,
    MaskedClassifier,
    MultiBand,
    Patch,
    Row,
    SmoothedClassifier,
    arithmetic,
    certify,
    distributed,
    encode,
)
from patchcert.data import named
from patchcert.engines.columns import Shape
from patchcert.networks import mnist_network
from tests import oracle
from tests.helpers import ROOT, succeed

SHIPPED = ROOT / "checkpoints" / "mnist_masked_band.pth"
HEIGHT, WIDTH = 2, 7


def of_brightness(ablation):
    """A base classifier that says whether a copy is dark, bright or neither; it need not be asked upright."""
    torch.manual_seed(0)
    pixels = ablation.height * ablation.width
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * pixels, 3))
    bright = torch.tensor([1.0, -1.0]).repeat_interleave(pixels)
    network[1].weight.data += torch.stack([-bright, bright, 0 * bright])
    return network


def lines(lines="columns"):
    """A network of limited reach for bands of 2 columns, rows or both."""
    torch.manual_seed(1)
    network = LinesNetwork(Shape((6,), (0,), 2, lines, HEIGHT, WIDTH, image_channels=1, classes=3))
    for family in network.families:
        nn.init.normal_(family.head.weight, std=2.0)
    return network


def dark_and_bright_images(count=24):
    """(N, 1, H, W) of zeros and ones, few or many of them."""
    generator = torch.Generator().manual_seed(2)
    shares = torch.linspace(0, 1, count)[:, None, None, None]
    return (torch.rand(count, 1, HEIGHT, WIDTH, generator=generator) < shares).float()


def with_every_content(images, patch, values=(0.0, 0.5, 1.0)):
    """(N, V, C, H, W): the patch everywhere, showing everything that these values can show."""
    found = []
    for top, left in product(range(HEIGHT - patch.height + 1), range(WIDTH - patch.width + 1)):
        for content in product(values, repeat=patch.height * patch.width):
            attacked = images.clone()
            shown = torch.tensor(content).view(patch.height, patch.width)
            attacked[:, 0, top : top + patch.height, left : left + patch.width] = shown
            found.append(attacked)
    return torch.stack(found, dim=1)


BAND = Band(HEIGHT, WIDTH, 2)
CLASSIFIERS = {
    "threshold": lambda patch: SmoothedClassifier(of_brightness(BAND), BAND, 0.4),
    "top one": lambda patch: SmoothedClassifier(of_brightness(BAND), BAND),
    "rows": lambda patch: SmoothedClassifier(of_brightness(Row(HEIGHT, WIDTH, 1)), Row(HEIGHT, WIDTH, 1), 0.3),
    "blocks": lambda patch: SmoothedClassifier(of_brightness(Block(HEIGHT, WIDTH, 2)), Block(HEIGHT, WIDTH, 2), 0.4),
    "one pass": lambda patch: SmoothedClassifier(lines(), BAND, 0.4),
    "masked votes": lambda patch: MaskedClassifier(of_brightness(BAND), BAND, patch, threshold=0.4),
    "masked scores": lambda patch: MaskedClassifier(of_brightness(BAND), BAND, patch),
    "masked in one pass": lambda patch: MaskedClassifier(lines("both"), BandAndRow(HEIGHT, WIDTH, 2), patch),
}


@pytest.mark.parametrize("patch", [Patch(1, 1), Patch(1, 2)])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_nothing_that_a_patch_shows_changes_a_certified_answer(name, patch):
    classifier, images = CLASSIFIERS[name](patch), dark_and_bright_images()
    (answer,) = certify(classifier, images, torch.zeros(len(images), dtype=torch.int64), patch).answers
    assert torch.equal(classifier(images).argmax(1), answer.predicted)
    assert not answer.predicted.is_inference()  # attacks take them for labels, and gradients pass by them
    attacked = with_every_content(images, patch)
    after = classifier(attacked.flatten(0, 1)).argmax(1).view(len(images), -1)
    flipped = (after != answer.predicted[:, None]).any(dim=1)
    assert not (flipped & answer.certified).any()
    assert int(answer.certified.sum()) > 2 and int(flipped.sum()) > 2


def by_script(folder, script, *options):
    """The results of a script on all images, and its rows per image."""
    written = ["--all", "--limit", 20, "--output", "run.json", "--per_image", "rows.csv"]
    succeed(script, *options, *written, folder=folder)
    return json.loads((folder / "run.json").read_text())["results"], [*csv.DictReader((folder / "rows.csv").open())]


def assert_same(result, results, rows):
    """The interface's result is that of a script, count by count and image by image, to the digits of a lead."""
    found = result.to_dict()
    json.dumps(found)
    assert [entry | {"threshold": entry.get("threshold")} for entry in results] == found["results"]
    columns = {name: [row[name] for row in rows] for name in ("predicted", "certified")}
    for name, texts in columns.items():
        assert texts == [str(v) for answer in result.answers for v in getattr(answer, name).tolist()]
    assert result.certified_accuracy == tuple(entry["certified_accuracy"] for entry in results)


def test_votes_are_certified_as_by_the_script(folder):
    dataset = named.load("mnist", folder / "data", train=False).take(slice(20))
    network = mnist_network()
    network.load_state_dict(torch.load(folder / "checkpoints" / "net.pth", weights_only=True)["net"])
    asked = ["--size_to_certify", "1,2x3", "--threshold", 0.3, "--certificate", "margin,exact"]
    smoothed = SmoothedClassifier(network, Band(28, 28, 4), 0.3)
    images, labels = dataset.images.numpy(), dataset.labels.numpy().astype(np.int32)
    result = certify(smoothed, images, labels, [Patch(1, 1), Patch(2, 3)], ["margin", "exact"], numerical_margin=0)
    assert_same(result, *by_script(folder, "certify_mnist_band.py", "--checkpoint", "net.pth", *asked))
    assert 0 < sum(answer.counts.certified_wrong for answer in result.answers) < 80
    assert torch.equal(smoothed(dataset.images / 255).argmax(1), result.answers[0].predicted)

    masked = MaskedClassifier(network, Band(28, 28, 4), Patch(1, 1), 0.3)
    asked = ["--size_to_certify", 1, "--threshold", 0.3, "--certificate", "masking"]
    expected = by_script(folder, "certify_mnist_band.py", "--checkpoint", "net.pth", *asked)
    assert_same(certify(masked, images / np.float32(255), labels, numerical_margin=0), *expected)


def test_scores_are_certified_as_by_the_script(folder):
    dataset = named.load("mnist", folder / "data", train=False).take(slice(20))
    network = LinesNetwork.load(SHIPPED)
    masked = MaskedClassifier(network, network.shape.ablation(), Patch(3, 3))
    expected = by_script(folder, "certify_mnist_band_masked.py", "--size_to_certify", 3, "--checkpoint", SHIPPED)
    assert_same(certify(masked, dataset.images, dataset.labels), *expected)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_forward_gives_the_votes_or_sums_of_a_plain_loop(name):
    classifier, images = CLASSIFIERS[name](Patch(1, 2)).eval(), torch.rand(9, 1, HEIGHT, WIDTH)
    if classifier.limited_reach:
        logits = classifier.network(images)
    else:
        copies = encode(images)[:, None] * classifier.ablation.masks()[:, None]
        shown = classifier.ablation.as_seen(copies)
        logits = torch.stack([classifier.network(image) for image in shown])
    p, threshold = logits.softmax(2), {"top one": None, "rows": 0.3}.get(name, 0.4)
    if name in ("masked scores", "masked in one pass"):
        totals = p.log().sum(1)
    else:
        totals = oracle.votes(p.flatten(0, 1), threshold).view(p.shape).sum(1).float()
    found = classifier(images)
    assert torch.equal(found.argmax(1), classifier.predict(images))
    if isinstance(classifier, MaskedClassifier):
        others = torch.arange(3) != found.argmax(1)[:, None]
        torch.testing.assert_close(found[others], totals[others])
        assert (found.argmax(1) == totals.argmax(1)).any() and ((found >= totals - 1e-4) | others).all()
    else:
        assert torch.equal(found, totals)


def test_the_answer_of_double_masking_is_the_largest_even_where_the_sums_say_otherwise():
    classifier = CLASSIFIERS["masked votes"](Patch(1, 2))
    images = torch.rand(400, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5)).round()
    sums = SmoothedClassifier(classifier.network, BAND, 0.4)(images)
    touched = oracle.touched(oracle.bands(HEIGHT, WIDTH, 2), HEIGHT, WIDTH, (1, 2)).unique(dim=0)
    logits = torch.cat([*classifier.every_copy(images, 100)])
    expected = [oracle.double_masked(votes, touched) for votes in classifier.ballots(logits).float()]
    assert classifier(images).argmax(1).tolist() == expected != sums.argmax(1).tolist()


@pytest.mark.parametrize("name", ["threshold", "masked scores"])
def test_gradients_are_those_of_the_soft_votes(name):
    classifier = CLASSIFIERS[name](Patch(1, 2)).train()
    images = torch.rand(3, 1, HEIGHT, WIDTH, requires_grad=True)
    weights = torch.randn(3, 3)
    (gradient,) = torch.autograd.grad((classifier(images) * weights).sum(), images)
    p = torch.stack([classifier.network(encode(images) * mask).softmax(1) for mask in BAND.masks()], dim=1)
    soft = p.sum(1) if name == "threshold" else p.log().sum(1)
    torch.testing.assert_close(gradient, torch.autograd.grad((soft * weights).sum(), images, retain_graph=True)[0])
    torch.testing.assert_close(classifier.soft()(images), p.mean(1).log())
    assert classifier(images).requires_grad and not classifier(images.detach()).detach().requires_grad


def test_floats_are_not_rounded_to_256_values():
    """This network votes for class 1 where a pixel is above 0.3, which no value of a byte is close to."""
    images = torch.full((2, 1, HEIGHT, WIDTH), 0.3)
    images[1] += 1e-6

    class Above(nn.Module):
        def forward(self, copies):
            above = 1e8 * (copies[:, :1].amax(dim=(1, 2, 3)) - 0.3000005)
            return torch.stack([-above, above], dim=1)

    result = certify(SmoothedClassifier(Above(), BAND, 0.5), images.double().numpy(), [0, 1], Patch(1, 1))
    assert result.answers[0].predicted.tolist() == [0, 1] and result.config["engine"] == "DenseNetwork"


def test_a_table_has_one_row_per_image_and_question():
    pandas = pytest.importorskip("pandas")
    images, labels = dark_and_bright_images(), torch.ones(24, dtype=torch.uint8)
    result = certify(CLASSIFIERS["threshold"](None), images, labels, [Patch(1, 1), Patch(1, 2)], ["margin", "exact"])
    table = result.to_dataframe()
    assert isinstance(table, pandas.DataFrame) and len(table) == 4 * 24
    right = table[table.certified & (table.predicted == table.label)]
    counts = right.groupby(["size_to_certify", "certificate"]).size()
    for answer in result.answers:
        assert counts[answer.question["size_to_certify"], answer.certificate] == answer.counts.certified_correct


def test_two_patches_and_a_numerical_margin_certify_less():
    classifier, images = CLASSIFIERS["threshold"](None), dark_and_bright_images()
    asked = [classifier, images, torch.zeros(24, dtype=torch.int64), Patch(1, 1), "exact"]
    plain, two, near = (
        certify(*asked, **more).answers[0].certified for more in ({}, {"at_once": 2}, {"numerical_margin": 0.3})
    )
    assert (two <= plain).all() and (near <= plain).all() and int(two.sum()) < int(plain.sum()) > int(near.sum()) > 0


@contextmanager
def set_to(operation, precision):
    """Lets PyTorch compute `operation`, one of torch.backends, in this precision."""
    before, operation.fp32_precision = operation.fp32_precision, precision
    try:
        yield
    finally:
        operation.fp32_precision = before


@pytest.mark.parametrize(
    ("operation", "precision", "device", "expected"),
    [
        (torch.backends.cudnn.conv, "ieee", "cuda", "float32"),
        (torch.backends.cudnn.conv, "tf32", "cuda", "tf32"),
        (torch.backends.cuda.matmul, "tf32", "cuda", "tf32"),
        (torch.backends.cudnn.conv, "tf32", "cpu", "float32"),
        (torch.backends.mkldnn.conv, "bf16", "cpu", "bfloat16"),
        (torch.backends.mkldnn.matmul, "tf32", "cpu", "tf32"),
    ],
)
def test_the_coarsest_arithmetic_is_that_which_pytorch_is_set_to(operation, precision, device, expected):
    with set_to(torch.backends.cudnn.conv, "ieee"), set_to(operation, precision):
        assert arithmetic.coarsest(torch.device(device)) == expected


@pytest.mark.parametrize(("offset", "holds"), [(0.0, True), (1e5, False)])
def test_what_large_logits_have_in_common_counts_as_well(offset, holds):
    """Their log-probabilities are small, and still off by what the logits were rounded by."""

    class Even(nn.Module):
        def forward(self, copies):
            return offset + copies.new_tensor([0.0, 1 / 64]).expand(len(copies), 2)

    classifier = MaskedClassifier(Even(), BAND, Patch(1, 1))
    (answer,) = certify(classifier, dark_and_bright_images(2), [1, 1]).answers
    assert answer.certified.tolist() == [holds, holds] and (answer.verdicts["lead"] > 0.01).all()
    votes = MaskedClassifier(Even(), BAND, Patch(1, 1), threshold=0.501)
    assert certify(votes, dark_and_bright_images(2), [1, 1]).answers[0].certified.all()


def test_scores_rounded_to_bfloat16_need_larger_leads():
    classifier, images = CLASSIFIERS["masked scores"](Patch(1, 1)), dark_and_bright_images()
    labels = torch.zeros(24, dtype=torch.int64)
    (exactly,) = certify(classifier, images, labels).answers
    with torch.autocast("cpu", torch.bfloat16):
        result = certify(classifier, images, labels)
    (rounded,), here = result.answers, arithmetic.processor(torch.device("cpu"))
    assert [answer.question["numerical_margin"] for answer in (exactly, rounded)] == [1e-3, 1.0]
    assert result.to_dict()["arithmetic"] == {"precision": "bfloat16", "engine": "dense", "processors": [here]}


class Leaking(nn.Module):
    """Says that its reach is that of bands, and looks at all columns."""

    limited_reach = True

    def forward(self, images):
        return (images.mean(dim=(1, 2)).cumsum(1)[:, :, None] * torch.tensor([1.0, -1.0])).expand(-1, WIDTH, -1)


class Noisy(nn.Module):
    def forward(self, copies):
        return copies.flatten(1)[:, :3] + torch.rand(len(copies), 3)


def of_batches():
    return nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(2 * HEIGHT * WIDTH, 3))


MASKED = MaskedClassifier(of_brightness(BAND), BAND, Patch(1, 1))
IMAGES, LABELS = torch.rand(5, 1, HEIGHT, WIDTH), torch.arange(5) % 3


def test_labels_in_a_column_are_those_in_a_row():
    (row,) = certify(MASKED, IMAGES, LABELS).answers
    (column,) = certify(MASKED, IMAGES, LABELS[:, None].numpy()).answers
    assert column.counts == row.counts and column.labels.equal(LABELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": torch.stack([LABELS, LABELS], 1)},
            r"labels are torch.int64 \(5, 2\), expected whole numbers \(5,\)",
        ),
        ({"labels": LABELS[:4]}, r"labels are torch.int64 \(4,\), expected whole numbers \(5,\)"),
        ({"labels": LABELS / 2}, "labels are torch.float32"),
        ({"labels": LABELS + 1}, "labels go from 1 to 3, expected 0 to 2"),
        ({"labels": LABELS - 1}, "labels go from -1 to 1, expected 0 to 2"),
        ({"patches": None}, "patches None: expected a Patch"),
        ({"patches": [(5, 5)]}, "patches .*: expected a Patch"),
        ({"patches": Patch(3, 1)}, "3x1: expected a patch that fits into 2 × 7 pixels"),
        ({"certificate": "exakt"}, "certificate exakt: expected margin or exact"),
        ({"certificate": "masking"}, "masking is a MaskedClassifier's"),
        ({"at_once": 3}, "at_once 3: expected a whole number from 1 to 2"),
        ({"numerical_margin": float("nan")}, "numerical_margin nan: expected a number of at least 0"),
        ({"batch_size": 0}, "batch_size 0: expected a whole number from 1"),
        ({"classifier": nn.Flatten()}, "classifier Flatten: expected a SmoothedClassifier"),
        ({"classifier": SmoothedClassifier(nn.Flatten(), Band(3, WIDTH, 2))}, "expected .N, C, 3, 7."),
        ({"classifier": SmoothedClassifier(nn.ReLU(), BAND)}, r"gives \(7, 2, 2, 7\) for copies .* logits \(7, K\)"),
        ({"classifier": SmoothedClassifier(of_batches(), BAND)}, "the same answer whatever else is in the batch"),
        ({"classifier": SmoothedClassifier(Noisy(), BAND)}, "the same answer"),
        ({"classifier": SmoothedClassifier(Leaking(), BAND), "labels": LABELS % 2}, "from its own pixels alone"),
        ({"classifier": SmoothedClassifier(Noisy(), BAND, engine="windowed")}, "^engine windowed: the network uses"),
        ({"classifier": MASKED, "patches": Patch(1, 2)}, "are about 1 of 1; make another"),
        ({"classifier": MASKED, "at_once": 2}, "are about 1 of 1; make another"),
        ({"classifier": MASKED, "certificate": "exact"}, "by masking alone"),
    ],
)
def test_what_is_no_question_is_refused_in_one_clear_line(change, message):
    arguments = {"classifier": CLASSIFIERS["threshold"](None), "images": IMAGES, "labels": LABELS}
    with pytest.raises(ValueError, match=message) as refused:
        certify(**(arguments | {"patches": Patch(1, 1)} | change))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmoothedClassifier(nn.Flatten(), BAND, 1.5), "threshold 1.5: expected a number from 0 to 1"),
        (lambda: SmoothedClassifier(nn.Flatten(), BAND, engine="fast"), "engine fast: expected dense or windowed"),
        (lambda: SmoothedClassifier(lines("rows"), BAND), "answers for Row of 2 pixels alone, not for Band of 2"),
        (lambda: MaskedClassifier(nn.Flatten(), BAND, Patch(5, 5)), "5: expected a patch that fits"),
        (lambda: MaskedClassifier(nn.Flatten(), BAND, Patch(1, 1), at_once=3), "at_once 3: expected .* from 1 to 2"),
        (lambda: MultiBand(28, 28, 2, 30), "keep 30: expected a whole number from 1 to 14"),
        (lambda: LinesNetwork.load("nowhere.pth"), "nowhere.pth: no such checkpoint"),
        (lambda: LinesNetwork.load(ROOT / "README.md"), "README.md: not a checkpoint that can be loaded safely"),
    ],
)
def test_what_cannot_be_made_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_more_processes_than_images_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 6)
    with pytest.raises(ValueError, match="more processes than images"):
        certify(MASKED, IMAGES, LABELS)


def test_networks_of_any_size_are_not_built_before_the_weights_are_looked_at(tmp_path):
    content = torch.load(SHIPPED, weights_only=True)
    content["about"]["network"] |= {"channels": [4096] * 8, "blocks": [9] * 8}
    content.pop("digest", None)
    torch.save(content, tmp_path / "huge.pth")
    with pytest.raises(ValueError, match=r"huge\.pth: is of another network"):
        LinesNetwork.load(tmp_path / "huge.pth")


def test_type_checkers_see_the_interface_and_nothing_else():
    stub = ast.parse((ROOT / "patchcert" / "__init__.pyi").read_text()).body
    imports = [node for node in stub if isinstance(node, ast.ImportFrom)]
    imported = {(node.module, alias.asname) for node in imports for alias in node.names}
    listed = {(f"patchcert.{module}", name) for module, names in patchcert.INTERFACE.items() for name in names}
    assert imported == listed and {name for _, name in listed} == set(patchcert.__all__)
