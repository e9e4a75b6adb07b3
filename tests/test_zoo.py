"""Networks that ship: what is said of them is what docs/results says, and they are what the scripts certify."""

import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import patchcert
from patchcert import Patch, Share, certify, checkpoint, load
from patchcert.ablations.ablation import Band, BandAndRow
from patchcert.ablations.windows import BandsAndWindows
from patchcert.classifiers import probing
from patchcert.classifiers.masked_goals import MaskedLook
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.rounds import Wanted
from patchcert.data import named
from patchcert.errors import UsageError
from patchcert.masking.linked import masking_of
from patchcert.masking.margins import Margin
from patchcert.votes.certificate import Question
from patchcert.zoo import building, table
from patchcert.zoo.loading import ShippedClassifier, ShippedVotes
from tests.helpers import ROOT, run_here

COUNTED = [variant for model in table.models().values() for variant in model.variants if variant.counted]


@pytest.mark.parametrize("variant", COUNTED, ids=lambda variant: variant.results)
def test_numbers_and_settings_are_those_of_the_results(variant):
    record = json.loads((ROOT / "docs" / "results" / variant.results).read_text())
    both_halves = zip(record["results"], record.get("test_half", record["results"]), strict=True)
    kind = (variant.threshold, "exact" if variant.votes else "masking")
    found = [(asked, n) for asked, n in both_halves if (asked.get("threshold"), asked["certificate"]) == kind]
    assert [(asked["size_to_certify"], n["clean_accuracy"], n["certified_accuracy"]) for asked, n in found] == [
        (counted.patch, counted.clean, counted.certified) for counted in variant.counted
    ]
    images = {10_000: "all test images", 5_000: "the test half"}
    for _, answer in found:
        total = answer["total"]
        assert variant.counted_on.startswith(images.get(total, f"{total:,} images of the test half"))
    config = record["config"]
    assert [Path(config[option]).stem for option in ("checkpoint", "windows") if option in config] == [
        Path(name).stem for name in variant.files
    ]
    if variant.bands and variant.windows:
        assert config["weight"] == variant.weight and bool(config.get("mirrored")) == variant.mirrored
        coarse = config.get("coarse_windows")
        assert (tuple(coarse) if coarse else None) == variant.coarse_windows
        assert variant.coarse_windows is None or config["sure"] == variant.sure


def test_another_file_for_larger_patches_differs_in_its_windows_alone():
    for model in table.models().values():
        bands = {variant.bands for variant in model.variants}
        assert len(model.variants) == 1 or (len(bands) == 1 and None not in bands)
        for number, variant in enumerate(model.variants):
            if variant.bands and variant.windows:
                assert table.of_bands_and(variant.windows) == model.variants[number:]
    assert table.of_bands_and("mnist_masked_band.pth") == ()


def test_what_is_not_counted_has_no_numbers():
    for model in table.models().values():
        for variant in model.variants:
            assert bool(variant.counted) == (ROOT / "docs" / "results" / variant.results).exists()
        assert ("not measured" in model.describe()) == (not model.counted())


def holds(classifier):
    """Side of the largest square of which any two leave some copy."""
    ablation = classifier.ablation
    if isinstance(ablation, Band):  # a patch may take a vote from the winner and give it to another, of each copy
        return max(m for m in range(1, ablation.width) if 2 * ablation.most_touched(Patch(m)) < ablation.count)
    if isinstance(ablation, BandAndRow):
        sides = range(1, ablation.width)
        return max(m for m in sides if 2 * (m + ablation.band_size - 1) < ablation.width)
    return min((ablation.windows if isinstance(ablation, BandsAndWindows) else ablation)._held())


@pytest.mark.parametrize("name", table.models())
def test_every_network_loads_for_the_patches_that_it_holds_and_no_larger_ones(name):
    model = table.named(name)
    for variant in model.variants:
        classifier = load(name, Patch(variant.holds))
        assert type(classifier) is (ShippedVotes if variant.votes else ShippedClassifier) and not classifier.training
        assert holds(classifier) == variant.holds
        ablation = classifier.ablation
        assert named.IMAGE_SHAPES[model.dataset][1:] == (ablation.height, ablation.width)
    assert classifier.describe() == model.describe() and name in classifier.describe()
    assert load(name).patch == Patch(min(5, variant.holds))
    if variant.windows:
        with pytest.raises(ValueError, match=rf"patch {variant.holds + 1}: expected at most"):
            load(name, Patch(variant.holds + 1))


def test_files_that_ship_are_those_of_the_table():
    shipped = {path.name for path in checkpoint.SHIPPED.glob("*.pth")}
    wanted = {name for model in table.models().values() for variant in model.variants for name in variant.files}
    assert wanted <= shipped


@pytest.mark.parametrize(("name", "patch"), [("mnist-band", None), (5, None), ("mnist-bands", 5)])
def test_what_is_no_network_or_no_patch_is_refused_in_one_line(name, patch):
    with pytest.raises(UsageError) as caught:
        load(name, patch)
    message = str(caught.value)
    right = "expected a Patch" if patch else f"{name}: expected one of {', '.join(table.models())}"
    assert right in message and "\n" not in message and len(message) < 400


SCRIPTS = {
    "mnist-bands": ("certify_mnist_band_masked.py", 6, "1,2"),
    "mnist-windows": ("certify_mnist_windows.py", 2, "2"),
    "mnist-bands-and-windows": ("certify_mnist_joint.py", 2, "2"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SCRIPTS)
def test_certificates_are_those_of_the_script(name, tmp_path, generated_mnist):
    """Predictions, certificates, leads and passes: both ask for copies with hidden windows in order."""
    script, count, sizes = SCRIPTS[name]
    asked = [
        "--data",
        generated_mnist,
        "--all",
        "--limit",
        count,
        "--per_image",
        "rows.csv",
        "--size_to_certify",
        sizes,
    ]
    files = zip(("--checkpoint", "--windows"), table.named(name).variants[0].files, strict=False)
    assert run_here(script, *asked, *(text for pair in files for text in pair), folder=tmp_path) == 0
    images = named.load("mnist", generated_mnist, train=False).take(slice(count)).images / 255
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    for size in map(int, sizes.split(",")):
        classifier = load(name, Patch(size))
        margin = Margin.of_scores(0.001, "float32")
        (found,) = MaskedLook(classifier, [classifier.masking], margin, Wanted(), batch_size=128)(images)
        found = found.verdicts
        own = [row for row in rows if row["size_to_certify"] == str(size)]
        assert [int(row["predicted"]) for row in own] == found.predicted.tolist()
        assert classifier.predict(images).equal(found.predicted)
        assert [row["certified"] == "True" for row in own] == found.certified.tolist()
        assert [float(row["lead"]) for row in own] == pytest.approx(found.lead.tolist(), abs=1e-4)
        if name != "mnist-bands":
            assert [int(row["passes"]) for row in own] == found.passes.tolist()
        assert found.certified.any()


def test_votes_are_certified_as_the_script_does(tmp_path, generated_mnist):
    (variant,) = table.named("mnist-votes").variants
    asked = ["--threshold", variant.threshold, "--size_to_certify", "1,2x8,5", "--certificate", "margin,exact"]
    images = ["--data", generated_mnist, "--all", "--limit", 20, "--per_image", "rows.csv"]
    assert run_here("certify_mnist_band.py", *images, *asked, "--checkpoint", "mnist_band", folder=tmp_path) == 0
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    classifier = load("mnist-votes", Patch(2, 8))
    dataset = named.load("mnist", generated_mnist, train=False).take(slice(20))
    patches, kinds = [Patch(1), Patch(2, 8), Patch(5)], ["margin", "exact"]
    result = certify(classifier, dataset.images, dataset.labels, patches, kinds, numerical_margin=0)
    for answer in result.answers:
        question = (str(answer.patch.size), answer.certificate)
        own = [row for row in rows if (row["size_to_certify"], row["certificate"]) == question]
        assert [int(row["predicted"]) for row in own] == answer.predicted.tolist()
        assert classifier.predict(dataset.images).equal(answer.predicted)
        assert [row["certified"] == "True" for row in own] == answer.certified.tolist()
    assert result.answers[1].certified.any()
    (usual,) = certify(classifier, dataset.images, numerical_margin=0).answers
    assert usual.patch == classifier.patch == Patch(2, 8) and usual.certified.equal(result.answers[3].certified)
    with pytest.raises(ValueError, match="patch 29"):
        load("mnist-votes", Patch(29))
    assert load("mnist-votes", Share(1)).patch == Patch(3)  # 9 of 784 pixels


@pytest.mark.parametrize("name", ["mnist_masked_band.pth", "mnist_windows.pth"])
def test_other_checkpoints_are_no_networks_that_vote(name):
    with pytest.raises(UsageError, match=f"{name}: expected a checkpoint of train_mnist_band.py"):
        building.voting_network("checkpoint", checkpoint.SHIPPED / name, 1, 10)


JOINT = {
    "certify_cifar_joint.py": ("cifar10-bands-and-windows", 5),
    "certify_mnist_joint.py": ("mnist-bands-and-windows", 2),
    "attack_mnist_joint.py": ("mnist-bands-and-windows", 3),
}


@torch.no_grad()
@pytest.mark.parametrize("script", JOINT)
def test_bands_and_windows_are_those_of_the_script(script, tmp_path, monkeypatch):
    name, size = JOINT[script]
    loaded = load(name, Patch(size))
    bands, windows = table.named(name).variant(Patch(size)).files
    network, ablation = joint_of_script(script, bands, windows, size, monkeypatch)
    assert network.description == loaded.network.description
    assert ablation.description() == loaded.ablation.description()
    ours, theirs = loaded.network.state_dict(), network.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    if script.startswith("certify_mnist"):
        channels, height, width = named.IMAGE_SHAPES["mnist"]
        torch.manual_seed(0)
        ((scores, magnitudes),) = SmoothedClassifier(network, ablation).logits_and_magnitudes(
            torch.rand(1, channels, height, width), 1
        )
        question = Question(Patch(size), None, "masking", 1, 0.001, "float32")
        (found,) = loaded.verdicts(scores, magnitudes, [question])
        margin = Margin.of_scores(0.001, "float32")
        expected = masking_of(ablation, Patch(size)).verdicts(scores, margin, magnitudes)
        assert torch.equal(found.predicted, expected.predicted) and torch.equal(found.certified, expected.certified)
        torch.testing.assert_close(found.lead, expected.lead, rtol=1e-4, atol=1e-3)


def joint_of_script(script, bands, windows, size, monkeypatch):
    """The network that a script certifies or attacks, filled and folded as there, and its copies."""
    caught = []

    def catch(options, parts):
        (part,) = parts
        caught.append((options, part.network, part.ablation))

    monkeypatch.setattr(patchcert, "certify_parts", catch)
    monkeypatch.setattr(patchcert, "attack_masked", lambda *given: caught.append(given))
    asked = "--size_to_certify" if script.startswith("certify") else "--size_of_attack"
    assert run_here(script, "--checkpoint", bands, "--windows", windows, asked, size, folder=ROOT) == 0
    ((options, network, ablation),) = caught
    checkpoint.load_network("checkpoint", checkpoint.find("checkpoint", options.checkpoint), network.bands)
    network.fold()
    return network.eval(), ablation


class LooksAround(nn.Module):
    """A network whose answers for bands depend on all pixels."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images) + images.mean(dim=(1, 2, 3))[:, None, None]


@torch.no_grad()
def test_a_joint_network_whose_bands_look_further_than_they_say_is_refused():
    classifier, images = load("mnist-bands-and-windows", Patch(2)), torch.rand(1, 1, 28, 28)
    classifier.network.of_windows = None  # whose copies are masked, so that nothing has to be tried
    probing.tried_hidden_pixels(classifier, images)
    classifier.network.of_bands = LooksAround(classifier.network.of_bands)
    with pytest.raises(ValueError, match=probing.WITHIN_REACH):
        probing.tried_hidden_pixels(classifier, images)


def test_torch_hub_gives_the_same():
    loaded = torch.hub.load(str(ROOT), "mnist-bands", Patch(3), source="local")
    assert loaded.describe() == load("mnist-bands").describe() and loaded.patch == Patch(3)
    offered = {name for name in runpy.run_path(str(ROOT / "hubconf.py")) if not name.startswith("_")}
    assert offered - {"dependencies"} == set(table.models())


def test_what_is_known_costs_no_torch():
    code = "import sys; from patchcert.zoo import table; table.overview(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
