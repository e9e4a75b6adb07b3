"""Every script that certifies, against votes, predictions and certificates counted anew."""

import csv
import json
from itertools import chain, product

import pytest
import torch
from torch import nn

from patchcert import checkpoint
from patchcert.data import folders, named
from patchcert.networks import mnist_network
from patchcert.small_networks import cifar_resnet
from resnet_imgnt import imagenet_resnet
from tests import oracle
from tests.helpers import succeed
from tests.test_pictures import write_pictures

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet
SIZES = {"mnist": 28, "cifar": 8, "imagenet": 32}
NETWORKS = {
    "mnist": mnist_network,
    "cifar": lambda: cifar_resnet("resnet14_half", classes=3),
    "imagenet": lambda: imagenet_resnet("resnet18", classes=3),
}
ARGUMENTS = {
    "mnist": ["--all"],
    "cifar": ["--dataset", "folder", "--data", "pictures", "--image_size", 8, "--model", "resnet14_half", "--all"],
    "imagenet": ["--valpath", "pictures/test", "--model", "resnet18", "--image_size", 32, "--skip", 1],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generated_mnist):
    """A folder with MNIST's files and pictures of three classes."""
    folder = tmp_path_factory.mktemp("counting")
    (folder / "data").symlink_to(generated_mnist)
    write_pictures(folder / "pictures" / "train", ("cat", "dog", "eel"), 1)
    write_pictures(folder / "pictures" / "test", ("cat", "dog", "eel"), 8)
    return folder


def look_up(family, folder, count):
    """The first images (N, C, H, W), as the network of `family` gets them, and their labels."""
    if family == "mnist":
        dataset = named.load("mnist", folder / "data", train=False)
    else:
        dataset = folders.load_folder(folder / "pictures", train=False, image_size=SIZES[family])
    images, labels = dataset.images[:count] / 255, dataset.labels[:count].tolist()
    return (images - MEAN[:, None, None]) / DEVIATION[:, None, None] if family == "imagenet" else images, labels


@torch.no_grad()
def undecided(network, inputs, favour):
    """`network` with random weights by which `inputs` are of all classes, more of them of class 1 by `favour`."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight *= 2  # less of what a copy shows gets lost on the way
        elif isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    network.train()(inputs)
    logits = network.eval()(inputs)
    *_, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    last.weight *= 2 / logits.std(dim=0).mean()
    last.bias -= network(inputs).mean(dim=0)
    last.bias[1] += favour
    return network


@pytest.mark.parametrize(
    ("family", "ablation", "options", "thresholds", "count", "favour"),
    [
        ("mnist", "band", {"band_size": 5}, [0.2, 0.45], 16, 2.5),
        ("mnist", "band", {"band_size": 5}, None, 16, 2.5),
        ("mnist", "row", {"band_size": 5}, [0.2, 0.45], 16, 2.5),
        ("mnist", "block", {"block_size": 6}, [0.45], 2, 2.5),
        ("mnist", "block", {"block_size": 6}, None, 2, 2.0),
        ("mnist", "multi_band", {"bandwidth": 5, "keep": 2}, [0.2, 0.45], 16, 5.5),
        ("mnist", "multi_block", {"block_size": 9, "keep": 3}, [0.2, 0.45], 8, 5.5),
        ("cifar", "band", {"band_size": 3}, [0.2, 0.45], 24, 4.0),
        ("cifar", "band", {"band_size": 3}, None, 24, 4.0),
        ("cifar", "block", {"block_size": 3}, [0.45], 4, 4.0),
        ("cifar", "block", {"block_size": 3}, None, 4, 4.0),
        ("imagenet", "band", {"band_size": 9}, [0.45], 6, 4.0),
    ],
)
def test_scripts_count_what_a_loop_over_copies_and_places_counts(
    folder, family, ablation, options, thresholds, count, favour
):  # fmt: skip
    size, sizes, certificates = SIZES[family], {"1": (1, 1), "2x3": (2, 3), "5x8": (5, 8)}, ("margin", "exact")
    copies = getattr(oracle, f"{ablation}s")(size, size, *options.values())
    images, labels = look_up(family, folder, count)
    seen, shown = images, copies
    if ablation == "row":
        seen, shown = images.transpose(2, 3), oracle.bands(size, size, *options.values())
    torch.manual_seed(0)
    network = undecided(NETWORKS[family](), torch.cat([oracle.encoded(image, shown[::7]) for image in seen]), favour)
    checkpoint.save({"net": network.state_dict()}, folder / "checkpoints" / "net.pth")
    asked = options | {
        "checkpoint": "net.pth", "limit": count, "size_to_certify": ",".join(sizes),
        "certificate": ",".join(certificates), "output": "run.json", "per_image": "rows.csv",
    }  # fmt: skip
    if thresholds:
        asked["threshhold"] = ",".join(map(str, thresholds))
    script = f"certify_{family}_{ablation}{'' if thresholds else '_top_one'}.py"
    flags = chain.from_iterable((f"--{name}", value) for name, value in asked.items())
    succeed(script, *ARGUMENTS[family], *flags, folder=folder)

    p = [oracle.probabilities(network, image, shown) for image in seen]
    touched = {name: oracle.touched(copies, size, size, patch) for name, patch in sizes.items()}
    expected = [
        {"size_to_certify": name, "threshold": threshold or "", "certificate": certificate, "index": i, "label": label}
        | oracle.verdict(oracle.votes(p[i], threshold), touched[name], certificate)
        for name, threshold, certificate in product(sizes, thresholds or [None], certificates)
        for i, label in enumerate(labels)
    ]
    rows = list(csv.DictReader((folder / "rows.csv").open()))
    assert [{name: row[name] for name in expected[0]} for row in rows] == [
        {name: str(value) for name, value in row.items()} for row in expected
    ]
    assert 0 < sum(row["certified"] for row in expected) < len(expected), "the example should be in between"
    results = json.loads((folder / "run.json").read_text())["results"]
    for number, result in enumerate(results):
        answers = expected[number * count : (number + 1) * count]
        right, wrong = (
            [row["certified"] for row in answers if (row["predicted"] == row["label"]) is is_right]
            for is_right in (True, False)
        )
        found = result["total"], result["correct"], result["certified_correct"], result["certified_wrong"]
        assert found == (count, len(right), sum(right), sum(wrong))
