import copy
import json
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import nn

from patchcert import checkpoint, program
from patchcert.ablations.ablation import Band, Block
from patchcert.ablations.windows import WindowPairs
from patchcert.data.augmentation import random_crop, random_flip
from patchcert.data.dataset import Dataset
from patchcert.errors import UsageError
from patchcert.training import loop
from patchcert.training.hidden_pairs import HiddenPair
from patchcert.training.objectives import OneCopy, ablated
from patchcert.training.recipes import Recipe

DATA = Dataset(
    torch.randint(0, 256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
    torch.arange(50) % 10,
    torch.arange(50),
)
RECIPE = Recipe(
    lr=0.05, regularization=5e-4, end_epoch=3, batch_size=16, seed=7, augmentations=(random_crop, random_flip)
)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def train(path, recipe=RECIPE, net=None, resumed=None, data=DATA, **more):
    return loop.train(net or network(), OneCopy(Band(8, 8, 3)), data, DATA, recipe, path, resumed, **more)


def same(first, second):
    return all(torch.equal(first["net"][key], second["net"][key]) for key in first["net"])


def test_an_interrupted_run_comes_to_the_same_result(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole" / "net.pth")
    stopped = tmp_path / "stopped" / "net.pth"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(patch, 2)
        train(stopped)
    assert not stopped.exists()
    assert same(train(stopped), whole) and stopped.exists()
    rows = [json.loads(line) for line in stopped.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert not list(stopped.parent.glob("*.partial"))


def test_a_run_that_goes_on_by_other_modules_says_so(tmp_path, monkeypatch, capsys):
    path, notes = tmp_path / "net.pth", []
    for content in ("then", "then", "now"):
        monkeypatch.setattr(program, "own_modules", lambda content=content: {"mine": content, f"of_{content}": "here"})
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_before(patch, len(notes) + 1)
            train(path)
        notes.append(capsys.readouterr().err)
    said = "was trained by other code, in mine: the weights will come from both versions"
    assert notes == ["", "", f"note: {path}.partial {said}\n"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": replace(RECIPE, seed=8)}, "^seed 7: .*net.pth.partial is an interrupted run with --seed 8"),
        (
            {"data": replace(DATA, labels=DATA.labels.flip(0))},
            "^data [0-9a-f]{16}: .*interrupted run with --data [0-9a-f]{16}",
        ),
        ({"data": DATA.take(slice(40))}, "^subset 50: .* with --subset 40"),
        ({"start": "torchvision's weights"}, "^resume no checkpoint: .* with --resume torchvision's weights"),
    ],
)
def test_what_another_run_left_is_neither_taken_up_nor_overwritten(tmp_path, change, named):
    path, partial = tmp_path / "net.pth", tmp_path / "net.pth.partial"
    train(path, **change)
    path.rename(partial)
    left = partial.read_bytes()
    with pytest.raises(UsageError, match=named):
        train(path)
    assert partial.read_bytes() == left


def test_an_interrupted_run_of_an_earlier_version_goes_on(tmp_path):
    """The number of its images was called `limit`."""
    path, partial = tmp_path / "net.pth", tmp_path / "net.pth.partial"
    state = train(path)
    state["settings"]["limit"] = state["settings"].pop("subset")
    checkpoint.save(state, partial)
    path.unlink()
    assert same(train(path), state) and path.exists()


class Normalising(nn.Module):
    """Normalises `side` × `side` values of each channel and image, with dropout before; counts the images given."""

    def __init__(self, side):
        super().__init__()
        torch.manual_seed(1)
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Dropout(0.1), nn.BatchNorm2d(2), nn.Flatten())
        self.layers, self.given = pooled.append(nn.Linear(2 * side * side, 10)), []

    def forward(self, copies):
        self.given.append(len(copies))
        return self.layers(copies)


@pytest.mark.parametrize(("batch_size", "processes", "said"), [
    (7, 1, "of 50 images the last step of an epoch has one, and this network cannot train on a single one: Expected"),
    (1, 1, "of 50 images every step has one, and this network"),
    (8, 2, "of 50 images the last step of an epoch has one in each process, and this"),
])  # fmt: skip
def test_a_step_of_one_image_that_the_network_cannot_normalise_is_told_before_training(
    tmp_path, monkeypatch, batch_size, processes, said
):
    monkeypatch.setattr(loop.distributed, "world", lambda: processes)
    monkeypatch.setattr(loop.distributed, "from_first", lambda value: value)
    net = Normalising(1)
    with pytest.raises(UsageError, match=f"^batch_size {batch_size}: {said}"):
        train(tmp_path / "net.pth", replace(RECIPE, batch_size=batch_size), net)
    assert net.given == [] and list(tmp_path.iterdir()) == []


def test_a_step_of_one_image_that_the_network_takes_changes_nothing(tmp_path, monkeypatch):
    """Neither what the network has seen nor what is random."""
    recipe, nets, runs = replace(RECIPE, batch_size=7, end_epoch=0), [Normalising(2), Normalising(2)], []
    for number, net in enumerate(nets):
        torch.manual_seed(3)
        runs.append(train(tmp_path / f"{number}" / "net.pth", recipe, net))
        monkeypatch.setattr(loop, "_require_no_lonely_image", lambda *_: None)
    assert nets[0].given == nets[1].given == 2 * ([7] * 7 + [1])  # of training, then of testing
    assert same(*runs)


def test_a_finished_run_stays_until_another_one_is_finished(tmp_path, monkeypatch):
    path, log = tmp_path / "net.pth", tmp_path / "net.jsonl"
    train(path)
    before = path.read_bytes(), log.read_bytes()
    monkeypatch.setattr(checkpoint, "save", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(path, replace(RECIPE, seed=8), overwrite=True)
    assert (path.read_bytes(), log.read_bytes()) == before


def test_a_finished_run_says_so_and_nothing_else_happens(tmp_path, monkeypatch, capsys):
    path = tmp_path / "net.pth"
    first = train(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    capsys.readouterr()
    monkeypatch.setattr(loop, "train_epoch", None)
    assert same(train(path), first)
    said = capsys.readouterr().out
    assert said.startswith(f"{path} is finished: ") and "epoch 3; --overwrite trains anew" in said
    assert said.count("\n") == 1
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": replace(RECIPE, seed=8)}, "^seed 8: .*net.pth is a finished run with --seed 7; --overwrite"),
        ({"data": replace(DATA, labels=DATA.labels.flip(0))}, "^data [0-9a-f]{16}: .*finished run with --data"),
        ({"start": "torchvision's weights"}, "^resume torchvision's weights: .* with --resume no checkpoint"),
    ],
)
def test_another_run_replaces_a_finished_one_only_if_told_to(tmp_path, change, named):
    path = tmp_path / "net.pth"
    first = train(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=named):
        train(path, **change)
    assert path.read_bytes() == before
    second = train(path, **change, overwrite=True)
    assert ("start" in change) == same(first, second) and path.read_bytes() != before


def test_a_file_that_does_not_say_how_it_was_trained_is_kept(tmp_path):
    path = tmp_path / "net.pth"
    checkpoint.save({"net": network().state_dict(), "acc": 10.0, "epoch": 3}, path)
    with pytest.raises(
        UsageError, match=r"net\.pth is a finished run that does not say how it was trained; --overwrite"
    ):
        train(path)
    assert train(path, overwrite=True)["epoch"] == 3


def stop_before(monkeypatch, epoch):
    """Let training be interrupted as it begins with an epoch."""
    train_epoch = loop.train_epoch

    def stopped(*arguments):
        if arguments[-1].epoch == epoch:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(loop, "train_epoch", stopped)


def test_overwriting_goes_on_after_an_interruption_and_says_so(tmp_path, monkeypatch, capsys):
    path, other = tmp_path / "net.pth", replace(RECIPE, seed=8)
    train(path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(patch, 2)
        train(path, other, overwrite=True)
    for earlier in (RECIPE, other):  # the finished run is still there; the interrupted one goes on, even without
        capsys.readouterr()
        train(path, earlier)
        said = capsys.readouterr().out
        assert ("is finished" in said) == (earlier is RECIPE)
        assert (f"continuing with epoch 2 of 3 from {path}.partial\n" in said) == (earlier is other)
    assert same(torch.load(path, weights_only=True), train(tmp_path / "whole.pth", other))


def test_what_another_run_left_is_overwritten_if_told_to(tmp_path):
    path, partial = tmp_path / "net.pth", tmp_path / "net.pth.partial"
    train(path, replace(RECIPE, seed=8))
    path.rename(partial)
    assert same(train(path, overwrite=True), train(tmp_path / "whole.pth"))
    assert not partial.exists()


def test_a_run_that_diverges_writes_no_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="a lower learning rate may help"):
        train(tmp_path / "net.pth", replace(RECIPE, lr=1e30))
    assert not (tmp_path / "net.pth").exists()


def test_a_resumed_run_goes_on_where_it_was(tmp_path, capsys):
    whole = train(tmp_path / "whole.pth")
    first = train(tmp_path / "first.pth", replace(RECIPE, end_epoch=1))
    net = network()
    resumed = checkpoint.load_network("resume", tmp_path / "first.pth", net)
    assert first["epoch"] == 1
    assert same(train(tmp_path / "second.pth", net=net, resumed=resumed), whole)
    rows = [json.loads(line) for line in (tmp_path / "second.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [2, 3]
    assert "continuing with epoch 2 of 3\n" in capsys.readouterr().out


def test_a_resumed_run_takes_its_own_learning_rate(tmp_path):
    train(tmp_path / "first.pth", replace(RECIPE, end_epoch=1))
    net = network()
    resumed = checkpoint.load_network("resume", tmp_path / "first.pth", net)
    state = train(tmp_path / "second.pth", replace(RECIPE, lr=0.001), net, resumed)
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.001


def test_checkpoints_of_the_papers_scripts_resume(tmp_path):
    """They hold net, acc and epoch alone."""
    net = network()
    checkpoint.save({"net": net.state_dict(), "acc": 10.0, "epoch": 1}, tmp_path / "paper.pth")
    resumed = checkpoint.load_network("resume", tmp_path / "paper.pth", net)
    assert train(tmp_path / "mine.pth", net=net, resumed=resumed)["epoch"] == 3


def test_one_step_is_sgd_with_momentum_and_weight_decay(tmp_path):
    """Two epochs of one batch, against the update written out."""
    recipe = Recipe(lr=0.1, regularization=0.01, end_epoch=1, batch_size=50, seed=0)
    net, by_hand = network(), network()
    loop.train(net, OneCopy(None), encoded := double_channels(DATA), encoded, recipe, tmp_path / "net.pth")
    momentum = [torch.zeros_like(p) for p in by_hand.parameters()]
    for _ in range(2):
        loss = nn.functional.cross_entropy(by_hand(encoded.images / 255), encoded.labels)
        for p, v, g in zip(
            by_hand.parameters(), momentum, torch.autograd.grad(loss, by_hand.parameters()), strict=True
        ):
            v.mul_(0.9).add_(g + 0.01 * p.detach())
            p.data -= 0.1 * v
    for p, q in zip(net.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def double_channels(data):
    return replace(data, images=data.images.repeat(1, 2, 1, 1))


def test_a_batch_shows_one_ablation_and_all_of_them_come_up():
    ablation, generator = Block(6, 6, 2), torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, 6, 6)
    seen = set()
    for _ in range(400):
        inputs = ablated(images, ablation, generator)
        visible = inputs.sum(dim=1) > 0
        assert (visible == visible[0]).all()
        seen.add((ablation.masks() == visible[0]).flatten(1).all(1).nonzero().item())
    assert len(seen) == 36


def test_of_some_copies_the_hardest_is_learned_from():
    """By a network of one batch norm, which would notice if it learned from the others, too."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(128, 4))
    images, labels, windows = torch.rand(6, 1, 8, 8), torch.arange(6) % 4, WindowPairs(8, 8, 5, 2)
    generator = torch.Generator().manual_seed(5)
    copies = [ablated(images, windows, generator, per="sample") for _ in range(3)]
    losses = torch.stack([nn.functional.cross_entropy(net.eval()(c), labels, reduction="none") for c in copies])
    chosen = torch.stack([copies[number][image] for image, number in enumerate(losses.argmax(dim=0))])
    assert len(losses.argmax(dim=0).unique()) > 1
    expected = copy.deepcopy(net).train()
    logits = expected(chosen)
    objective = HiddenPair(windows.hidden(), tries=3, easy_epochs=2, label_smoothing=0.1)
    objective.begin(2)
    loss, right = objective.loss(net.train(), images, labels, torch.Generator().manual_seed(5))
    smoothed = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert net.training and loss.item() == pytest.approx(smoothed.item())
    assert torch.equal(right, (logits.argmax(dim=1) == labels).float())
    assert torch.equal(net[0].running_mean, expected[0].running_mean) and net[0].num_batches_tracked == 1
    objective.begin(1)
    loss = objective.loss(net.eval(), images, labels, torch.Generator().manual_seed(5))[0]
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(net(copies[0]), labels, label_smoothing=0.1).item())


def test_the_log_says_what_happened(tmp_path):
    """One batch an epoch, so that its loss and accuracy are those that the epoch before left; class 1 is white."""
    net, labels = network(), torch.arange(50) % 2
    data = Dataset((255 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 2, 8, 8), labels, DATA.indices)
    with torch.no_grad():
        logits = net(data.images / 255)
    recipe = Recipe(0.05, 0, end_epoch=9, batch_size=50)
    loop.train(net, OneCopy(None), data, data, recipe, tmp_path / "net.pth")
    rows = [json.loads(line) for line in (tmp_path / "net.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {"epoch", "loss", "train_accuracy", "test_accuracy", "lr", "seconds"}
    assert [(row["epoch"], row["lr"]) for row in rows] == [(epoch, 0.05) for epoch in range(10)]
    assert rows[0]["loss"] == pytest.approx(nn.functional.cross_entropy(logits, data.labels).item(), rel=1e-5)
    assert rows[0]["train_accuracy"] == pytest.approx((logits.argmax(1) == data.labels).float().mean().item())
    assert [row["train_accuracy"] for row in rows[1:]] == pytest.approx([row["test_accuracy"] for row in rows[:-1]])
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"] and rows[-1]["test_accuracy"] == 1 > rows[0]["test_accuracy"]


def test_every_epoch_and_every_seed_has_an_order_of_its_own(tmp_path):
    orders = []

    def noted(images, generator):
        orders.append((255 * images[:, 0, 0, :4]).int().tolist())
        return images

    for seed in (7, 8):
        recipe = replace(RECIPE, seed=seed, batch_size=50, augmentations=(noted,))
        train(tmp_path / f"{seed}.pth", recipe)
    assert len(orders) == 8 and all(orders.count(order) == 1 for order in orders)
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_batch_norm_learns_from_the_batches_of_training_alone(tmp_path):
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(128, 10))
    train(tmp_path / "net.pth", net=net)
    assert net[0].num_batches_tracked == 4 * 4  # epochs, batches of 16 out of 50 images
