"""Row smoothing is band smoothing of transposed pictures, but for patches and places, which stay upright."""

import csv

import numpy as np
import pytest
import torch

from patchcert.ablations.ablation import Band, Row
from patchcert.attacks.threats import PatchThreat
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.patch import Patch
from tests import oracle
from tests.helpers import run_here, succeed
from tests.networks import save_random_network

ROWS = [Row(28, 28, 5), Row(6, 9, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generated_mnist):
    """A folder with MNIST's files in upright/, their pictures transposed in lying/, and a network without symmetry."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "upright").symlink_to(generated_mnist)
    raw = folder / "lying" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (generated_mnist / "MNIST" / "raw").iterdir():
        content = file.read_bytes()
        if "images" in file.name:
            pictures = np.frombuffer(content[16:], dtype=np.uint8).reshape(-1, 28, 28)
            content = content[:16] + pictures.transpose(0, 2, 1).tobytes()
        (raw / file.name).write_bytes(content)
    save_random_network(folder)
    return folder


def answers(folder, script, *arguments):
    """The rows per image, less what names the question."""
    succeed(script, *arguments, "--per_image", "rows.csv", folder=folder)
    table = list(csv.DictReader((folder / "rows.csv").open()))
    return [{name: value for name, value in row.items() if name != "size_to_certify"} for row in table]


@pytest.mark.parametrize("engine", ["windowed", "dense"])
@pytest.mark.parametrize(("upright", "lying"), [("1,5", "1,5"), ("2x8,9x3", "8x2,3x9")])
def test_rows_vote_as_bands_of_transposed_pictures_and_patches_are_upright(folder, engine, upright, lying):
    asked = ["--checkpoint", "net.pth", "--band_size", 6, "--engine", engine, "--certificate", "margin,exact", "--all"]
    of_rows = answers(
        folder, "certify_mnist_row.py", *asked, "--data", "upright", "--size_to_certify", upright,
        "--save_votes", "votes.npz",
    )  # fmt: skip
    bands = ("certify_mnist_band.py", *asked, "--size_to_certify", lying)
    assert of_rows == answers(folder, *bands, "--data", "lying")
    assert of_rows == answers(folder, "certify_votes.py", "--votes", "votes.npz", "--size_to_certify", upright,
                              "--certificate", "margin,exact")  # fmt: skip
    assert {"True", "False"} == {row["certified"] for row in of_rows}
    assert of_rows != answers(folder, *bands, "--data", "upright"), "the network should tell the ways up apart"


def test_rows_train_as_bands_of_transposed_pictures(folder):
    """The same weights and the same ablated accuracy after two epochs."""
    for kind, data in (("row", "upright"), ("band", "lying")):
        arguments = ["--band_size", 5, "--end_epoch", 1, "--lr", 0.05, "--data", data]
        succeed(f"train_mnist_{kind}.py", *arguments, folder=folder)
    name = "mnist_one_band_lr_0.05_regularization_0.0005_band_5_epoch_1.pth"
    rows, bands = (torch.load(folder / "checkpoints" / file, weights_only=True) for file in (f"t{name}", name))
    for key, weights in rows["net"].items():
        torch.testing.assert_close(weights, bands["net"][key], rtol=0, atol=1e-5)
    assert rows["acc"] == pytest.approx(bands["acc"])


def linear_network(height, width):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * height * width, 4))


@pytest.mark.parametrize("ablation", ROWS, ids=lambda row: f"{row.height}x{row.width}")
def test_an_attacker_climbs_on_upright_images_what_the_network_sees_lying(ablation):
    """Logits and gradients of chosen copies, and of all copies the probabilities, are those of the plain loop."""
    network = linear_network(ablation.width, ablation.height).eval()
    images = torch.rand(3, 1, ablation.height, ablation.width)
    classifier = SmoothedClassifier(network, ablation, 0.3)
    copies = torch.arange(ablation.count).repeat(3)
    attacked = images.clone().requires_grad_()
    logits = classifier.logits(attacked, torch.arange(3).repeat_interleave(ablation.count), copies)
    (gradient,) = torch.autograd.grad(logits.square().sum(), attacked)

    lying = images.transpose(2, 3).clone().requires_grad_()
    band = SmoothedClassifier(network, Band(ablation.width, ablation.height, ablation.band_size), 0.3)
    expected = band.logits(lying, torch.arange(3).repeat_interleave(ablation.count), copies)
    (wanted,) = torch.autograd.grad(expected.square().sum(), lying)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(gradient, wanted.transpose(2, 3))
    shown = oracle.bands(ablation.width, ablation.height, ablation.band_size)
    plain = torch.stack([oracle.probabilities(network, image.T[None], shown) for image in images[:, 0]])
    torch.testing.assert_close(torch.cat([*classifier.every_copy(images, 50)]).softmax(2), plain)


@pytest.mark.parametrize("ablation", ROWS, ids=lambda row: f"{row.height}x{row.width}")
def test_an_attacked_patch_changes_the_copies_that_it_is_said_to_touch_and_no_others(ablation):
    network = linear_network(ablation.width, ablation.height)
    threat = PatchThreat(Patch(2, 5), ablation)
    classifier = SmoothedClassifier(network, ablation, 0.3)
    places = torch.arange(len(threat.touched))
    images = torch.full((len(places), 1, ablation.height, ablation.width), 0.3)
    attacked = images.where(~threat.inside(images, places), 0.9)
    before, after = (torch.cat([*classifier.every_copy(batch, 500)]) for batch in (images, attacked))
    assert torch.equal((before != after).any(dim=2), threat.touched)


def test_row_networks_of_earlier_versions_are_refused(folder, capsys):
    """They have settings, which the paper's have not, but say nothing of themselves; they saw upright pictures."""
    content = torch.load(folder / "checkpoints" / "net.pth", weights_only=True)
    torch.save(content | {"settings": {"lr": 0.01}}, folder / "checkpoints" / "before.pth")
    assert run_here("certify_mnist_row.py", "--checkpoint", "before.pth", "--data", "upright", folder=folder) == 2
    assert "row networks of earlier versions saw upright images" in capsys.readouterr().err
