import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from patchcert import checkpoint, tensor_files
from patchcert.engines.columns import LinesNetwork
from patchcert.errors import UsageError
from patchcert.networks import mnist_network


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_the_published_ones():
    first = checkpoint.run_name("mnist_one_band", 0.01, 0.0005, "band_4", 199, None)
    assert first == "mnist_one_band_lr_0.01_regularization_0.0005_band_4_epoch_199.pth"
    assert checkpoint.run_name("mnist_one_band", 0.001, 0.0005, "band_4", 399, f"checkpoints/{first}") == (
        "mnist_one_band_lr_0.001_regularization_0.0005_band_4_epoch_399_resume_"
        "mnist_one_band_lr_0.01_regularization_0.0005_band_4_epoch_199.pth.pth"
    )


def test_a_name_too_long_for_a_file_is_refused():
    with pytest.raises(UsageError, match=r"^resume"):
        checkpoint.run_name("mnist_one_band", 0.01, 0.0005, "band_4", 199, "x" * 200)


def test_the_networks_keys_are_the_published_ones():
    assert [key for key in mnist_network().state_dict() if key.endswith("weight")] == [
        f"{layer}.weight" for layer in (0, 2, 5, 7, 9)
    ]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.pth"
    checkpoint.save({"epoch": 1}, path)

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_atomically(path, fail)
    assert checkpoint.read("resume", path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.pth"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.pth").symlink_to("net.pth")
    checkpoint.save({"net": {}}, tmp_path / "link.pth")
    assert (tmp_path / "link.pth").is_symlink() and (tmp_path / "net.pth").is_file()


class Holder(nn.Module):
    """Its own attribute is called `module`."""

    def __init__(self):
        super().__init__()
        self.module = small_network()


def small_network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def before_batches_were_counted(network):
    return {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}


SAVED = {
    "as it is": lambda network: network.state_dict(),
    "parallel": lambda network: nn.DataParallel(network).state_dict(),
    "compiled": lambda network: torch.compile(network).state_dict(),
    "parallel and compiled": lambda network: nn.DataParallel(torch.compile(network)).state_dict(),
    "averaged": lambda network: AveragedModel(network).state_dict(),
    "averaged and parallel": lambda network: nn.DataParallel(AveragedModel(network)).state_dict(),
    "old": before_batches_were_counted,
}


@pytest.mark.parametrize("build", [small_network, Holder])
@pytest.mark.parametrize("how", SAVED)
def test_weights_of_wrapped_networks_are_taken(tmp_path, how, build):
    source, target = build(), build()
    torch.save({"net": SAVED[how](source), "acc": 1.0, "epoch": 3}, tmp_path / "net.pth")
    assert checkpoint.load_network("checkpoint", tmp_path / "net.pth", target)["epoch"] == 3
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_a_checkpoint_that_would_execute_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    path = tmp_path / "bomb.pth"
    path.write_bytes(pickle.dumps(Bomb(), protocol=2))
    torch.save({"net": {}, "acc": Bomb()}, tmp_path / "zipped.pth")
    (tmp_path / "empty.pth").touch()
    for file in ("bomb.pth", "zipped.pth", "empty.pth"):
        with pytest.raises(UsageError, match="loaded safely"):
            checkpoint.read("checkpoint", tmp_path / file)
    assert not (tmp_path / "executed").exists()


@given(content=st.binary() | st.text("(.0123456789]}acdegilopqrstu\n").map(str.encode))
def test_a_file_of_anything_else_is_refused(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("anything") / "file.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"loaded safely|expected a dict"):
        checkpoint.read("checkpoint", path)


@pytest.mark.parametrize(
    "kept",
    [
        torch.arange(11)[::10],  # an element of it has the stride of ten
        torch.arange(10)[::10],
        torch.rand(3, 4).t()[:1],
        torch.rand(6, 1, 2, 2)[::6, :, ::2, ::2],
        torch.tensor([True, False])[::2],
        torch.tensor(3.0),
        torch.rand(0, 3),
    ],
)
def test_parts_of_tensors_have_the_digest_of_their_values(kept):
    anew = torch.tensor(kept.tolist(), dtype=kept.dtype).view(kept.shape)
    assert tensor_files.digest(kept) == tensor_files.digest(anew)
    assert checkpoint.fingerprint([kept]) == checkpoint.fingerprint([anew])
    assert tensor_files.bytes_of(kept).tobytes() == anew.numpy().tobytes()


def test_missing_checkpoint_lists_the_nearest_first(folder):
    for name in ("cifar_one_band_epoch_1.pth", "mnist_one_band_lr_0.01_epoch_199.pth", "mnist_one_block_epoch_3.pth"):
        checkpoint.save({}, folder / "checkpoints" / name)
    with pytest.raises(UsageError) as caught:
        checkpoint.find("checkpoint", "mnist_one_band_lr_0.01_epoch_198.pth")
    message = str(caught.value)
    assert message.startswith("checkpoint mnist_one_band_lr_0.01_epoch_198.pth: no such checkpoint")
    assert message.index("epoch_199") < message.index("block") and message.index("epoch_199") < message.index("cifar")


def test_networks_that_ship_are_found_from_any_folder_unless_one_there_has_their_name(folder):
    shipped = checkpoint.find("checkpoint", "mnist_masked_band.pth")
    assert shipped == checkpoint.SHIPPED / "mnist_masked_band.pth" and LinesNetwork.load(shipped)
    checkpoint.save({}, folder / "checkpoints" / "mnist_masked_band.pth")
    assert checkpoint.find("checkpoint", "mnist_masked_band.pth") == Path("checkpoints/mnist_masked_band.pth")
    with pytest.raises(UsageError, match="no such checkpoint"):
        checkpoint.find("checkpoint", "../README.md")
    assert checkpoint.find("checkpoint", "mnist_windows") == checkpoint.SHIPPED / "mnist_windows.pth"


def test_those_that_fit_the_script_are_listed_first(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["certify_mnist_band_masked.py"])
    for age, name in enumerate(
        ["cifar_masked_band", "mnist_masked_band", "mnist_one_band_epoch_3", "mnist_row", "net"]
    ):
        checkpoint.save({}, folder / "checkpoints" / f"{name}.pth")
        os.utime(folder / "checkpoints" / f"{name}.pth", (age, age))
    listed = "checkpoints/ has mnist_masked_band.pth, "
    assert checkpoint.there_are().startswith(listed)
    with pytest.raises(UsageError, match=f"^checkpoint nets.pth: no such checkpoint; {listed}"):
        checkpoint.find("checkpoint", "nets.pth")
    os.utime(folder / "checkpoints" / "mnist_masked_band.pth", (9, 9))
    monkeypatch.setattr(sys, "argv", ["certify_mnist_band.py"])
    assert checkpoint.there_are().startswith("checkpoints/ has mnist_one_band_epoch_3.pth, mnist_masked_band.pth, ")


def test_a_name_needs_no_pth(folder):
    for path in ("checkpoints/net.pth", "elsewhere/net.pth", "checkpoints/whole"):
        checkpoint.save({}, folder / path)
    (folder / "net").mkdir()
    for name, path in {"net": "checkpoints/net.pth", "elsewhere/net": "elsewhere/net.pth"}.items():
        assert checkpoint.find("checkpoint", name) == checkpoint.find("checkpoint", f"{name}.pth") == Path(path)
    assert checkpoint.find("checkpoint", "whole") == Path("checkpoints/whole")


@pytest.mark.parametrize("name", ["net", "net.pth"])
def test_what_an_interrupted_training_left_is_named_where_it_is_all_there_is(folder, name):
    checkpoint.save({}, folder / "checkpoints" / "net.pth.partial")
    said = "checkpoints/net.pth.partial is an interrupted training's, the same command continues it$"
    with pytest.raises(UsageError, match=f"^checkpoint {name}: no such checkpoint; {said}"):
        checkpoint.find("checkpoint", name)
    assert checkpoint.there_are().startswith("checkpoints/ has no checkpoints but net.pth.partial of an interrupted")
    checkpoint.save({}, folder / "checkpoints" / "net.pth")
    assert checkpoint.find("checkpoint", name) == Path("checkpoints/net.pth")


def test_a_files_digest_is_what_sha256sum_prints(folder):
    (folder / "file").write_bytes(b"abc")
    assert checkpoint.sha256(folder / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_path_is_accepted_too(folder):
    checkpoint.save({}, folder / "elsewhere" / "net.pth")
    assert checkpoint.find("checkpoint", "elsewhere/net.pth").is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda net: net.update({"0.weight": torch.zeros(64, 6, 4, 4)}),
            r"0.weight is \(64, 6, 4, 4\) in the file and",
        ),
        (lambda net: net.pop("9.bias"), "no tensor 9.bias"),
        (lambda net: net.update({"extra": torch.zeros(2)}), r"tensor extra \(2,\) has no place"),
        (lambda net: net["9.bias"][0].fill_(torch.nan), "tensor 9.bias is not finite: its training diverged"),
        (lambda net: net.update({"9.bias": 1}), "an entry `net` that holds tensors"),
    ],
)
def test_what_is_wrong_with_the_weights_is_said(tmp_path, change, said):
    weights = dict(mnist_network().state_dict())
    change(weights)
    checkpoint.save({"net": weights, "acc": 0.0, "epoch": 0}, tmp_path / "net.pth")
    with pytest.raises(UsageError, match=said):
        checkpoint.load_network("checkpoint", tmp_path / "net.pth", mnist_network())
