"""Networks for whole images, as they are, in the scripts for any network: against one of copies that shows the same."""

import csv
import json

import pytest
import torch
from torch import nn
from torchvision import transforms

from patchcert import PlainNetwork, encode
from patchcert.ablations.ablation import Band, Row
from patchcert.engines.plain_copies import PlainCopies
from patchcert.pretrained import from_timm
from patchcert.pretrained.found import Found
from tests.helpers import run_here, succeed
from tests.test_pictures import write_pictures

FACTORIES = """
import torch
from torch import nn
from torchvision.transforms import Compose, Grayscale, Normalize, Resize, ToTensor

from patchcert import PlainNetwork


def of_pictures():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3))
    network[3].weight.data *= 20
    return network.eval()


class OfCopies(nn.Module):
    def __init__(self, turned):
        super().__init__()
        self.network, self.turned = of_pictures(), turned

    def forward(self, copies):
        if self.turned:
            copies = copies.transpose(2, 3)
        x, inverse = copies.chunk(2, dim=1)
        return self.network((x + 0.4 * (1 - x - inverse) - 0.4) / 0.2)


def prepared():
    network = of_pictures()
    network.preparation = Compose([Resize((20, 20)), ToTensor(), Normalize(0.4, 0.2)])
    return network


def plain(hidden="mean", steps=()):
    network = PlainNetwork(of_pictures(), mean=0.4, std=0.2, hidden=hidden)
    network.preparation = Compose([Resize((20, 20)), ToTensor(), *steps])
    return network


def plain_and_bright():
    return plain(0.9)


def normalised_twice():
    return plain(steps=[Normalize(0.4, 0.2)])


def without_steps():
    network = plain()
    del network.preparation
    return network


def of_digits():
    torch.manual_seed(0)
    return PlainNetwork(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval(), mean=0.5)


def of_grey():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Flatten(), nn.Linear(100, 3))
    network.preparation = Compose([Grayscale(), Resize((20, 20)), ToTensor()])
    return network


def in_training_mode():
    network = prepared()
    return network.train()


def upright():
    return OfCopies(False)


def turned():
    return OfCopies(True)
"""

PICTURES = ("--dataset", "folder", "--data", "pets", "--image_size", 20, "--all", "--skip", 1)

ATTACK = ("--size_of_attack", 6, "--randomizations", 2, "--steps", 3, "--step_size", 0.3)


@pytest.fixture
def folder(tmp_path, monkeypatch, let_import):
    """Pictures, a network of copies, and the same one of pictures that timm is said to make."""
    let_import(tmp_path, "copied", FACTORIES)
    write_pictures(tmp_path / "pets" / "test", ("cat", "dog", "eel"), 4, size=20)

    def find(name, weights):
        import copied

        steps = [transforms.Resize((20, 20)), transforms.ToTensor(), transforms.Normalize(0.4, 0.2)]
        return Found(copied.of_pictures(), transforms.Compose(steps), {"name": name, "weights": "its own"})

    monkeypatch.setattr(from_timm, "find", find)
    return tmp_path


@pytest.mark.parametrize(
    ("script", "asked", "own"),
    [
        ("certify.py", ("--ablation", "band:12", "--threshold", 0.5, "--certificate", "exact"), "upright"),
        ("certify.py", ("--ablation", "row:12", "--threshold", 0.5, "--certificate", "exact"), "turned"),
        ("certify_masked.py", ("--ablation", "window_pairs:8x3", "--size_to_certify", 2), "upright"),
        ("attack.py", ("--ablation", "row:12", *ATTACK), "turned"),
        ("attack_masked.py", ("--ablation", "band:12", *ATTACK), "upright"),
    ],
)
def test_a_network_of_a_library_is_asked_of_what_its_copies_show(folder, capsys, script, asked, own):
    found = {}
    for name in (f"copied:{own}", "timm:small", "copied:prepared", "copied:plain"):
        files = ("--output", "found.json", "--per_image", "found.csv")
        succeed(script, "--model", name, *asked, *PICTURES, *files, folder=folder)
        record = json.loads((folder / "found.json").read_text())
        with (folder / "found.csv").open() as file:
            rows = list(csv.DictReader(file))
        found[name] = [
            {key: value for key, value in row.items() if key in ("index", "label", "votes") or "predicted" in key}
            | {key: value for key, value in row.items() if key.startswith("certified") or key == "flipped"}
            for row in rows
        ]
        (folder / "found.json").unlink()
        assert record["config"]["about"]["run"]["network"]["name"] in ("OfCopies", "small", name)
    one, *others = found.values()
    assert all(one == other for other in others) and len(one) == 12 and len({row["predicted"] for row in one}) > 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "; hidden pixels 0.4" in line]
    assert [line.partition(";")[0] for line in lines] == ["small", "copied:prepared", "copied:plain"]


def config_and_rows(folder, *arguments):
    files = ("--output", "found.json", "--per_image", "found.csv", "--overwrite")
    succeed("certify.py", "--ablation", "band:12", "--top_one", *arguments, *files, folder=folder)
    return json.loads((folder / "found.json").read_text())["config"], (folder / "found.csv").read_text()


def test_hidden_pixels_have_the_colour_of_a_plain_network_itself(folder):
    """Whatever the scripts' own default is; of other networks --hidden says it."""
    config, rows = config_and_rows(folder, *PICTURES, "--model", "copied:plain_and_bright")
    same, expected = config_and_rows(folder, *PICTURES, "--model", "copied:prepared", "--hidden", 0.9)
    assert rows == expected and config["hidden"] == pytest.approx([0.9]) and same["hidden"] == [0.9]
    assert config["about"]["network"]["std"] == pytest.approx([0.2])  # its own
    usual, others = config_and_rows(folder, *PICTURES, "--model", "copied:prepared")
    assert others != rows and usual["hidden"] == "mean"


def test_images_are_as_grey_as_the_transform_makes_them(folder):
    config, rows = config_and_rows(folder, *PICTURES, "--model", "copied:of_grey")
    assert len(config["about"]["network"]["mean"]) == 1 and len(rows.splitlines()) == 13


def test_data_sets_with_a_name_need_no_preparation_of_a_plain_network(folder):
    config, rows = config_and_rows(folder, "--dataset", "digits", "--limit", 5, "--model", "copied:of_digits")
    assert config["about"]["network"]["size"] == [28, 28] and len(rows.splitlines()) == 6


@pytest.mark.parametrize(
    ("script", "asked", "words"),
    [
        ("certify.py", ("--ablation", "band:12", "--top_one", "--size_to_certify"), "; patch 2% (3 × 3); margin"),
        ("certify_masked.py", ("--ablation", "band:12", "--size_to_certify"), "; patch 2% (3 × 3); masking"),
        ("attack.py", ("--ablation", "band:12", *ATTACK[2:], "--size_of_attack"), "; patch 2% (3 × 3) at rand"),
        ("attack_masked.py", ("--ablation", "band:12", *ATTACK[2:], "--size_of_attack"), "; patch 2% (3 × 3) at rand"),
    ],
)
def test_a_share_of_the_pixels_is_the_square_that_it_is(folder, capsys, script, asked, words):
    """2 % of 20 × 20 pixels are 8 of them, which 3 × 3 hold."""
    found = {}
    for size in ("2%", 3):
        files = ("--output", f"{size}.json", "--per_image", f"{size}.csv")
        succeed(script, "--model", "copied:prepared", *PICTURES, *asked, size, *files, folder=folder)
        record, lines = json.loads((folder / f"{size}.json").read_text()), capsys.readouterr().out.splitlines()
        assert words.replace("2% (3 × 3)", "2% (3 × 3)" if size == "2%" else "3 × 3") in "\n".join(lines)
        found[size] = record["results"], (folder / f"{size}.csv").read_text()
        certified = record["kind"] == "certify"
        assert (record["results"][0].get("size_to_certify"), record["config"].get("size_of_attack")) == (
            (3, None) if certified else (None, 3)
        )
        assert record["config"].get("size_to_certify") == ([size] if certified else None)
    assert found["2%"] == found[3]


def test_hidden_windows_take_a_plain_network_as_it_is(folder, capsys):
    seen = []
    for model in ("copied:plain", "copied:prepared"):
        asked = ("--data", "pets", "--all", "--size_to_certify", 3, "--per_side", 2, "--per_image", "found.csv")
        succeed("certify_imagenet_windows.py", "--model", model, *asked, folder=folder)
        with (folder / "found.csv").open() as file:
            seen.append([(row["predicted"], row["certified"]) for row in csv.DictReader(file)])
        assert "; hidden pixels 0.4" in capsys.readouterr().out
    assert seen[0] == seen[1] and len(seen[0]) == 12


def test_a_factory_is_called_once_and_its_network_put_into_eval_mode(folder, monkeypatch):
    import copied

    made, make = [], copied.in_training_mode
    monkeypatch.setattr(copied, "in_training_mode", lambda: made.append(make()) or made[-1])
    config_and_rows(folder, *PICTURES, "--model", "copied:in_training_mode")
    assert len(made) == 1 and not made[0].training


def test_weights_from_a_file_go_into_a_network_with_a_preparation_and_into_a_plain_one(folder):
    import copied

    network = copied.of_pictures()
    network[3].weight.data *= -1
    torch.save(network.state_dict(), folder / "trained.pth")
    found = {}
    for model in ("prepared", "plain"):
        asked = (*PICTURES, "--model", f"copied:{model}")
        config, found[model] = config_and_rows(folder, *asked, "--weights", "trained.pth")
        about = config["about"]
        assert about["network"]["weights"] == "trained.pth" and len(about["sha256"]["weights"]) == 64
        assert found[model] != config_and_rows(folder, *asked)[1]
    assert found["prepared"] == found["plain"]


def test_hidden_pixels_show_the_colour_and_others_themselves():
    shown = []

    class Seen(nn.Module):
        def forward(self, images):
            shown.append(images)
            return images.flatten(1)[:, :2]

    images = torch.rand(3, 3, 6, 6)
    images[0], images[1] = 0, 1
    for ablation in (Band(6, 6, 2), Row(6, 6, 2)):
        network = PlainCopies(PlainNetwork(Seen().eval(), hidden=(0.1, 0.2, 0.3)), ablation)
        masks = ablation.masks(torch.tensor([0, 2, 5]))[:, None]
        network(ablation.as_seen(encode(images) * masks))
        expected = images.where(masks > 0, torch.tensor([0.1, 0.2, 0.3])[:, None, None])
        assert shown[-1].equal(expected)


def test_what_pictures_show_changes_nothing_of_what_is_hidden():
    ablation, network = Band(8, 8, 3), PlainNetwork(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval(), mean=0.5)
    copies = PlainCopies(network, ablation)
    images = torch.rand(5, 3, 8, 8)
    images[1:] = images[0].where(ablation.masks(torch.tensor([4])) > 0, images[1:])
    seen = copies(encode(images) * ablation.masks(torch.tensor([4]))[:, None])
    assert (seen == seen[0]).all()


@pytest.mark.parametrize(
    ("model", "arguments", "right"),
    [
        ("timm:small", ["--ablation", "band:21"], "--ablation band:21: "),
        ("timm:small", ["--ablation", "band:4", "--compile"], "--compile True: expected none"),
        ("timm:small", ["--ablation", "band:4", "--engine", "windowed"], "windowed"),
        (
            "copied:upright",
            ["--ablation", "band:4", "--hidden", "0.5"],
            "--hidden (0.5,): expected with a network for whole images alone; copied:upright makes a network without "
            "`preparation`, which is shown encoded copies",
        ),
        ("copied:upright", ["--ablation", "band:4", "--classes", "imagenet"], "--classes imagenet: expected with"),
        (
            "copied:of_pictures",
            ["--ablation", "band:4"],
            "--model copied:of_pictures: it is a network without `preparation`, which is shown encoded copies "
            "(B, 6, H, W), but it takes images (B, 3, H, W). To certify it as it is, give it the attribute "
            "`preparation` or return a PlainNetwork; else return a network of 6 channels that was trained on copies",
        ),
        (
            "copied:plain",
            ["--ablation", "band:4", "--hidden", "mean"],
            "--hidden mean: expected none, because copied:plain makes a PlainNetwork, which has its own colour",
        ),
        (
            "copied:normalised_twice",
            ["--ablation", "band:4"],
            "its `preparation` changes colours, but a PlainNetwork normalises by itself; expected pixels in [0, 1]",
        ),
        (
            "copied:without_steps",
            ["--ablation", "band:4"],
            "expected an attribute `preparation` of the network, a transform from an image to a tensor",
        ),
        ("copied:prepared", ["--ablation", "band:4", "--compile"], "--compile True: expected none"),
        ("copied:prepared", ["--ablation", "band:4", "--engine", "windowed"], "windowed"),
    ],
)
def test_wrong_use_is_said_in_one_line(folder, capsys, model, arguments, right):
    assert run_here("certify.py", "--model", model, *PICTURES, *arguments, folder=folder) == 2
    assert right in capsys.readouterr().err.strip().splitlines()[-1]
