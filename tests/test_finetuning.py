"""train_imagenet_windows.py as a script, and how it chooses the two windows that a picture is learned without."""

import copy
import json
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.engines.plain import PlainNetwork
from patchcert.patch import Patch
from patchcert.training.hidden_pairs import GreedySearch, HiddenPair
from tests.helpers import run_here, succeed, succeed_in_two_processes
from tests.test_pictures import write_pictures

SCRIPT, CERTIFY = "train_imagenet_windows.py", "certify_imagenet_windows.py"

FACTORY = """
import torch
from torch import nn
from torchvision import transforms


def network(seed=0):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 6, 5, stride=5), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    made.preparation = transforms.Compose(
        [transforms.Resize((20, 20)), transforms.ToTensor(), transforms.Normalize((0.4, 0.5, 0.6), 0.25)]
    )
    return made


def blue_first():
    made = network()
    normal = made.preparation
    made.preparation = lambda picture: normal(picture)[[2, 1, 0]]
    return made


def frozen():
    return network().requires_grad_(False)


class Outputs(dict):
    def __getattr__(self, name):
        return self[name]


class Answering(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()
        self.preparation = self.inner.preparation

    def forward(self, images):
        return Outputs(logits=self.inner(images))
"""

COMMON = ("--data", "pets", "--per_side", 2)
TRAIN = (*COMMON, "--size_to_train", 3, "--end_epoch", 1, "--batch_size", 10, "--lr", 0.02, "--held_out", 6)
CLASSES = ("cat", "dog", "eel")


@pytest.fixture
def folder(tmp_path, let_import):
    let_import(tmp_path, "small", FACTORY)
    write_pictures(tmp_path / "pets" / "train", CLASSES, 10, size=24)
    write_pictures(tmp_path / "pets" / "test", CLASSES, 4, size=24)
    return tmp_path


def finished(folder):
    """The one checkpoint that training wrote, and its content."""
    (path,) = (folder / "checkpoints").glob("*.pth")
    return path, torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", ["network", "blue_first", "Answering"])
def test_what_training_saves_is_what_certifying_takes(folder, name):
    model = ("--model", f"small:{name}")
    succeed(SCRIPT, *model, *TRAIN, "--end_epoch", 9, folder=folder)
    path, content = finished(folder)
    certify = (*model, *COMMON, "--size_to_certify", 3, "--output", "found.json")
    succeed(CERTIFY, *certify, folder=folder)
    untrained = json.loads((folder / "found.json").read_text())
    succeed(CERTIFY, *certify, "--weights", path.name, folder=folder)
    found = json.loads((folder / "found.json").read_text())
    said = found["config"]["about"]["network"]
    assert (said["weights"], said["entry"]) == (path.name, "net")
    assert found["certified_correct"] > untrained["certified_correct"]
    own = getattr(sys.modules["small"], name)()
    prefix = "network." if name == "blue_first" else ""
    own.load_state_dict(
        {key.removeprefix(prefix): tensor for key, tensor in content["net"].items()}
    )  # as anybody would


def test_another_run_of_the_same_name_is_refused_and_one_that_stopped_goes_on(folder, capsys, monkeypatch):
    (folder / "stopped").mkdir()
    for name in ("pets", "small.py"):
        (folder / "stopped" / name).symlink_to(folder / name)
    model = ("--model", "small:network")
    succeed(SCRIPT, *model, *TRAIN, folder=folder)
    path, whole = finished(folder)
    assert run_here(SCRIPT, *model, *TRAIN, "--hidden", 0.5, folder=folder) == 2
    assert "--hidden [0.5, 0.5, 0.5]: checkpoints/" in capsys.readouterr().err
    assert run_here(SCRIPT, *model, *TRAIN, "--weights", path.name, folder=folder) == 2
    assert "is a finished run with --weights " in capsys.readouterr().err
    succeed(SCRIPT, *model, *TRAIN, folder=folder)
    assert "is finished: hardest pair held out" in capsys.readouterr().out

    def stop(_, epoch):
        if epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HiddenPair, "begin", stop)
        assert run_here(SCRIPT, *model, *TRAIN, folder=folder / "stopped") != 0
    succeed(SCRIPT, *model, *TRAIN, folder=folder / "stopped")
    assert "continuing with epoch 1 of 1" in capsys.readouterr().out
    again = finished(folder / "stopped")[1]
    assert all(torch.equal(again["net"][key], tensor) for key, tensor in whole["net"].items())


def test_pictures_without_parts_are_trained_on_and_some_held_out(folder, capsys):
    write_pictures(folder / "whole", CLASSES, 10, size=24)
    order = folder / "order.txt"
    order.write_text("eel\ndog\ncat\n")
    model = ("--model", "small:network", "--classes", "order.txt")
    more = ("--masks", "hardest", "--tries", 2, "--augmentations", "none", "--no-amp")
    succeed(SCRIPT, *model, *TRAIN, "--data", "whole", *more, folder=folder)
    path, content = finished(folder)
    assert path.name.startswith("whole_hidden_windows_") and "_masks_hardest_" in path.name
    assert content["settings"]["tries"] == 2 and content["settings"]["subset"] == 27
    assert content["about"]["classes"] == 3 and content["about"]["ablation"]["windows"] == 4
    (folder / "checkpoints" / path.name).unlink()
    resumed = ("--resume", "before.pth", "--end_epoch", 2)
    torch.save(content, folder / "checkpoints" / "before.pth")
    succeed(SCRIPT, *model, *TRAIN, "--data", "whole", *more, *resumed, folder=folder)
    assert "continuing with epoch 2 of 2" in capsys.readouterr().out


def test_the_test_part_is_measured_where_it_is_asked_for(folder):
    succeed(SCRIPT, "--model", "small:network", *TRAIN, "--masks", "random", "--held_out", 0, folder=folder)
    path, content = finished(folder)
    rows = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    assert [set(row) >= {"test_accuracy"} for row in rows] == [True, True] and content["settings"]["tries"] == 1
    assert content["settings"]["amp"] and content["settings"]["augmentations"] == ["random_flip"]


def test_two_processes_train_together(folder):
    succeed_in_two_processes(SCRIPT, "--model", "small:Answering", *TRAIN, folder=folder)
    assert finished(folder)[1]["epoch"] == 1


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (["--tries", 2], "--tries 2: expected with --masks hardest, not with --masks greedy"),
        (["--size_to_train", 20], "--size_to_train 20: expected a patch smaller than the image"),
        (["--size_to_train", "area:9"], "--size_to_train: area:9: expected one size"),
        (["--per_side", 1], "--per_side 1: expected a whole number from 2 to 16"),
        (["--model", "small:frozen"], "--model small:frozen: expected weights to train"),
        (["--classes", "imagenet"], "it has 3 classes, the data set has 1000"),
        (["--data", "pets/test", "--held_out", 0], "--held_out 0: pets/test has no test/ to measure"),
        (["--data", "none"], "--data none: expected a folder"),
        (["--masks", "worst"], "invalid choice: 'worst'"),
    ],
)
def test_wrong_use_is_said_in_one_line(folder, capsys, arguments, right):
    assert run_here(SCRIPT, "--model", "small:network", *TRAIN, *arguments, folder=folder) == 2
    assert right in capsys.readouterr().err.strip().splitlines()[-1]


def network_of_pixels(side=14):
    torch.manual_seed(side)
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(side**2, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


ASKED_FIRST = {2: (0, 1), 3: (0, 1, 2), 4: (1, 3), 6: (1, 4), 7: (1, 4, 6)}
"""Rows, and columns, of windows, by how many there are of them."""


@pytest.mark.parametrize("side", ASKED_FIRST)
def test_a_coarse_search_asks_about_few_windows_and_those_around_the_worst(side):
    windows, network, asked = HiddenWindows.for_patch(28, 28, Patch(2), side), network_of_pixels(28), []

    def ask(network, images, hidden):
        asked.append(hidden)
        return network(images * ~hidden[:, None])

    def by_hand(loss, without=None):
        """The window with the largest loss of those that are asked about."""
        candidates = {(row, column) for row in ASKED_FIRST[side] for column in ASKED_FIRST[side]}
        number = lambda place: side * place[0] + place[1]  # noqa: E731
        worst = max((place for place in candidates if number(place) != without), key=lambda place: loss(number(place)))
        if side > 3:
            near = [(worst[0] + row, worst[1] + column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
            candidates |= {place for place in near if set(place) <= set(range(side))}
        return max({number(place) for place in candidates} - {without}, key=loss)

    images = torch.rand(20, 1, 28, 28)
    labels = (network(images).argmax(dim=1) + (torch.arange(20) == 7)) % 3  # it is wrong about one
    pairs, right = GreedySearch(windows, coarse=True)(network, images, labels, ask)
    assert len(asked) == {4: 24, 6: 24, 7: 34}.get(side, 2 * side**2)
    answers = torch.stack([network(images * ~hidden[:, None]).argmax(dim=1) for hidden in asked])
    assert torch.equal(right == 1, (answers == labels).all(dim=0)) and 0 < right.sum() < 20
    for image, label, (first, second) in zip(images, labels, pairs.tolist(), strict=True):

        def loss(*hidden, image=image, label=label):
            mask = windows.hidden(torch.tensor([[*hidden, -1][:2]]))
            return cross_entropy(network(image[None] * ~mask[:, None]), label[None]).item()

        assert first == by_hand(loss)
        assert second == by_hand(lambda window, first=first: loss(first, window), without=first)


def test_greedy_masks_are_those_that_are_learned_from():
    """By a batch norm, which would notice what else it learned from, and whose statistics the search leaves alone."""
    network, windows = network_of_pixels(), HiddenWindows.for_patch(14, 14, Patch(2), 4)
    images, labels, generator = torch.rand(6, 1, 14, 14), torch.arange(6) % 3, torch.Generator()
    plain = PlainNetwork(network, mean=0.5, std=0.2, hidden=0.25)
    objective = HiddenPair(windows, tries=None, coarse=True, ask=plain.ask)
    pairs, right = objective.search(network, images, labels, plain.ask)
    assert torch.equal(right, objective.right(network, images, labels, generator))
    shown = (torch.where(windows.hidden(pairs)[:, None], 0.25, images) - 0.5) / 0.2
    expected = copy.deepcopy(network).train()
    loss = cross_entropy(expected(shown), labels)
    found, _ = objective.loss(network.train(), images, labels, generator)
    torch.testing.assert_close(found, loss)
    assert network.training and network[0].num_batches_tracked == 1
    torch.testing.assert_close(network[0].running_mean, expected[0].running_mean)
