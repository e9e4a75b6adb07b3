"""What windows' networks are trained with: whitening, Muon, flips in turn, a greedy search, held-out pictures."""

import itertools
import json

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from patchcert import checkpoint
from patchcert.ablations.ablation import encode
from patchcert.ablations.windows import WindowPairs
from patchcert.data import splits
from patchcert.data.augmentation import alternating_flip, random_shift
from patchcert.data.dataset import Dataset
from patchcert.errors import UsageError
from patchcert.small_networks import network_of_copies
from patchcert.small_networks.pooled import PooledNetwork
from patchcert.steps import Steps
from patchcert.training import loop
from patchcert.training.hidden_pairs import GreedySearch, HiddenPair, ask_encoded
from patchcert.training.optimizers import Optimizers
from patchcert.training.recipes import Recipe

RECIPE = Recipe(
    lr=0.02,
    regularization=5e-4,
    end_epoch=3,
    batch_size=16,
    seed=7,
    augmentations=(alternating_flip, random_shift),
    nesterov=True,
    warmup=0.2,
    average=0.9,
    filters_lr=0.05,
    filters_regularization=0.1,
)


def pictures(count=40, size=10):
    """Smooth ones, so that neighbouring pixels have much in common."""
    random = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 4, 4, generator=random)
    noise = 0.1 * torch.randn(count, 3, size, size, generator=random)
    return (nn.functional.interpolate(small, size=(size, size), mode="bilinear") + noise).clamp(0, 1)


def data(count=40):
    images = (255 * pictures(count)).to(torch.uint8)
    return Dataset(images, torch.arange(count) % 3, torch.arange(count))


def small_network():
    torch.manual_seed(1)
    return PooledNetwork(channels=6, classes=3, groups=(8, 8, 8)).to(memory_format=torch.channels_last)


def test_the_network_for_copies_is_small_enough_to_ship():
    network = network_of_copies("pooled").eval()
    weights = sum(weight.numel() for weight in network.parameters())
    assert 1.9e6 < weights < 2.1e6 and network.description == {"name": "pooled"}
    assert network(torch.rand(2, 6, 32, 32)).shape == (2, 10)
    assert network_of_copies("pooled", channels=2, classes=7).eval()(torch.rand(2, 2, 28, 28)).shape == (2, 7)


def test_logits_are_float32_under_autocast():
    network, given = small_network().eval(), []
    network.linear.register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = network(encode(pictures(4)))
    features = given[0]
    assert features.dtype == logits.dtype == torch.float32
    assert (8 * features).bfloat16().float().equal(8 * features), "they were computed in bfloat16"
    assert logits.equal(nn.functional.linear(features, network.linear.weight, network.linear.bias))
    assert not logits.equal(logits.bfloat16().float())


def test_whitened_pixels_do_not_correlate():
    images = pictures()
    network = small_network()
    before = network.whitening(encode(images))
    network.prepare(images)
    assert not torch.equal(network.whitening(encode(images)), before)
    found = network.whitening(encode(images)).detach()[:, :12].double().transpose(0, 1).flatten(1)  # (12, pixels)
    assert found.mean(dim=1).abs().max() < 0.2
    assert (found @ found.T / found.shape[1] - torch.eye(12)).abs().max() < 0.2
    raw = images.double().transpose(0, 1).flatten(1)
    assert torch.corrcoef(raw.reshape(3, -1)).abs().min() < 1  # not constant
    neighbours = torch.stack([images[..., :-1].flatten(), images[..., 1:].flatten()])
    assert torch.corrcoef(neighbours)[0, 1] > 0.5


def test_hidden_pixels_whiten_to_nothing():
    network, images = small_network(), pictures(4)
    network.prepare(pictures())
    shown = torch.ones(10, 10)
    shown[2:6, 3:8] = 0
    seen = network.whitening(encode(images) * shown)
    assert (seen[:, :24, 2:5, 3:7] == 0).all()
    assert (seen[:, 12:24] == -seen[:, :12]).all()
    share = nn.functional.avg_pool2d(shown[None, None], 2, stride=1)
    torch.testing.assert_close(seen[:, 24:], share.expand(4, -1, -1, -1))


def test_the_first_layer_stays_as_it_was_prepared(tmp_path):
    network = small_network()
    network.prepare(pictures())
    before, others = network.whitening.weight.clone(), [w.clone() for w in network.parameters() if w.requires_grad]
    train(tmp_path / "net.pth", network)
    assert torch.equal(network.whitening.weight, before)
    assert all(
        not torch.equal(weight, other)
        for weight, other in zip((w for w in network.parameters() if w.requires_grad), others, strict=True)
    )


def train(path, network, recipe=RECIPE, **more):
    objective = HiddenPair(WindowPairs(10, 10, 6, 2).hidden(), tries=2, easy_epochs=2, label_smoothing=0.1)
    rest, held_out = splits.hold_out(data(), 8)
    return loop.train(network, objective, rest, held_out, recipe, path, measured_on="held_out", **more)


def test_a_run_that_stops_inside_an_epoch_comes_to_the_same_weights_and_momentum(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole" / "net.pth", small_network())
    path = tmp_path / "stopped" / "net.pth"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        add, added = Steps.add, itertools.count()

        def stopping(steps, *arguments, **more):
            add(steps, *arguments, **more)
            if next(added) == 4:  # epoch 2, where the hardest of two copies begins, has one of its two steps
                steps.save(steps._position())
                raise KeyboardInterrupt

        patch.setattr(Steps, "add", stopping)
        train(path, small_network())
    again = train(path, small_network())
    for entry in ("net", "trained"):
        assert all(torch.equal(again[entry][name], tensor) for name, tensor in whole[entry].items())
    for entry in ("optimizer", "filters"):
        momenta = [state[entry]["state"] for state in (whole, again)]
        assert momenta[0].keys() == momenta[1].keys() and len(momenta[0])
        for number, kept in momenta[0].items():
            assert torch.equal(kept["momentum_buffer"], momenta[1][number]["momentum_buffer"])
    rows = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3] and all("held_out_accuracy" in row for row in rows)


def test_a_run_does_not_take_the_momentum_of_another_optimizer(tmp_path):
    path = tmp_path / "net.pth"
    state = train(path, small_network())
    path.unlink()
    state["filters"]["state"][0]["momentum_buffer"] = torch.zeros(3, 3)
    checkpoint.save(state | {"epoch": 1}, path.with_name("net.pth.partial"))
    with pytest.raises(UsageError, match="not one of Muon for this network"):
        train(path, small_network())


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_filters_follow_muon_and_the_rest_sgd(memory):
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).to(memory_format=memory)
    expected = [nn.Parameter(weight.detach().clone()) for weight in network.parameters()]
    matrix = nn.Parameter(expected[0].detach().contiguous().flatten(1))
    muon = torch.optim.Muon([matrix], 0.05, 0.1)
    sgd = torch.optim.SGD(expected[1:], 0.02, 0.9, nesterov=True, weight_decay=5e-4)
    optimizers = Optimizers(network, RECIPE)
    for step in range(3):
        share = 1 - step / 4
        assert optimizers.set_share_of_lr(share) == pytest.approx(share * 0.02)
        muon.param_groups[0]["lr"], sgd.param_groups[0]["lr"] = share * 0.05, share * 0.02
        network.zero_grad()
        cross_entropy(network(torch.rand(5, 3, 3, 3)), torch.arange(5) % 2).backward()
        matrix.grad = network[0].weight.grad.contiguous().flatten(1)
        for weight, other in zip(expected[1:], list(network.parameters())[1:], strict=True):
            weight.grad = other.grad.clone()
        for optimizer in (muon, sgd, optimizers):
            optimizer.step()
    torch.testing.assert_close(network[0].weight.detach().contiguous().flatten(1), matrix.detach(), rtol=0, atol=2e-3)
    for weight, other in zip(expected[1:], list(network.parameters())[1:], strict=True):
        torch.testing.assert_close(weight, other)


def test_every_picture_is_mirrored_in_every_other_epoch():
    """A picture is its number, on the left side alone."""
    count = 60
    images = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    images[:, :, :, 0] = torch.arange(1, count + 1)[:, None, None]
    dataset = Dataset(images, torch.zeros(count, dtype=torch.int64), torch.arange(count))
    steps = Steps(16, seed=3, device=torch.device("cpu"))

    def mirrored(epoch):
        steps.begin(epoch, 3, count)
        seen = torch.zeros(count, dtype=torch.bool)
        for batch, _ in steps.batches(dataset, (alternating_flip,)):
            left, right = (255 * batch[:, 0, 0, side].round(decimals=6) for side in (0, 3))
            numbers = (left + right).round().long() - 1
            assert ((left > 0) ^ (right > 0)).all()
            seen[numbers] = right > 0
        return seen

    first, second, third = map(mirrored, range(3))
    assert torch.equal(first, ~second) and torch.equal(first, third) and 15 < first.sum() < 45
    assert torch.equal(first, mirrored(0))


def greedy_pairs(network, images, labels, windows):
    """The numbers (N,) of the copies that a search through all windows finds, and what is right."""
    pairs, right = GreedySearch(windows.hidden(), coarse=False)(network, images, labels, ask_encoded)
    return windows.copy_numbers()[tuple(pairs.T)], right


def test_greedy_search_finds_the_worst_pair_of_windows():
    """Windows share no pixel, and a logit grows with what is seen: the worst pair is that of the two worst."""
    windows = WindowPairs(8, 8, 4, 2)
    random = torch.Generator().manual_seed(4)
    images, labels = torch.rand(20, 1, 8, 8, generator=random), torch.randint(2, (20,), generator=random)

    class Seen(nn.Module):
        def forward(self, copies):
            total = (copies[:, 0].sum(dim=(1, 2)) - 14) / 8
            return torch.stack([-total, total], dim=1)

    copies = encode(images)[:, None] * windows.masks()[None, :, None]  # (N, A, 2C, H, W)
    logits = Seen()(copies.flatten(0, 1)).view(20, windows.count, 2)
    losses = torch.stack([cross_entropy(logits[:, copy], labels, reduction="none") for copy in range(windows.drawn)])
    of_ones = labels == 1  # for them what is hidden costs; for the others it helps
    found, right = greedy_pairs(Seen(), images, labels, windows)
    assert torch.equal(found[of_ones], losses.argmax(dim=0)[of_ones]) and 3 < of_ones.sum() < 17
    assert (found >= 0).all()  # two windows, also where one alone is worse
    every = (logits.argmax(dim=2) == labels[:, None]).all(dim=1)
    assert torch.equal(right[of_ones] == 1, every[of_ones]) and 0 < every[of_ones].sum() < of_ones.sum()


@pytest.mark.parametrize("side", [2, 3])
def test_greedy_search_takes_the_worst_window_and_the_worst_beside_it(side):
    windows, count = WindowPairs(9, 9, 6, side), side**2
    torch.manual_seed(side)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * 81, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    images, labels = torch.rand(7, 1, 9, 9), torch.arange(7) % 3
    found, right = greedy_pairs(network, images, labels, windows)
    hidden, numbers = windows.windows(), windows.copy_numbers()
    for image, label, number, is_right in zip(images, labels, found, right, strict=True):
        answers = []

        def loss(mask, image=image, label=label, answers=answers):
            logits = network(encode(image[None]) * ~mask)
            answers.append(int(logits.argmax()) == label)
            return cross_entropy(logits, label[None]).item()

        first = max(range(count), key=lambda one: loss(hidden[one]))
        second = max((one for one in range(count) if one != first), key=lambda one: loss(hidden[first] | hidden[one]))
        assert number == numbers[first, second] and bool(is_right) == all(answers)


def test_held_out_pictures_are_evenly_spaced_and_seen_by_no_step():
    rest, held_out = splits.hold_out(data(), 8)
    assert held_out.indices.tolist() == list(range(0, 40, 5))
    assert sorted([*rest.indices.tolist(), *held_out.indices.tolist()]) == list(range(40))
    assert len(splits.hold_out(data(), 0)[1]) == 0
