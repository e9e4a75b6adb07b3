"""Weights of anybody's checkpoints, under the names that torch and people save them by."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from patchcert import weight_names
from patchcert.errors import UsageError
from patchcert.pretrained.found import Weights


def small(seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network = nn.Sequential(body, nn.Flatten(), nn.LazyLinear(5))
    network(torch.rand(2, 3, 6, 6))
    return network.eval()


class Wrapper(nn.Module):
    """Has an attribute of the name that DataParallel uses, as torch's own classes do not."""

    def __init__(self, network, attribute="module"):
        super().__init__()
        setattr(self, attribute, network)


def prefixed(prefix, network):
    return {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}


def without_counts(network):
    return {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def inside(wrapper, network):
    """Names of a network whose first part is wrapped."""
    return {name.replace("0.", f"0.{wrapper}.", 1): tensor for name, tensor in network.state_dict().items()}


TRAINED = small(1)

FILES = {
    "bare": TRAINED.state_dict(),
    "of DataParallel": nn.DataParallel(TRAINED).state_dict(),
    "compiled": prefixed("_orig_mod.", TRAINED),
    "compiled in DataParallel": prefixed("module._orig_mod.", TRAINED),
    "a part compiled": inside("_orig_mod", TRAINED),
    "of Lightning": {"state_dict": prefixed("model.", TRAINED), "epoch": 3},
    "of somebody's wrapper": prefixed("backbone.net.", TRAINED),
    "in a checkpoint": {"model": TRAINED.state_dict(), "optimizer": {"state": {}}},
    "older than counts of batches": without_counts(TRAINED),
    "averaged by torch": AveragedModel(TRAINED).state_dict(),
    "averaged beside the last": {"model": small(2).state_dict(), "model_ema": AveragedModel(TRAINED).state_dict()},
    "averaged by timm": {"state_dict": small(2).state_dict(), "state_dict_ema": prefixed("module.", TRAINED)},
    "in sixteen bits": {name: t.half() if t.is_floating_point() else t for name, t in TRAINED.state_dict().items()},
}


def written(content, path):
    torch.save(content, path)
    return Weights.read(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("wrap", [lambda network: network, Wrapper, lambda network: Wrapper(network, "net")])
def test_weights_are_found_under_any_names(name, wrap, tmp_path):
    weights = written(FILES[name], tmp_path / "weights.pth")
    network = small(7)
    weights.fill(wrap(network))
    for key, tensor in TRAINED.state_dict().items():
        wanted = tensor.half().float() if name == "in sixteen bits" and tensor.is_floating_point() else tensor
        assert network.state_dict()[key].equal(wanted), key


def test_the_entry_is_named(tmp_path):
    entries = {
        name: written(FILES[name], tmp_path / "weights.pth").about.get("entry")
        for name in ("bare", "in a checkpoint", "averaged by timm", "averaged beside the last")
    }
    assert list(entries.values()) == [None, "model", "state_dict_ema", "model_ema"]


def without(part):
    return {name: tensor for name, tensor in TRAINED.state_dict().items() if part not in name}


@pytest.mark.parametrize(
    ("content", "right"),
    [
        (without("2.bias"), "it has no tensor 2.bias"),
        (without("2."), "it has no tensor 2.weight"),
        (TRAINED.state_dict() | {"2.extra": torch.zeros(1)}, "its tensor 2.extra .* has no place here"),
        (prefixed("model.", TRAINED) | {"criterion.weight": torch.zeros(5)}, "criterion.weight .* has no place"),
        (prefixed("a.", TRAINED) | prefixed("b.", small(2)), "has no place here"),
        (TRAINED.state_dict() | prefixed("module.", small(2)), "its tensor module.0.0.weight .* has no place here"),
        (TRAINED.state_dict() | {"2.weight": torch.zeros(7, 64), "2.bias": torch.zeros(7)}, "it has 7 classes"),
        (TRAINED.state_dict() | {"2.bias": torch.full((5,), torch.nan)}, "tensor 2.bias is not finite"),
        (inside("module", TRAINED) | inside("_orig_mod", small(2)), "is of another network: "),
        ({"model": {"weights": [1, 2]}}, "expected a checkpoint with an entry `model` that holds tensors"),
    ],
)
def test_weights_of_another_network_are_refused(content, right, tmp_path):
    weights = None
    network = small(7)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UsageError, match=f"weights .*{right}"):
        weights = written(content, tmp_path / "weights.pth")
        weights.fill(network)
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())


def test_names_that_fit_nothing_come_back_as_they_are():
    found = {"a.b": torch.zeros(2), "c": torch.zeros(3)}
    assert weight_names.resolved(found, {"d.e": torch.zeros(2)}) == found
    assert weight_names.resolved({}, {}) == {}


def test_safetensors_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(TRAINED.state_dict(), tmp_path / "weights.safetensors")
    network = small(7)
    Weights.read(tmp_path / "weights.safetensors").fill(network)
    assert all(tensor.equal(network.state_dict()[name]) for name, tensor in TRAINED.state_dict().items())
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(whole[:-8])
    with pytest.raises(UsageError, match="a safetensors file that cannot be read"):
        Weights.read(tmp_path / "weights.safetensors")


def test_without_safetensors_it_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "weights.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(UsageError, match="is a safetensors file: pip install safetensors"):
        Weights.read(tmp_path / "weights.safetensors")
