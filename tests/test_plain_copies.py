"""Networks of libraries, as they are, in the scripts for any network: against one of copies that shows the same."""

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
    for name in (f"copied:{own}", "timm:small"):
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
    one, other = found.values()
    assert one == other and len(one) == 12 and len({row["predicted"] for row in one}) > 1
    assert record["config"]["about"]["run"]["network"]["name"] == "small"
    assert "small" in capsys.readouterr().out


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
        ("copied:upright", ["--ablation", "band:4", "--hidden", "0.5"], "--hidden (0.5,): expected with timm:NAME"),
        ("copied:upright", ["--ablation", "band:4", "--classes", "imagenet"], "--classes imagenet: expected with"),
    ],
)
def test_wrong_use_is_said_in_one_line(folder, capsys, model, arguments, right):
    assert run_here("certify.py", "--model", model, *PICTURES, *arguments, folder=folder) == 2
    assert right in capsys.readouterr().err.strip().splitlines()[-1]
