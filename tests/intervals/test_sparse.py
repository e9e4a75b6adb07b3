"""Sparse bounds by enumeration of the inputs that may change; the tight ones lie inside the plain ones."""

import itertools
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from patchcert.data.dataset import Dataset
from patchcert.errors import UsageError
from patchcert.intervals import config_files, sparse
from patchcert.intervals.bounds import certified
from patchcert.intervals.evaluation import verdicts
from patchcert.intervals.places import Scale
from patchcert.intervals.sparse import SparseThreat, sparse_margins
from tests.helpers import ROOT
from tests.intervals.oracle import plain_tight_margins

SCALE = Scale((0.4, 0.5), (0.2, 0.3))


def network(kind):
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 6), nn.ReLU(), nn.Linear(6, 4))
    return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4))


def images_of(count, size=3):
    images = torch.rand(count, 2, size, size)
    images[0] = images[0].round()
    return images


def bounds(net, images, labels, **threat):
    return sparse_margins(net, images, labels, SparseThreat(**threat), SCALE)


def reachable(net, images, labels, kind, k, epsilon):
    """Margins (M, N, K) with every choice of k coordinates (linear) or pixels (convolution) at the ends of the box."""
    lower, upper = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    places = images[0].numel() if kind == "linear" else 9
    for chosen in itertools.combinations(range(places), k):
        changed = torch.zeros(places)
        changed[list(chosen)] = 1
        changed = changed.view(2, 3, 3) if kind == "linear" else changed.view(1, 3, 3)
        for _ in range(6):
            end = torch.where(torch.rand(2, 3, 3) < 0.5, lower, upper)
            logits = net(SCALE.inputs(torch.where(changed > 0, end, images)))
            yield logits.gather(1, labels[:, None]) - logits


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("k", [1, 2])
@given(epsilon=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 2**31))
@settings(max_examples=6)
@torch.no_grad()
def test_bounds_hold_whichever_inputs_change(kind, k, epsilon, seed):
    torch.manual_seed(seed)
    net, images, labels = network(kind), images_of(3), torch.tensor([0, 3, 1])
    plain = bounds(net, images, labels, k=k, epsilon=epsilon)
    tight = bounds(net, images, labels, k=k, epsilon=epsilon, tight=True)
    assert (tight >= plain - 1e-5).all()
    found = torch.stack(list(reachable(net, images, labels, kind, k, epsilon)))
    assert (found >= tight - 1e-5).all()


def first_unit(kind, sign):
    """A network whose only margin is that of one unit of the first layer, with the given sign."""
    net = network(kind)
    last = net[-1]
    last.weight.data.zero_()
    last.bias.data.zero_()
    last.weight.data[1, 4] = -sign
    net[1 if kind == "linear" else 0].bias.data += 100  # far above 0, so that the ReLU changes nothing
    return net


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("sign", [1, -1])
@torch.no_grad()
def test_the_tight_bound_of_one_unit_is_reached(kind, sign):
    """For one unit the best corner over all choices of two inputs attains it."""
    torch.manual_seed(3)
    net, images, labels = first_unit(kind, sign), images_of(2), torch.tensor([0, 0])
    tight = bounds(net, images, labels, k=2, epsilon=0.4, tight=True)[:, 1]
    lower, upper = (images - 0.4).clamp(min=0), (images + 0.4).clamp(max=1)
    best = torch.full((2,), torch.inf)
    places = 18 if kind == "linear" else 9
    for chosen in itertools.combinations(range(places), 2):
        coordinates = chosen if kind == "linear" else [c + 9 * channel for c in chosen for channel in range(2)]
        for ends in itertools.product([lower, upper], repeat=len(coordinates)):
            changed = images.flatten(1).clone()
            for coordinate, end in zip(coordinates, ends, strict=True):
                changed[:, coordinate] = end.flatten(1)[:, coordinate]
            logits = net(SCALE.inputs(changed.view_as(images)))
            best = torch.minimum(best, logits[:, 0] - logits[:, 1])
    torch.testing.assert_close(tight, best, atol=1e-4, rtol=0)


WEIGHTS = {
    "spread": lambda shape: torch.randn(shape),
    "flattened": lambda shape: torch.randn(shape).clamp(-0.5, 0.5),
    "equal": lambda shape: torch.full(shape, 0.3),
    "zero": lambda shape: torch.zeros(shape),
    "tied": lambda shape: torch.randint(-2, 3, shape) / 4,
}
PIXELS = {
    "any": lambda shape: torch.rand(shape),
    "black and white": lambda shape: torch.rand(shape).round(),
    "black": lambda shape: torch.zeros(shape),
    "few shades": lambda shape: torch.randint(0, 4, shape) / 3,
}


@given(
    weights=st.sampled_from(sorted(WEIGHTS)),
    pixels=st.sampled_from(sorted(PIXELS)),
    scale=st.sampled_from([SCALE, Scale((0.0, 0.0), (1.0, 1.0))]),
    k=st.sampled_from([1, 4, 10, 72]),
    epsilon=st.sampled_from([0.0, 0.3, 1.0]),
    search=st.sampled_from([(1, 2, 64), (32, 8, 2**17)]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=120)
@torch.no_grad()
def test_tight_bounds_are_those_of_the_moves_of_all_inputs(weights, pixels, scale, k, epsilon, search, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 7), nn.ReLU(), nn.Linear(7, 4))
    net[1].weight.copy_(WEIGHTS[weights]((7, 72)))
    batch = PIXELS[pixels]((5, 2, 6, 6)), torch.tensor([0, 1, 2, 3, 0]), SparseThreat(k, epsilon, tight=True), scale
    with patch.multiple(sparse, CANDIDATES=search[0], MORE=search[1], AT_ONCE=search[2]):
        found = sparse_margins(net, *batch)
    torch.testing.assert_close(found, plain_tight_margins(net, *batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("candidates", [1, 32, 1000])
def test_however_many_candidates_gradients_are_those_of_the_moves_of_all_inputs(candidates, monkeypatch):
    monkeypatch.setattr(sparse, "CANDIDATES", candidates)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(200, 7), nn.ReLU(), nn.Linear(7, 4))
    batch = torch.rand(5, 2, 10, 10), torch.tensor([0, 1, 2, 3, 0]), SparseThreat(3, tight=True), SCALE
    found, expected = (
        torch.autograd.grad(margins(net, *batch).sum(), list(net.parameters()))
        for margins in (sparse_margins, plain_tight_margins)
    )
    for gradient, right in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, right)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_little_memory_changes_nothing(kind):
    torch.manual_seed(0)
    net, batch = network(kind), (images_of(3), torch.tensor([0, 3, 1]), SparseThreat(2, tight=True), SCALE)
    found = []
    for memory in (1, 2**30):
        margins = sparse_margins(net, *batch, memory)
        found.append((margins, *torch.autograd.grad(margins.sum(), list(net.parameters()))))
    for little, much in zip(*found, strict=True):
        torch.testing.assert_close(little, much)


def test_tight_verdicts_are_those_of_the_tight_bounds():
    """Where plain bounds do for some images, tight ones for more, and others are classified wrong or not certified."""
    torch.manual_seed(0)
    overrides = ["training_params:method_params:bound_type=sparse-interval-tight", "eval_params:epsilon=0.1"]
    experiment = config_files.load(ROOT / "config" / "mnist_robtrain_k4_sparse.json", overrides)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 4))
    pixels = torch.randint(2, (130, 1, 4, 4), dtype=torch.uint8)
    images = pixels.float()
    with torch.no_grad():
        labels = net(images).argmax(dim=1)
        labels[:9] = 3 - labels[:9]
        plain, tight = (
            certified(sparse_margins(net, images, labels, SparseThreat(4, 0.1, tight), experiment.scale), labels)
            for tight in (False, True)
        )
    found = verdicts(net, Dataset(255 * pixels, labels, torch.arange(130)), experiment, 2**30)
    assert found.certified.tolist() == tight.tolist()
    assert 0 < plain.sum() < tight.sum() < 121


@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_gradients(kind, tight):
    torch.manual_seed(0)
    net, images, labels = network(kind).double(), images_of(2).double(), torch.tensor([0, 3])
    parameters = list(net.parameters())

    def margins(*values):
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
        return bounds(net, images, labels, k=2, epsilon=0.6, tight=tight)

    weights = torch.rand(2, 4).double()
    loss = (bounds(net, images, labels, k=2, epsilon=0.6, tight=tight) * weights).sum()
    found = torch.autograd.grad(loss, parameters)
    start = [parameter.detach().clone() for parameter in parameters]
    for index, gradient in enumerate(found):
        direction, moved = torch.randn_like(gradient), list(start)
        moved[index] = start[index] + 1e-6 * direction
        change = ((margins(*moved) - margins(*start)) * weights).sum() / 1e-6
        torch.testing.assert_close((gradient * direction).sum(), change.detach(), rtol=1e-3, atol=1e-4)


def test_convolutions_that_do_not_pad_with_zeros_have_no_bounds():
    net = network("convolution")
    net[0].padding_mode = "circular"
    for tight in (False, True):
        with pytest.raises(TypeError, match="padding_mode zeros only"):
            bounds(net, images_of(1), torch.tensor([0]), k=1, tight=tight)


@pytest.mark.parametrize(("kind", "fits"), [("linear", "18"), ("convolution", "9, the pixels of the 3 × 3 kernel")])
def test_k_larger_than_what_a_unit_sees(kind, fits):
    with pytest.raises(UsageError, match=fits):
        bounds(network(kind), images_of(1), torch.tensor([0]), k=19)
