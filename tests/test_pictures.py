"""CIFAR-10 and ImageNet: networks, pictures, scripts, one process and two, on generated pictures."""

import argparse
import csv
import hashlib
import json
import pickle
import shutil

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.datasets import CIFAR10
from torchvision.transforms.v2 import functional as transforms

import resnet_imgnt
from patchcert import checkpoint
from patchcert.ablations.ablation import Band, encode
from patchcert.data import folders, named
from patchcert.data.augmentation import random_crop, random_flip
from patchcert.data.dataset import Dataset
from patchcert.data.folders import PictureFolder, normalise_imagenet
from patchcert.experiments.setting import load_images
from patchcert.small_networks import cifar_resnet
from patchcert.training import loop
from patchcert.training.objectives import OneCopy, ablated
from patchcert.training.recipes import Recipe
from tests.helpers import ROOT, run_here, run_in_two_processes, succeed, succeed_in_two_processes

IMAGENET_SAMPLE = ROOT / "data" / "imagenet_sample"
PETS = ("--dataset", "folder", "--data", "pets", "--image_size", 8)
SMALL = (*PETS, "--model", "resnet14_half")


def write_pictures(root, classes, count, size=8, suffix="png"):
    """`count` pictures of `size` × `size` pixels for each of `classes`, each class of a colour of its own."""
    random = torch.Generator().manual_seed(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture = torch.randint(0, 100, (3, size, size), generator=random)
            picture[number % 3] += 150
            transforms.to_pil_image(picture.to(torch.uint8)).save(root / name / f"{i:04d}.{suffix}")


def test_other_pictures_of_the_same_names_are_another_data_set(tmp_path):
    write_pictures(tmp_path / "pets", ("cat", "dog"), 2)
    before = PictureFolder("data", tmp_path / "pets", 8).fingerprint()
    picture = tmp_path / "pets" / "dog" / "0001.png"
    picture.write_bytes(picture.read_bytes() + bytes(1))
    assert PictureFolder("data", tmp_path / "pets", 8).fingerprint() != before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with pets/{train,test}/{cat,dog,eel}/ and a network for them whose votes differ between ablations."""
    root = tmp_path_factory.mktemp("run")
    write_pictures(root / "pets" / "train", ("cat", "dog", "eel"), 12)
    write_pictures(root / "pets" / "test", ("cat", "dog", "eel"), 7)
    save_random_network(root / "checkpoints" / "net.pth")
    return root


def save_random_network(path):
    torch.manual_seed(0)
    network = cifar_resnet("resnet14_half", classes=3).train()
    for _ in range(20):  # so that batch norm has seen what ablated copies look like
        network(encode(torch.rand(32, 3, 8, 8)) * Band(8, 8, 3).masks(torch.randint(8, (32,)))[:, None])
    network.linear.weight.data *= 20
    checkpoint.save({"net": network.state_dict(), "acc": 0.0, "epoch": 0}, path)
    return network.eval()


@pytest.mark.parametrize(
    ("model", "weights", "width"), [("resnet18", 20, 512), ("resnet34", 36, 512), ("resnet50", 53, 2048)]
)
@pytest.mark.parametrize("channels", [3, 6])
def test_cifar_networks_have_the_keys_and_shapes_of_the_specification(model, weights, width, channels):
    network = cifar_resnet(model, channels, classes=7).eval()
    state = network.state_dict()
    assert state["conv1.weight"].shape == (64, channels, 3, 3) and state["linear.weight"].shape == (7, width)
    assert {"bn1.running_mean", "layer1.0.conv1.weight", "layer2.0.shortcut.0.weight"} <= set(state)
    assert {"layer2.0.shortcut.1.weight", "layer4.1.bn2.bias", "linear.bias"} <= set(state)
    assert ("layer1.0.shortcut.0.weight" in state) == (model == "resnet50")
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == weights
    assert network(torch.rand(2, channels, 32, 32)).shape == (2, 7)
    assert network.layer3(network.layer2(network.layer1(torch.rand(1, 64, 32, 32)))).shape[-2:] == (8, 8)


@pytest.mark.parametrize(("model", "convolutions"), [("resnet101", 104), ("resnet152", 155)])
def test_deep_cifar_networks_have_the_depth_of_their_name(model, convolutions):
    with torch.device("meta"):
        network = cifar_resnet(model)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == convolutions


@pytest.mark.parametrize("model", resnet_imgnt.MODELS)
def test_imagenet_networks_differ_from_torchvisions_in_the_stem_alone(model):
    with torch.device("meta"):
        mine, theirs = resnet_imgnt.imagenet_resnet(model).state_dict(), models.get_model(model).state_dict()
    differing = [key for key in theirs if mine[key].shape != theirs[key].shape]
    assert list(mine) == list(theirs) and differing == ["conv1.weight"] and mine["conv1.weight"].shape == (64, 6, 7, 7)


def test_pretrained_weights_give_a_fully_visible_picture_the_same_output(monkeypatch):
    torch.manual_seed(0)
    theirs = models.resnet18(num_classes=11).eval()
    monkeypatch.setattr(resnet_imgnt, "_torchvision_weights", lambda model: theirs.state_dict())
    mine = resnet_imgnt.pretrained_imagenet_resnet("resnet18", classes=11).eval()
    pictures = normalise_imagenet(torch.rand(2, 3, 37, 41))
    assert torch.allclose(mine.conv1(encode(pictures)), theirs.conv1(pictures), atol=1e-5)
    assert torch.allclose(mine(encode(pictures)), theirs(pictures), atol=1e-5)
    other = resnet_imgnt.pretrained_imagenet_resnet("resnet18", classes=5)
    assert other.fc.weight.shape == (5, 512)
    assert torch.equal(other.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_torchvisions_files_and_the_tree_give_the_same_tensors(tmp_path, monkeypatch):
    names = [f"class{number}" for number in range(10)]
    for part in ("train", "test"):
        write_pictures(tmp_path / "tree" / "cifar10" / part, names, 5, size=32)
    tree = {part: named.load("cifar10", tmp_path / "tree", part) for part in (True, False)}
    files = tmp_path / "files" / CIFAR10.base_folder
    files.mkdir(parents=True)
    parts = tree[True].images.split(10), tree[True].labels.split(10)
    batches = list(zip([name for name, _ in CIFAR10.train_list], *parts, strict=True))
    for name, images, labels in [*batches, ("test_batch", tree[False].images, tree[False].labels)]:
        (files / name).write_bytes(pickle.dumps({"data": images.flatten(1).numpy(), "labels": labels.tolist()}))
    for listed in ("train_list", "test_list"):
        md5s = [[name, hashlib.md5((files / name).read_bytes()).hexdigest()] for name, _ in getattr(CIFAR10, listed)]
        monkeypatch.setattr(CIFAR10, listed, md5s)
    for part in (True, False):
        loaded = named.load("cifar10", tmp_path / "files", part)
        assert torch.equal(loaded.images, tree[part].images) and torch.equal(loaded.labels, tree[part].labels)


def test_original_pixels_of_cifar10_go_before_copies_and_are_known_by_their_sums(tmp_path, monkeypatch):
    names = [f"class{number}" for number in range(10)]
    for part in ("train", "test"):
        write_pictures(tmp_path / "cifar10" / part, names, 3, size=32)
    copies = named.load("cifar10", tmp_path, train=False)
    for part in ("train", "test"):
        write_pictures(tmp_path / "cifar10_exact" / part, names, 2, size=32)
    originals = named.load("cifar10", tmp_path, train=False)
    assert (len(copies), len(originals)) == (30, 20)
    monkeypatch.setattr(named, "CIFAR10_SUMS", (tuple(originals.images.long().sum(dim=(0, 2, 3)).tolist()),))
    assert named.cifar10_pictures(originals) == "original" and named.cifar10_pictures(copies) == "copies"
    options = argparse.Namespace(dataset="cifar10", data=tmp_path)
    assert len(load_images(options, train=False)) == 20 and options.pictures == "original"


def test_a_folder_gives_its_pictures_resized_and_in_order(folder):
    exact = folders.load_folder(folder / "pets", train=False, image_size=8)
    assert exact.images.shape == (21, 3, 8, 8) and exact.images.dtype == torch.uint8
    assert exact.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert (exact.images[10, 1] >= 150).all() and (exact.images[10, 0] < 100).all()
    assert folders.load_folder(folder / "pets", train=True, image_size=16).images.shape == (36, 3, 16, 16)


def test_streamed_pictures_are_those_in_memory(folder, workers):
    held = folders.load_folder(folder / "pets", train=False, image_size=8).take(slice(1, None, 3))
    streamed = PictureFolder("valpath", folder / "pets" / "test", 8).take(slice(1, None, 3))
    assert torch.equal(streamed.indices, held.indices)
    for (images, labels), (wanted, right) in zip(streamed.batches(10), held.batches(10), strict=True):
        assert torch.equal(images, wanted) and torch.equal(labels, right)
    batches = [data.shuffled_batches(10, torch.Generator().manual_seed(5)) for data in (streamed, held)]
    for (images, labels), (wanted, right) in zip(*batches, strict=True):
        assert torch.equal(images, wanted) and torch.equal(labels, right)


def test_imagenet_is_normalised_as_torchvision_does():
    images = torch.rand(2, 3, 5, 5)
    wanted = models.ResNet18_Weights.DEFAULT.transforms()
    assert torch.allclose(
        normalise_imagenet(images),
        (images - torch.tensor(wanted.mean)[:, None, None]) / torch.tensor(wanted.std)[:, None, None],
    )


@pytest.mark.parametrize(
    ("script", "options", "name"),
    [
        ("band", ["--band_size", 3], "pets_one_band_lr_0.1_regularization_0.0005_model_resnet18_band_3_epoch_0.pth"),
        (
            "block",
            ["--block_size", 3, "--recipe", "fast", "--lr", 0.1, "--no-amp"],
            "pets_one_block_lr_0.1_regularization_0.0005_model_resnet18_block_3_recipe_fast_epoch_0.pth",
        ),
        ("baseline", ["--amp"], "pets_baseline_lr_0.1_regularization_0.0005_model_resnet18_epoch_0.pth"),
    ],
)
def test_training_scripts_write_the_promised_names(folder, script, options, name):
    succeed(f"train_cifar_{script}.py", *PETS, *options, "--end_epoch", 0, folder=folder)
    content = torch.load(folder / "checkpoints" / name, weights_only=True)
    assert content["net"]["conv1.weight"].shape[1] == (3 if script == "baseline" else 6)
    assert content["net"]["linear.weight"].shape == (3, 512)


@pytest.mark.parametrize("script", ["band", "block", "band_top_one", "block_top_one"])
def test_certifying_scripts_run(folder, script):
    size = "--block_size" if "block" in script else "--band_size"
    asked = ["--size_to_certify", "1,2x1", "--output", "run.json"]
    arguments = [*SMALL, "--checkpoint", "net.pth", size, 3, "--limit", 6, "--amp", "--save_votes", "votes.npz"]
    succeed(f"certify_cifar_{script}.py", *arguments, *asked, folder=folder)
    direct = json.loads((folder / "run.json").read_text())["results"]
    assert direct[0]["total"] == 6
    rule = ["--top_one"] if "top_one" in script else []
    succeed("certify_votes.py", "--votes", "votes.npz", *rule, *asked, folder=folder)
    assert json.loads((folder / "run.json").read_text())["results"] == direct


def test_the_randomized_script_runs(folder):
    arguments = [*SMALL, "--checkpoint", "net.pth", "--band_size", 3, "--attack_size", 1, "--boundsamples", 100]
    succeed("certify_cifar_band_randomized.py", *arguments, "--limit", 6, "--test", folder=folder)


def test_imagenet_scripts_run_on_generated_pictures(tmp_path):
    write_pictures(tmp_path / "val", ("n01", "n02"), 6, size=40, suffix="jpg")
    run_imagenet_scripts(tmp_path, tmp_path / "val", subset=4, size=32)


@pytest.mark.skipif(not IMAGENET_SAMPLE.is_dir(), reason=f"no pictures in {IMAGENET_SAMPLE}")
def test_imagenet_scripts_run_on_the_sample(tmp_path):
    run_imagenet_scripts(tmp_path, IMAGENET_SAMPLE, subset=12, size=64)


def run_imagenet_scripts(folder, pictures, subset, size):
    """Train an epoch and certify every third picture, at fewer pixels than 299 × 299 for speed."""
    arguments = ["--model", "resnet18", "--image_size", size, "--valpath", pictures]
    training = [*arguments, "--trainpath", pictures, "--subset", subset]
    succeed("train_imagenet_band.py", *training, "--end_epoch", 0, folder=folder)
    name = "imagenet_one_band_lr_0.1_regularization_0.0005_model_resnet18__band_25_epoch_0.pth"
    asked = ["--size_to_certify", "1,10", "--limit", 2, "--per_image"]
    succeed(
        "certify_imagenet_band.py", *arguments, "--checkpoint", name, "--skip", 3, "--test", *asked, "rows.csv",
        "--save_votes", "votes.npz", folder=folder,
    )  # fmt: skip
    succeed("certify_votes.py", "--votes", "votes.npz", *asked, "saved.csv", folder=folder)
    assert (folder / "saved.csv").read_text() == (folder / "rows.csv").read_text()
    rows = list(csv.DictReader((folder / "rows.csv").open()))
    assert [row["index"] for row in rows] == ["1", "4", "1", "4"]


def test_two_processes_train_and_certify_as_one(folder):
    """11 images, so that shares are uneven; what two processes trained, one certifies, and the other way round."""
    training = [*SMALL, "--band_size", 3, "--end_epoch", 1, "--subset", 11]
    assert succeed_in_two_processes("train_cifar_band.py", *training, folder=folder).count("epoch 1/1") == 1
    name = "pets_one_band_lr_0.1_regularization_0.0005_model_resnet14_half_band_3_epoch_1.pth"
    arguments = [*SMALL, "--all", "--limit", 11, "--band_size", 3, "--size_to_certify", "1,2"]
    succeed("certify_cifar_band.py", *arguments, "--checkpoint", name, folder=folder)
    arguments += ["--checkpoint", "net.pth", "--per_image"]
    succeed("certify_cifar_band.py", *arguments, "one.csv", folder=folder)
    arguments += ["two.csv", "--save_votes", "two.npz"]
    assert succeed_in_two_processes("certify_cifar_band.py", *arguments, folder=folder).count("\n11 images in") == 1
    saved = ["--votes", "two.npz", "--size_to_certify", "1,2", "--per_image", "saved.csv"]
    succeed("certify_votes.py", *saved, folder=folder)
    for name in ("two.csv", "saved.csv"):
        assert (folder / name).read_text() == (folder / "one.csv").read_text()


def test_more_processes_than_images_are_refused(folder):
    arguments = [*SMALL, "--limit", 1, "--checkpoint", "net.pth"]
    run = run_in_two_processes("certify_cifar_band.py", *arguments, folder=folder)
    assert run.returncode != 0
    assert run.stderr.count("--nproc_per_node 2: more processes than images: expected at most 1 in all") == 1


@pytest.mark.parametrize("world", [2, 3])
def test_shares_come_together_again(world, monkeypatch):
    """Two and three processes acted out: every image belongs to one of them, and order is kept."""
    from patchcert import distributed

    whole = torch.arange(101)
    shares, equal = [], []
    monkeypatch.setattr(distributed, "world", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(whole[distributed.share()])
        equal.append(distributed.equal_share(whole))
    assert torch.equal(torch.cat(shares).sort().values, whole)
    assert len({len(part) for part in equal}) == 1 and set(torch.cat(equal).tolist()) == set(range(101))
    monkeypatch.setattr(
        distributed.dist, "all_gather",
        lambda parts, _: [part[: len(share)].copy_(share) for part, share in zip(parts, shares, strict=True)],
    )  # fmt: skip
    assert torch.equal(distributed.merge(shares[0], 101), whole)


def test_a_schedule_rises_and_falls_and_an_interrupted_run_with_averages_resumes_to_the_same(tmp_path, monkeypatch):
    recipe = Recipe(
        lr=0.2, regularization=5e-4, end_epoch=3, batch_size=8, ablation_per="sample", nesterov=True, warmup=0.25,
        label_smoothing=0.1, average=0.9, augmentations=(random_crop, random_flip),
    )  # fmt: skip
    assert [round(recipe.share_of_lr_at(epochs), 6) for epochs in (0, 0.5, 1, 2.5, 4)] == [0, 0.5, 1, 0.5, 0]
    data = Dataset(torch.arange(20 * 192).view(20, 3, 8, 8).to(torch.uint8), torch.arange(20) % 3, torch.arange(20))

    def train(path, stop_before=None):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
        epoch_of = loop.train_epoch

        def stopping(*arguments):
            if arguments[-1].epoch == stop_before:
                raise KeyboardInterrupt
            return epoch_of(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_epoch", stopping)
            objective = OneCopy(Band(8, 8, 3), recipe.ablation_per, recipe.label_smoothing)
            return loop.train(network, objective, data, data, recipe, path)

    whole = train(tmp_path / "whole" / "net.pth")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped" / "net.pth", stop_before=2)
    resumed = train(tmp_path / "stopped" / "net.pth")
    for part in ("net", "trained"):
        assert all(torch.equal(whole[part][key], resumed[part][key]) for key in whole[part])
    assert not torch.equal(whole["net"]["3.weight"], whole["trained"]["3.weight"])


def test_an_average_weighs_the_past_by_its_decay():
    old, new = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    old.weight.data[:], new.weight.data[:] = 1.0, 3.0
    new.running_mean[:], new.num_batches_tracked[...] = 4.0, 7
    loop.update_average(old, new, 0.75)
    assert old.weight.tolist() == [1.5, 1.5] and old.running_mean.tolist() == [1.0, 1.0]
    assert old.num_batches_tracked == 7


def test_samples_show_ablations_of_their_own():
    inputs = ablated(torch.rand(200, 3, 6, 6), Band(6, 6, 2), torch.Generator().manual_seed(0), per="sample")
    visible = inputs.sum(dim=1).sum(dim=1) > 0  # (N, W)
    assert len(visible.unique(dim=0)) == 6 and (visible.sum(dim=1) == 2).all()


def refused(script, *arguments, folder, capsys):
    capsys.readouterr()
    assert run_here(script, *arguments, folder=folder) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return message


def test_wrong_folders_are_named_in_one_line(folder, tmp_path, capsys, workers):
    certify = ("certify_cifar_band.py", *SMALL, "--band_size", 3)
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    checkpointed = [*certify, "--checkpoint", "net.pth", "--data"]
    for part in ("train", "test"):
        write_pictures(tmp_path / "four" / part, "abcd", 2)
        for name in "ab":
            (tmp_path / "empty" / part / name).mkdir(parents=True)
        write_pictures(tmp_path / "odd" / part, ("a", "b", part), 2)
        write_pictures(tmp_path / "torn" / part, "abc", 2, suffix="jpg")
    torn = tmp_path / "torn" / "test" / "b" / "0001.jpg"
    torn.write_bytes(torn.read_bytes()[:-200])
    message = refused(*checkpointed, "four", folder=tmp_path, capsys=capsys)
    assert "it has 3 classes, the data set has 4" in message
    assert "expected images" in refused(
        "train_cifar_band.py", *certify[1:], "--data", "empty", folder=tmp_path, capsys=capsys
    )
    assert "expected the same classes in train/ and test/, " in refused(
        *checkpointed, "odd", folder=tmp_path, capsys=capsys
    )
    assert f"torn/test/b/{torn.name}: a damaged image" in refused(*checkpointed, "torn", folder=tmp_path, capsys=capsys)
    assert "one folder of images for each class" in refused(*checkpointed, "none", folder=tmp_path, capsys=capsys)


def test_cifar_is_not_resized(tmp_path, capsys):
    message = refused("train_cifar_band.py", "--image_size", 64, folder=tmp_path, capsys=capsys)
    assert "--image_size 64: CIFAR-10 has 32 × 32 pixels" in message


def test_imagenet_folders_that_do_not_fit(tmp_path, capsys):
    for name, classes in (("train", ("n01", "n03")), ("val", ("n01", "n02"))):
        write_pictures(tmp_path / name, classes, 3, size=40)
    common = ["--model", "resnet18", "--valpath", "val"]
    train = ["train_imagenet_band.py", *common, "--end_epoch", 1, "--trainpath"]
    message = refused(*train, "train", folder=tmp_path, capsys=capsys)
    assert "--trainpath train: expected the same classes as in --valpath, val has no n03, which train" in message
    succeed(*train, "val", "--image_size", 32, folder=tmp_path)
    (path,) = (tmp_path / "checkpoints").glob("*.pth")
    message = refused(
        "certify_imagenet_band.py", *common, "--test", "--size_to_certify", 5, "--checkpoint", path.name,
        folder=tmp_path, capsys=capsys,
    )  # fmt: skip
    assert "--valpath val: has too few images: none is left in this half" in message
    path.rename(f"{path}.partial")
    message = refused(*train, "val", "--image_size", 40, folder=tmp_path, capsys=capsys)
    assert "is an interrupted run with" in message and "--data" in message
