"""Each layer's rule contains what the layer does to points of the box, and is as tight as interval arithmetic gets."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from patchcert.intervals.bounds import Box, certified, margins, through

LAYERS = {
    "convolution": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "strided convolution": lambda: nn.Conv2d(2, 3, (3, 2), stride=2, dilation=(1, 2)),
    "flatten and linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 4)),
    "relu": nn.ReLU,
    "max pooling": lambda: nn.MaxPool2d(3, stride=1),
    "several": lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
@given(seed=st.integers(0, 2**31), width=st.sampled_from([0.0, 0.1, 3.0]))
def test_outputs_on_points_of_the_box_are_inside(name, seed, width):
    torch.manual_seed(seed)
    layer = LAYERS[name]()
    lower = torch.randn(1, 2, 5, 5)
    box = Box(lower, lower + width * torch.rand(1, 2, 5, 5))
    shares = torch.cat([torch.rand(50, 2, 5, 5), torch.randint(2, (50, 2, 5, 5)).float()])
    with torch.no_grad():
        bound, outputs = through(layer, box), layer(box.lower + shares * (box.upper - box.lower))
    assert (outputs >= bound.lower - 1e-5).all() and (outputs <= bound.upper + 1e-5).all()
    if width == 0:
        torch.testing.assert_close(bound.lower, bound.upper, atol=1e-5, rtol=0)


def test_one_layer_is_exact():
    """The best corner of the box reaches the bound of a linear layer; all corners are tried."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 3).double()
    box = Box(-torch.rand(1, 6).double(), torch.rand(1, 6).double())
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).double()
    outputs = layer(box.lower + corners * (box.upper - box.lower))
    bound = through(layer, box)
    torch.testing.assert_close(bound.lower[0], outputs.amin(0))
    torch.testing.assert_close(bound.upper[0], outputs.amax(0))


def test_margins_are_exact_for_a_linear_network():
    torch.manual_seed(0)
    last, labels = nn.Linear(6, 3), torch.tensor([2, 0])
    box = Box(-torch.rand(1, 2, 6), torch.rand(1, 2, 6))
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    logits = last(box.lower + corners[:, None] * (box.upper - box.lower))  # (64, 2, 3)
    own = logits.gather(2, labels.expand(len(corners), 2)[..., None])
    torch.testing.assert_close(margins(last, box, labels)[0], (own - logits).amin(0), atol=1e-5, rtol=0)


def test_certified_needs_every_margin_above_zero():
    worst = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0], [1.0, 0.0, torch.nan], [1.0, -1.0, 0.0]])
    assert certified(worst, torch.tensor([0, 0, 1, 2])).tolist() == [True, False, False, False]


def test_layers_without_a_rule_are_named():
    with pytest.raises(TypeError, match="Sigmoid"):
        through(nn.Sigmoid(), Box(torch.zeros(1), torch.ones(1)))
    with pytest.raises(TypeError, match="padding_mode zeros only, not reflect"):
        box = Box(torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
        through(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), box)
