"""Sparse bounds by enumeration of the inputs that may change; the tight ones lie inside the plain ones."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from patchcert.errors import UsageError
from patchcert.intervals import sparse
from patchcert.intervals.places import Scale
from patchcert.intervals.sparse import SparseThreat, sparse_margins

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


def test_few_candidates_and_many_find_the_same(monkeypatch):
    """The search among the largest weights goes on until it is proved to be complete."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(200, 7), nn.ReLU(), nn.Linear(7, 4))
    images, labels = torch.rand(5, 2, 10, 10).round(), torch.tensor([0, 1, 2, 3, 0])
    found = []
    for candidates in (1, 1000):
        monkeypatch.setattr(sparse, "CANDIDATES", candidates)
        margins = bounds(net, images, labels, k=3, tight=True)
        found.append((margins, *torch.autograd.grad(margins.sum(), list(net.parameters()))))
    for few, many in zip(*found, strict=True):
        torch.testing.assert_close(few, many)


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


@pytest.mark.parametrize(("kind", "fits"), [("linear", "18"), ("convolution", "9, the pixels of the 3 × 3 kernel")])
def test_k_larger_than_what_a_unit_sees(kind, fits):
    with pytest.raises(UsageError, match=fits):
        bounds(network(kind), images_of(1), torch.tensor([0]), k=19)
