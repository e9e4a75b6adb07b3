"""What the training scripts hand over to the training loop."""

from dataclasses import replace

import pytest

from docs import make_pages
from patchcert.data.augmentation import random_crop, random_flip
from patchcert.training import loop
from patchcert.training.recipes import FAST, Recipe
from tests import oracle
from tests.helpers import ROOT, succeed
from tests.test_pictures import write_pictures

PICTURES = ["--dataset", "folder", "--data", "pictures", "--image_size", 8]
IMAGENET = ["--trainpath", "pictures/train", "--valpath", "pictures/test", "--model", "resnet18", "--image_size", 32]
ANOTHER = ["--lr", 0.02, "--regularization", 0.003, "--end_epoch", 7, "--batch_size", 9, "--amp", "--seed", 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generated_mnist):
    """A folder with MNIST's files and pictures of three classes."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "data").symlink_to(generated_mnist)
    for part in ("train", "test"):
        write_pictures(folder / "pictures" / part, ("cat", "dog", "eel"), 2)
    return folder


@pytest.mark.parametrize(
    ("script", "options", "shown", "channels", "recipe"),
    [
        ("mnist_band", ["--band_size", 5], oracle.bands(28, 28, 5), 2, Recipe(0.01, 0.0005, 199)),
        ("mnist_row", ["--band_size", 5], oracle.rows(28, 28, 5), 2, Recipe(0.01, 0.0005, 199)),
        ("mnist_block", ["--block_size", 5], oracle.blocks(28, 28, 5), 2, Recipe(0.01, 0.0005, 199)),
        (
            "mnist_multi_band",
            ["--bandwidth", 5, "--keep", 3],
            oracle.multi_bands(28, 28, 5, 3),
            2,
            Recipe(0.01, 0.0005, 199),
        ),
        (
            "mnist_multi_block",
            ["--block_size", 9, "--keep", 3],
            oracle.multi_blocks(28, 28, 9, 3),
            2,
            Recipe(0.01, 0.0005, 199),
        ),
        ("mnist_baseline", [], None, 1, Recipe(0.01, 0.0005, 19)),
        ("cifar_band", [*PICTURES, "--band_size", 3], oracle.bands(8, 8, 3), 6, Recipe(0.1, 0.0005, 199)),
        ("cifar_block", [*PICTURES, "--block_size", 3], oracle.blocks(8, 8, 3), 6, Recipe(0.1, 0.0005, 199)),
        ("cifar_baseline", PICTURES, None, 3, Recipe(0.1, 0.0005, 149)),
        ("imagenet_band", [*IMAGENET, "--band_size", 7], oracle.bands(32, 32, 7), 6, Recipe(0.1, 0.0005, 199, 196)),
    ],
)
def test_scripts_train_with_the_ablation_and_the_recipe_that_they_are_given(
    folder, monkeypatch, script, options, shown, channels, recipe
):
    given = []

    def train(network, objective, train_set, test_set, recipe, path, *rest, **more):
        given.append((network, objective, recipe))
        return {"acc": 0.0, "epoch": 0}

    monkeypatch.setattr(loop, "train", train)
    augmentations = {"mnist": (), "cifar": (random_crop, random_flip), "imagenet": (random_flip,)}[script.split("_")[0]]
    per = [] if shown is None else ["--ablation_per", "sample"]
    runs = {
        (): recipe,
        (*ANOTHER, *per): Recipe(0.02, 0.003, 7, 9, 3, ablation_per="sample" if per else "batch", amp=True),
    }
    if "cifar" in script:
        runs["--recipe", "fast"] = FAST
    for arguments in runs:
        succeed(f"train_{script}.py", *options, *arguments, folder=folder)
    assert [of_run for _, _, of_run in given] == [
        replace(of_run, augmentations=augmentations) for of_run in runs.values()
    ]
    for network, objective, recipe in given:
        assert (objective.per, objective.label_smoothing) == (recipe.ablation_per, recipe.label_smoothing)
        ablation = objective.ablation
        assert next(network.parameters()).shape[1] == channels
        assert (ablation is None) == (shown is None)
        if ablation is not None:
            masks = [[tuple(pixel) for pixel in mask.nonzero().tolist()] for mask in ablation.masks()]
            assert sorted(masks) == sorted(map(sorted, shown))


@pytest.mark.parametrize("script", ["train_mnist_band.py", "train_mnist_band_masked.py", "train_cifar_windows.py"])
def test_a_number_of_epochs_is_one_more_than_the_number_of_the_last(script):
    parser = make_pages.parser_of(ROOT / script)
    assert parser.parse_args(["--epochs", "10"]) == parser.parse_args(["--end_epoch", "9"])
    assert parser.parse_args(["--epochs", "10"]) != parser.parse_args([])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "argument --epochs: "),
        (["--epochs", "3", "--end_epoch", "2"], "argument --end_epoch: not allowed with argument --epochs"),
    ],
)
def test_a_number_of_epochs_that_cannot_be_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        make_pages.parser_of(ROOT / "train_mnist_band.py").parse_args(arguments)
    assert said in capsys.readouterr().err
