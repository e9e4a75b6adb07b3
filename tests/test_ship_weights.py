"""Shipped weights: a checkpoint's in float16, or a share of the way to those of a further training."""

import pytest
import torch

from patchcert import checkpoint
from patchcert.ablations.windows import WindowPairs
from patchcert.engines.columns import LinesNetwork, Shape
from patchcert.small_networks import network_of_copies
from patchcert.zoo.building import windows_network
from tests.helpers import run_here

SHIP = "benchmarks/ship_weights.py"


def network(seed, classes=10, lines="columns"):
    torch.manual_seed(seed)
    bands = {"band_size": 2, "lines": lines, "height": 6, "width": 6, "image_channels": 1}
    made = LinesNetwork(Shape((4, 6), (0, 1), classes=classes, **bands))
    for normed in made.modules():
        if isinstance(normed, torch.nn.BatchNorm2d):
            normed.running_var.uniform_(0.5, 2)
            normed.num_batches_tracked.fill_(seed)
    return made


@pytest.fixture
def folder(tmp_path):
    kinds = {"first": (10, "columns"), "later": (10, "columns"), "other": (7, "columns"), "turned": (10, "rows")}
    for epoch, (name, (classes, lines)) in enumerate(kinds.items(), start=1):
        trained, name = network(epoch, classes, lines), f"{name}.pth"
        ablation = trained.shape.ablation().description()
        about = {"dataset": "digits", "classes": classes, "ablation": ablation, "network": trained.description}
        checkpoint.save({"net": trained.state_dict(), "epoch": epoch, "acc": 50.0, "about": about}, tmp_path / name)
    return tmp_path


def shipped(folder, *arguments):
    assert run_here(SHIP, "--checkpoint", "first.pth", "--output", "out.pth", *arguments, folder=folder) == 0
    return torch.load(folder / "out.pth", weights_only=True)


def test_weights_alone_ship_in_half_the_bytes(folder):
    content = shipped(folder)
    assert (content["acc"], content["epoch"], content["trained_as"]) == (50.0, 1, "first.pth")
    for name, tensor in network(1).state_dict().items():
        assert torch.equal(content["net"][name], tensor.half() if tensor.is_floating_point() else tensor)
    LinesNetwork.load(folder / "out.pth")


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_weights_lie_a_share_of_the_way_towards_a_further_training(folder, share):
    content = shipped(folder, "--towards", "later.pth", "--share", share)
    assert "acc" not in content  # nobody measured it
    assert (content["epoch"], content["trained_as"]) == (2, f"{share} of the way from first.pth to later.pth")
    later = network(2).state_dict()
    for name, tensor in network(1).state_dict().items():
        wanted = (1 - share) * tensor + share * later[name] if tensor.is_floating_point() else later[name]
        assert torch.allclose(content["net"][name].to(wanted.dtype), wanted, rtol=1e-3, atol=1e-6)
    LinesNetwork.load(folder / "out.pth")


@pytest.mark.parametrize("other", ["other.pth", "turned.pth"])  # of other shapes, and of the same
def test_another_network_is_no_further_training(folder, capsys, other):
    arguments = "--checkpoint", "first.pth", "--output", "out.pth"
    assert run_here(SHIP, *arguments, "--towards", other, "--share", 0.5, folder=folder) == 2
    assert f"--towards {other}: expected a further training of the network" in capsys.readouterr().err
    assert run_here(SHIP, *arguments, "--towards", "later.pth", "--share", 2, folder=folder) == 2
    assert "--share: 2: expected a number from 0 to 1" in capsys.readouterr().err


def test_a_network_for_windows_may_be_asked_about_others(folder, capsys):
    trained = network_of_copies("resnet14_half", 2, 10)
    ablation = WindowPairs(28, 28, 8, 6)
    about = {"dataset": "mnist", "classes": 10, "ablation": ablation.description(), "network": trained.description}
    content = {"net": trained.state_dict(), "epoch": 3, "acc": 50.0, "about": about}
    checkpoint.save(content, folder / "windows.pth")
    arguments = "--checkpoint", "windows.pth", "--output", "out.pth"
    assert run_here(SHIP, *arguments, "--windows", "5x7", "--float32", folder=folder) == 0
    made = torch.load(folder / "out.pth", weights_only=True)
    assert "acc" not in made and made["about"] == about | {"ablation": WindowPairs(28, 28, 5, 7).description()}
    assert all(torch.equal(made["net"][name], tensor) for name, tensor in trained.state_dict().items())
    assert windows_network("windows", folder / "out.pth", 1, 10)[1] == (5, 7)
    assert run_here(SHIP, *arguments, "--windows", "40x2", folder=folder) == 2
    assert run_here(SHIP, *arguments, "--windows", "none", folder=folder) == 2
    assert run_here(SHIP, "--checkpoint", "first.pth", *arguments[2:], "--windows", "5x7", folder=folder) == 2
    assert "--windows 5x7: first.pth is of no network for hidden windows" in capsys.readouterr().err


@pytest.mark.parametrize("alone", [("--towards", "later.pth"), ("--share", 0.5)])
def test_a_share_is_one_of_a_way(folder, capsys, alone):
    assert run_here(SHIP, "--checkpoint", "first.pth", "--output", "out.pth", *alone, folder=folder) == 2
    assert "expected a number beside --towards, and nothing without it" in capsys.readouterr().err
    assert not (folder / "out.pth").exists()
