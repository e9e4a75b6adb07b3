"""Few images that stand for all: --limit, --skip, --per_class, and a note where they are of few classes alone."""

import csv
from argparse import Namespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchcert import checkpoint
from patchcert.data import splits
from patchcert.data.dataset import Dataset
from patchcert.experiments import evaluation
from patchcert.intervals import config_files
from patchcert.intervals.networks import build
from tests.helpers import ROOT, run_here, succeed, write_idx_files
from tests.networks import save_random_network

CERTIFY = ("certify_mnist_band.py", "--checkpoint", "net.pth", "--all", "--batch_size", 512)
BOUNDS = ROOT / "config" / "mnist_adveval_patch_22.json"


def images_of(labels):
    labels = torch.tensor(labels, dtype=torch.int64)
    return Dataset(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, torch.arange(len(labels)))


@given(st.lists(st.integers(0, 5)), st.integers(1, 4))
def test_so_many_of_each_class_are_the_first_in_their_order(labels, most):
    expected = [place for place, label in enumerate(labels) if labels[:place].count(label) < most]
    assert splits.first(images_of(labels), None, most).indices.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "limit", "said"),
    [
        ([0] * 9 + [1] * 9, 9, "the 9 images are of only 1 of 2 classes, 0; --per_class N takes N of each\n"),
        ([1, 1, *range(10)], 2, "the 2 images are of only 1 of 10 classes, 1;"),
        ([7, 7, 7, 3, 3, 3, *range(10)], 6, "the 6 images are of only 2 of 10 classes, 3, 7;"),
        ([*range(20)] * 9, 20, ""),
        ([4] * 9, 3, ""),
        ([0, 1, 2], 1, ""),
        ([0, 1, 2, *range(10)], 3, ""),
        ([3, 1, 3, 1, *range(10)], 4, ""),
    ],
)
def test_where_images_are_of_few_classes_a_note_says_so(labels, limit, said, capsys):
    options = Namespace(limit=limit, per_class=None)
    evaluation.first(options, images_of(labels), {"dataset": "digits"})
    printed = capsys.readouterr().err
    assert said in printed and bool(said) == bool(printed) and printed.count("\n") == bool(said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with MNIST's files, the test images sorted by class, 100 in all, and a network with random weights."""
    folder = tmp_path_factory.mktemp("sorted")
    raw = folder / "data" / "MNIST" / "raw"
    write_idx_files(raw, train=10, test=100)
    labels = np.arange(100, dtype=np.uint8) // 10
    (raw / "t10k-labels-idx1-ubyte").write_bytes(np.array([2049, 100], ">i4").tobytes() + labels.tobytes())
    save_random_network(folder)
    return folder


def labels_in(folder, name):
    return [int(row["label"]) for row in csv.DictReader((folder / name).open())]


def test_the_first_images_of_a_sorted_data_set_are_said_to_be_of_one_class(folder, capsys):
    succeed(*CERTIFY, "--limit", 10, folder=folder)
    ways = "--per_class N takes N of each, --skip N every N-th image"
    assert capsys.readouterr().err == f"note: the 10 images are of only 1 of 10 classes, 0; {ways}\n"


def test_as_many_of_each_class_are_looked_at_from_pictures_and_from_votes(folder, capsys):
    asked = ["--size_to_certify", "1,3", "--per_image"]
    succeed(*CERTIFY, "--per_class", 3, *asked, "rows.csv", "--save_votes", "votes.npz", folder=folder)
    assert labels_in(folder, "rows.csv")[:30] == sorted([*range(10)] * 3)
    assert capsys.readouterr().out.startswith("mnist, both halves, the first 3 of each class: 30 images;")
    succeed("certify_votes.py", "--votes", "votes.npz", *asked, "same.csv", folder=folder)
    assert (folder / "same.csv").read_text() == (folder / "rows.csv").read_text()
    assert capsys.readouterr().out.startswith("mnist, both halves, the first 3 of each class: 30 images;")
    fewer = ["--per_class", 2, "--output", "votes.json", "--report", "report"]
    succeed("certify_votes.py", "--votes", "votes.npz", *asked, "few.csv", *fewer, folder=folder)
    assert labels_in(folder, "few.csv") == sorted([*range(10)] * 2) * 2
    printed = capsys.readouterr()
    assert "\nmnist, both halves, the first 2 of each class: 20 images;" in printed.out and not printed.err
    succeed("report.py", "votes.json", "--out", "again", folder=folder)
    assert "20 images" in (folder / "again" / "index.html").read_text()


def test_every_nth_image_is_looked_at(folder, capsys):
    succeed(*CERTIFY, "--skip", 5, "--limit", 8, "--per_image", "rows.csv", folder=folder)
    assert labels_in(folder, "rows.csv") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert capsys.readouterr().out.startswith("mnist, both halves, one image in 5: the first 8 images;")


def test_attacks_and_interval_bounds_choose_alike(folder, capsys):
    effort = ["--all", "--skip", 2, "--per_class", 1, "--steps", 1, "--randomizations", 1, "--size_of_attack", 1]
    succeed("attack_mnist_band.py", "--checkpoint", "net.pth", *effort, "--per_image", "rows.csv", folder=folder)
    assert labels_in(folder, "rows.csv") == [*range(10)]
    model = config_files.load(BOUNDS).models[0]
    network = build(model.model_class, 1, 28, 10, model.model_params)
    checkpoint.save({"state_dict": network.state_dict()}, folder / "models" / f"{model.model_id}.pth")
    capsys.readouterr()
    bounds = ["eval.py", "--config", BOUNDS, "--model_subset", 0, "models_path=models", "--per_image", "rows.csv"]
    bounds += [f"eval_params:method_params:{value}" for value in ("steps=1", "random_mask_count=1", "sample_limit=10")]
    succeed(*bounds, "--per_class", 1, folder=folder)
    assert labels_in(folder, "rows.csv") == [*range(10)] and not capsys.readouterr().err
    for few in (["--skip", 2, "--limit", 3], ["--limit", 30, "eval_params:method_params:sample_limit=3"]):
        succeed(*bounds, *few, folder=folder)
        assert labels_in(folder, "rows.csv") == [0, 0, 0]
        assert "the 3 images are of only 1 of 10 classes, 0;" in capsys.readouterr().err


def test_first_ones_and_first_ones_of_each_class_are_not_both_asked_for(folder, capsys):
    assert run_here(*CERTIFY, "--limit", 3, "--per_class", 1, folder=folder) == 2
    assert "--per_class: not allowed with argument --limit" in capsys.readouterr().err
