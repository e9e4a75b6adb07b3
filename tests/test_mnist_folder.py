"""The MNIST scripts on somebody's own pictures: --dataset folder, in grey, 28 × 28, with the classes that there are."""

import csv

import pytest
import torch
from PIL import Image

from patchcert.data import folders
from tests.helpers import run_here, succeed
from tests.test_pictures import write_pictures

CLASSES = ("circle", "cross", "star")
PICTURES = ("--dataset", "folder", "--data", "shapes")
TRAINED = {
    "band": ("band_4", "one_band", ["top_one", "randomized"]),
    "row": ("band_4", "one_band", []),
    "block": ("block_4", "one_block", ["top_one"]),
    "multi_band": ("keep_2_bandwidth_2", "bands", []),
    "multi_block": ("block_9_keep_3", "block_fixed_exact", []),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with colour pictures of 20 × 20 pixels in shapes/{train,test}/CLASS/."""
    folder = tmp_path_factory.mktemp("shapes")
    for part in ("train", "test"):
        write_pictures(folder / "shapes" / part, CLASSES, 1, size=20)
    return folder


def test_grey_pictures_stay_as_they_are_and_others_turn_grey_and_are_resized(tmp_path):
    values = torch.arange(28 * 28).view(28, 28) % 256
    for part in ("train", "test"):
        write_pictures(tmp_path / part, ["colour"], 1, size=14)
        (tmp_path / part / "grey").mkdir()
        Image.fromarray(values.to(torch.uint8).numpy()).save(tmp_path / part / "grey" / "all.png")
    pictures = folders.load_folder(tmp_path, train=False, image_size=28, channels=1)
    assert pictures.images.shape == (2, 1, 28, 28) and pictures.labels.tolist() == [0, 1]
    assert pictures.images[1, 0].tolist() == values.tolist()
    colour = folders.load_folder(tmp_path, train=False, image_size=28).images[0].float()
    grey = (torch.tensor([299, 587, 114]) / 1000 * colour.permute(1, 2, 0)).sum(dim=2)
    assert (pictures.images[0, 0] - grey).abs().max() <= 2  # rounded before it is resized, not after


@pytest.mark.parametrize("ablation", TRAINED)
def test_smoothing_of_pictures_in_a_folder(folder, ablation):
    details, stem, others = TRAINED[ablation]
    sizes = ["--block_size", 9, "--keep", 3] if ablation == "multi_block" else []
    succeed(f"train_mnist_{ablation}.py", *PICTURES, *sizes, "--end_epoch", 0, folder=folder)
    name = f"{'t' * (ablation == 'row')}shapes_{stem}_lr_0.01_regularization_0.0005_{details}_epoch_0.pth"
    content = torch.load(folder / "checkpoints" / name, weights_only=True)
    assert content["net"]["0.weight"].shape == (64, 2, 4, 4) and len(content["net"]["9.weight"]) == len(CLASSES)
    for script in (ablation, *(f"{ablation}_{other}" for other in others)):
        asked = [*PICTURES, *sizes, "--checkpoint", name, "--all", "--limit", 2, "--per_image", "rows.csv"]
        asked += ["--engine", "dense"] if ablation == "block" and script != "block" else []
        succeed(f"certify_mnist_{script}.py", *asked, folder=folder)
        assert [int(row["label"]) for row in csv.DictReader((folder / "rows.csv").open())] == [0, 1]


@pytest.mark.parametrize("kind", ["baseline", "band", "block"])
def test_attacks_on_pictures_in_a_folder(folder, kind):
    succeed(f"train_mnist_{kind}.py", *PICTURES, "--end_epoch", 0, folder=folder)
    details = {"baseline": "", "band": "band_4_", "block": "block_4_"}[kind]
    stem = "baseline" if kind == "baseline" else f"one_{kind}"
    name = f"shapes_{stem}_lr_0.01_regularization_0.0005_{details}epoch_0.pth"
    effort = ["--steps", 1, "--randomizations", 1, "--skip", 2, "--all", "--per_image", "rows.csv"]
    succeed(f"attack_mnist_{kind}.py", *PICTURES, "--checkpoint", name, *effort, folder=folder)
    assert [int(row["index"]) for row in csv.DictReader((folder / "rows.csv").open())] == [0, 2]


def test_a_folder_that_is_not_laid_out_so_is_one_clear_line(folder, capsys):
    arguments = ["--dataset", "folder", "--data", "nowhere", "--end_epoch", 0]
    assert run_here("train_mnist_band.py", *arguments, folder=folder) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "--data nowhere: expected a folder with one folder of images" in message
