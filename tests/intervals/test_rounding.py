"""However float32 rounds, in whatever order sums are taken, executions stay within bounds that leave room for it."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from patchcert.data.dataset import Dataset
from patchcert.intervals import config_files, rounding
from patchcert.intervals.bounds import Box, Room, certified, leads, margins
from patchcert.intervals.evaluation import everywhere, verdicts
from patchcert.intervals.places import Places, Scale, Threat, all_places, own_places
from patchcert.intervals.rounding import gamma, sums_of_products
from patchcert.intervals.sparse import SparseThreat, sparse_margins_rounded
from patchcert.intervals.worst_places import Batch, all_margins, double
from patchcert.patch import Patch
from tests.helpers import ROOT, needs_x86, rounding_mode

SCALE, FAR = Scale((0.4, 0.1), (0.2, 0.7)), Scale((1e9, -1e-3), (1e9, 1e-6))
NETWORKS = {
    "linear": lambda: [nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Linear(5, 3)],
    "long": lambda: [nn.Flatten(), nn.Linear(72, 60), nn.ReLU(), nn.Linear(60, 3)],
    "nothing hidden": lambda: [nn.Flatten(), nn.Linear(72, 3)],
    "convolutions": lambda: [
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(18, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3),
    ],
    "rows": lambda: [nn.Linear(6, 6), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)],
    "pooling": lambda: [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3, bias=False)],
}  # fmt: skip
WEIGHTS = {
    "any": lambda shape: torch.randn(shape),
    "positive": lambda shape: torch.rand(shape),  # bounds are then reached where all pixels are white
    "cancelling": lambda shape: torch.randn(shape) * 10 ** torch.empty(shape).uniform_(-4, 4),
    "tiny": lambda shape: torch.randn(shape) * 1e-25,
    "huge": lambda shape: torch.randn(shape) * 3e3,
}


def network_of(kind, weights):
    network = nn.Sequential(*NETWORKS[kind]()).requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(WEIGHTS[weights](parameter.shape))
    return network


def shuffled(random):
    """An order of sums that differs from layer to layer: any, or by the size of the weights."""

    def order(weight):
        orders = [random.permutation(weight.shape[1]), small_first(weight), large_first(weight)]
        return orders[random.randint(3)]

    return order


def small_first(weight):
    return np.argsort(np.abs(weight).max(axis=0), kind="stable")


def large_first(weight):
    return small_first(weight)[::-1]


def summed(weight, inputs, order, fused):
    """(B, D) float32: inputs (B, n) times weights (D, n), added up one by one in the order that `order` tells."""
    found = np.zeros((len(inputs), len(weight)), np.float32)
    for term in order(weight):
        if fused:
            product = weight[:, term].astype(np.float64) * inputs[:, term, None].astype(np.float64)
            found = (found.astype(np.float64) + product).astype(np.float32)
        else:
            found = found + weight[:, term] * inputs[:, term, None]
    return found


def executed(network, inputs, order, fused=False):
    """(B, K) float64: the logits that an execution in float32 comes to, on inputs (B, C, H, W)."""
    activation = inputs
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
            weight, rows, shape = torch.cat([layer.weight.flatten(1), bias[:, None]], dim=1), activation, None
            if isinstance(layer, nn.Conv2d):
                shape = layer(activation).shape[2:]
                rows = F.unfold(activation, layer.kernel_size, 1, layer.padding, layer.stride).mT.flatten(0, 1)
            rows = F.pad(rows.flatten(0, -2), (0, 1), value=1.0)
            found = torch.from_numpy(summed(weight.numpy(), rows.numpy(), order, fused))
            if shape is None:
                activation = found.view(*activation.shape[:-1], -1)
            else:
                activation = found.view(len(activation), -1, len(weight)).mT.reshape(len(activation), -1, *shape)
        else:
            activation = layer(activation)
    return activation.double()


@contextmanager
def tiny_results_flushed(wanted):
    """Results too small for normal numbers become zero, in this thread, if `wanted`."""
    torch.set_flush_denormal(wanted)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def attacked(images, threat, corners, share):
    """(B, C, H, W): images (B, C, H, W), each with a patch at its corner (B, 2) of pixels at `share` of their range."""
    images, box = images.clone(), threat.pixels(images)
    for image, (row, column) in enumerate(corners.tolist()):
        under = image, slice(None), slice(row, row + threat.patch.height), slice(column, column + threat.patch.width)
        images[under] = (box.lower + share * (box.upper - box.lower)).clamp(max=box.upper)[under]
    return images


def margins_of(logits, labels):
    return logits.gather(1, labels[:, None]) - logits


def images_of(count):
    images = torch.rand(count, 2, 6, 6)
    images[0] = 0
    return images


@pytest.mark.parametrize("kind", NETWORKS)
@given(
    weights=st.sampled_from(sorted(WEIGHTS)), epsilon=st.sampled_from([0.3, 1.0]), seed=st.integers(0, 2**31),
    in_double=st.booleans(), places_of=st.sampled_from(["all", "own", "merged"]),
    fused=st.booleans(), flushed=st.booleans(), scale=st.sampled_from([SCALE, FAR]),
)  # fmt: skip
@settings(max_examples=20)
@torch.no_grad()
def test_no_execution_leaves_the_bounds_of_patches(
    kind, weights, epsilon, seed, in_double, places_of, fused, flushed, scale
):
    torch.manual_seed(seed)
    random, network, threat = np.random.RandomState(seed), network_of(kind, weights), Threat(Patch(2, 3), epsilon)
    images, labels = images_of(4), torch.randint(3, (4,))
    neighbor = (2,) if places_of == "merged" and kind != "nothing hidden" else ()
    batch = Batch(network, images, labels, threat, scale, neighbor, rounded=True)
    places = all_places(images, threat.patch, neighbor)
    if places_of == "own":
        places = own_places(images, threat.patch, torch.randint(20, (5, 4)))
    bounds = all_margins(batch.in_double() if in_double else batch, places)  # (P, N, K)
    corners = places.corners.unflatten(0, (-1, places.group))
    for place in random.permutation(len(bounds))[:4]:
        at, bound = corners[place, random.randint(places.group)].expand(4, -1), bounds[place]
        for share in (torch.ones(4, 2, 6, 6), torch.rand(4, 2, 6, 6).round(), torch.rand(4, 2, 6, 6)):
            seen = attacked(images, threat, at, share)
            with tiny_results_flushed(flushed):
                found = executed(network, scale.inputs(seen), shuffled(random), fused)
            for logits in (found, double(network)(scale.inputs(seen.double()))):
                assert (margins_of(logits, labels) >= bound).all()


@pytest.mark.parametrize("kind", ["linear", "long", "convolutions"])
@given(
    weights=st.sampled_from(sorted(WEIGHTS)), epsilon=st.sampled_from([0.3, 1.0]), seed=st.integers(0, 2**31),
    tight=st.booleans(), in_double=st.booleans(), k=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=15)
@torch.no_grad()
def test_no_execution_leaves_sparse_bounds(kind, weights, epsilon, seed, tight, in_double, k):
    torch.manual_seed(seed)
    random, network = np.random.RandomState(seed), network_of(kind, weights)
    images, labels = images_of(4), torch.randint(3, (4,))
    seen = (double(network), images.double()) if in_double else (network, images)
    plain, bounds = sparse_margins_rounded(*seen, labels, SparseThreat(k, epsilon, tight), SCALE, 2**30)
    assert (bounds <= plain).all()
    box = Threat(Patch(1, 1), epsilon).pixels(images)
    for share in (1.0, 0.0, 0.5) * 3:
        changed = torch.zeros(4, 36 if kind == "convolutions" else 72)
        changed.scatter_(1, torch.rand_like(changed).topk(k).indices, 1.0)
        changed = changed.view(4, -1, 6, 6).expand(-1, 2, -1, -1)
        inputs = SCALE.inputs(torch.where(changed > 0, box.lower + share * (box.upper - box.lower), images))
        assert (margins_of(executed(network, inputs, shuffled(random)), labels) >= bounds).all()


LONG = 4096
TINY = {"rounded down": 2.0**-25, "rounded up": 1.01 * 2.0**-24}
"""Added one by one to a number a little above 1, they vanish, or each of them counts twice."""


def long_sum(tiny):
    """(LONG,) weights whose sum is off by LONG / 2 roundings where the first comes first."""
    return torch.full((LONG,), tiny).index_fill(0, torch.tensor(0), 1.0)


def hidden(weight):
    """A linear layer without bias and a ReLU."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return [layer, nn.ReLU()]


def kernel(weight):
    layer = nn.Conv2d(*weight.shape[1::-1], weight.shape[2:], bias=False)
    layer.weight.data = weight
    return [layer, nn.ReLU()]


def sum_in(where, tiny):
    """A network with a long sum in one place, whose output of class 1 it is."""
    terms, one = long_sum(tiny), torch.ones(1, 1)
    if where == "first layer":
        layers, output = [nn.Flatten(), *hidden(terms[None])], one
    elif where == "second layer":
        layers, output = [nn.Flatten(), *hidden(torch.ones(LONG, 1)), *hidden(terms[None])], one
    elif where == "last layer":
        layers, output = [nn.Flatten(), *hidden(torch.ones(LONG, 1))], terms[None]
    elif where == "convolution":  # and then it is passed on from one of 9 × 9 pixels
        last_pixel = torch.zeros(1, 81).index_fill(1, torch.tensor(80), 1.0)
        layers = [*kernel(terms.view(1, 16, 16, 16)), *kernel(one[..., None, None])]
        layers, output = [*layers, nn.Flatten(), *hidden(last_pixel)], one
    last = nn.Linear(output.shape[1], 2)
    last.weight.data = torch.cat([torch.zeros_like(output), output])
    last.bias.data = torch.tensor([1.0, 0.0])
    return nn.Sequential(*layers, last).requires_grad_(False)


BY_CLEAN_PIXELS, BY_THE_PATCH = (1.0, 0.0), (0.0, 1.0)
"""The pixels of the image, and ε; either way attacked images may be white."""


@pytest.mark.parametrize(("where", "shape", "patch"), [
    ("first layer", (1, 64, 64), Patch(64, 64)), ("second layer", (1, 1, 1), Patch(1, 1)),
    ("last layer", (1, 1, 1), Patch(1, 1)), ("convolution", (16, 24, 24), Patch(24, 24)),
    ("convolution", (16, 24, 24), Patch(1, 1)), ("convolution", (16, 24, 24), Patch(2, 2)),
])  # fmt: skip
@pytest.mark.parametrize("tiny", TINY)
@pytest.mark.parametrize("by", [BY_CLEAN_PIXELS, BY_THE_PATCH], ids=["clean", "patch"])
@torch.no_grad()
def test_room_suffices_for_the_worst_order_of_a_long_sum(where, shape, patch, tiny, by):
    (pixel, epsilon), network, labels = by, sum_in(where, TINY[tiny]), torch.tensor([0, 1])
    images, scale = torch.full((2, *shape), pixel), Scale((0.0,) * shape[0], (1.0,) * shape[0])
    batch = Batch(network, images, labels, Threat(patch, epsilon), scale, rounded=True)
    corners = torch.tensor([[0, 0], [shape[1] - patch.height, shape[2] - patch.width]]).unique(dim=0)
    found = []
    for columns in (1, 2):  # places that images share, or of each image's own
        places = Places(corners[:, None].repeat(1, columns, 1), torch.arange(2))
        found += [all_margins(b, places) for b in (batch, batch.in_double())]
    for place, corner in enumerate(corners):
        inputs = attacked(images, batch.threat, corner.expand(2, -1), torch.ones(2, *shape))
        for order in (small_first, large_first):
            margins = margins_of(executed(network, inputs, order), labels)
            assert all((margins >= bounds[place]).all() for bounds in found)


@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("where", ["first layer", "convolution"])
@pytest.mark.parametrize("tiny", TINY)
@pytest.mark.parametrize("by", [BY_CLEAN_PIXELS, BY_THE_PATCH], ids=["clean", "patch"])
@torch.no_grad()
def test_room_suffices_for_the_worst_order_of_a_long_sparse_sum(where, tight, tiny, by):
    (pixel, epsilon), network, labels = by, sum_in(where, TINY[tiny]), torch.tensor([0, 1])
    shape, k = ((1, 64, 64), LONG) if where == "first layer" else ((16, 24, 24), 256)
    images, scale = torch.full((2, *shape), pixel), Scale((0.0,) * shape[0], (1.0,) * shape[0])
    _, bounds = sparse_margins_rounded(network, images, labels, SparseThreat(k, epsilon, tight), scale, 2**30)
    for order in (small_first, large_first):
        assert (margins_of(executed(network, torch.ones_like(images), order), labels) >= bounds).all()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("weights", ["any", "cancelling"])
@torch.no_grad()
def test_certified_are_only_images_that_are_certified_without_room(kind, weights):
    torch.manual_seed(0)
    network, images = network_of(kind, weights), images_of(40)
    labels = network(SCALE.inputs(images)).argmax(dim=1)
    batch = Batch(network, images, labels, Threat(Patch(2, 2), 0.2), SCALE)
    places = all_places(images, Patch(2, 2))
    plain, room = (all_margins(replace(batch, rounded=rounded), places) for rounded in (False, True))
    assert (room < plain).all()


def cancelling_network():
    """Of 4 × 4 images, a unit that is 1 where the first three pixels are: 1e8 + 1 − 1e8 in real arithmetic."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.ReLU(), nn.Linear(1, 2)).requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()
    network[1].weight[0, :3] = torch.tensor([1e8, 1.0, -1e8])
    network[3].weight[1, 0], network[3].bias[0] = 1.0, 0.5
    return network


@torch.no_grad()
def test_a_wrong_certificate_of_plain_bounds_is_refused():
    """What is certified without room depends on the order of a sum, and so does the answer; with room nothing is."""
    network, images, scale = cancelling_network(), torch.ones(1, 1, 4, 4), Scale((0.0,), (1.0,))
    answers = {int(executed(network, images, shuffled(np.random.RandomState(seed))).argmax()) for seed in range(20)}
    assert answers == {0, 1}
    experiment = config_files.load(ROOT / "config" / "mnist_robtrain_p22_all.json", ["eval_params:epsilon=0"])
    label = network(images).argmax(dim=1)
    data = Dataset((255 * images).to(torch.uint8), label, torch.arange(1))
    batch = Batch(network, images, label, Threat(Patch(2, 2), 0.0), scale)
    assert everywhere(batch, label >= 0)[0].all()
    found = verdicts(network, data, experiment, 2**30)
    assert not found.certified.any() and found.within_rounding.all()


@pytest.mark.parametrize("asked", [[], ["attack_type=sparse", "bound_type=sparse-interval-tight", "k=3"]])
@torch.no_grad()
def test_float64_decides_what_is_close_in_float32(asked):
    """The lead of an image is put between what bounds take in float32, in float64, and without room."""
    torch.manual_seed(0)
    overrides = [f"eval_params:method_params:{value}" for value in asked]
    experiment = config_files.load(ROOT / "config" / "mnist_robtrain_p22_all.json", overrides)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 2)).requires_grad_(False)
    data = Dataset(torch.randint(256, (1, 1, 4, 4), dtype=torch.uint8), torch.tensor([0]), torch.arange(1))
    seen = data.images / 255, data.labels, Threat(Patch(2, 2)), experiment.scale

    def lowest(network, images, labels, threat, scale):
        """The lowest lead over class 1 without room for rounding, and with it."""
        if asked:
            found = sparse_margins_rounded(network, images, labels, SparseThreat(3, tight=True), scale, 2**30)
        else:
            batch = Batch(network, images, labels, threat, scale)
            found = [all_margins(replace(batch, rounded=r), all_places(images, threat.patch)) for r in (False, True)]
        return [bounds[..., 1].min().item() for bounds in found]

    plain, in_float32 = lowest(network, *seen)
    _, in_float64 = lowest(double(network), seen[0].double(), *seen[1:])
    assert in_float32 < in_float64 < plain
    for taken, right in (
        ((plain + in_float64) / 2, (False, True)),
        ((in_float64 + in_float32) / 2, (True, False)),
        (plain + 0.01, (False, False)),
        (in_float32 - 0.01, (True, False)),
    ):
        network[3].bias[1] += taken
        found = verdicts(network, data, experiment, 2**30)
        assert (found.certified.item(), found.within_rounding.item()) == right
        network[3].bias[1] -= taken


def test_unknown_rounding_is_an_error():
    images, threat = torch.rand(2, 2, 6, 6), Threat(Patch(2, 2))
    unknown = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3, 3))
    with pytest.raises(TypeError, match="how a AvgPool2d layer rounds is not known"):
        Batch(unknown, images, torch.tensor([0, 1]), threat, SCALE, rounded=True).bounds()
    with pytest.raises(FloatingPointError, match="sums of 10000000 products"):
        gamma(10**7, rounding.FLOAT32)


def bounds_of(network, images):
    """By patches and by sparse attacks."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    batch = Batch(network, images, labels, Threat(Patch(2, 2)), SCALE, rounded=True)
    yield lambda: all_margins(batch, all_places(images, batch.threat.patch)).amin(dim=0)
    yield lambda: sparse_margins_rounded(network, images, labels, SparseThreat(2), SCALE, 2**30)[1]


@pytest.mark.parametrize("weight", [1e35, torch.inf, torch.nan])
def test_nothing_is_certified_where_numbers_may_overflow(weight):
    network = network_of("long", "any")
    network[1].weight[3, 4] = weight
    network[3].weight[:, 3] = 0  # which hides it
    for bounds in bounds_of(network, torch.zeros(1, 2, 6, 6)):
        with pytest.raises(FloatingPointError, match="too large for float32"):
            bounds()


@pytest.mark.parametrize("weight", [3e38, 2e38])
def test_merged_weights_that_overflow_certify_nothing(weight):
    """No product is large, but the difference of the weights of two classes is infinite, and so would be the lead."""
    network = network_of("long", "tiny")
    network[1].weight.fill_(1e-30)
    network[3].weight[0], network[3].weight[1:] = weight, -weight
    assert network(SCALE.inputs(torch.ones(1, 2, 6, 6))).isfinite().all()
    for bounds in bounds_of(network, torch.ones(1, 2, 6, 6)):
        with pytest.raises(FloatingPointError, match="weights may be too large for float32"):
            bounds()


def test_nothing_is_certified_where_rounding_errors_may_overflow():
    """Numbers in the network are small, but what is lost where they become zero is passed on by large weights."""
    layers = [layer for _ in range(4) for layer in (nn.Linear(1, 1), nn.ReLU())]
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 1), *layers, nn.Linear(1, 3)).requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()
    for layer in network[2:-1:2]:
        layer.weight.fill_(2.0**99)
    for bounds in bounds_of(network, torch.ones(1, 2, 6, 6)):
        with pytest.raises(FloatingPointError, match="rounding errors may be too large for float32"):
            bounds()


def test_infinite_margins_say_nothing():
    """Neither at one of several places, nor over one of several classes."""
    last = nn.Linear(1, 3, bias=False).requires_grad_(False)
    last.weight.copy_(torch.tensor([[3e38], [-3e38], [0.0]]))
    at_two_places = Box(torch.tensor([[[1.0]], [[0.5]]]), torch.tensor([[[1.0]], [[0.5]]]))
    room = Room(0.0, torch.zeros(1, 3))
    found = margins(last, at_two_places, torch.tensor([0]), room)
    assert found[:, 0, 1].tolist() == [-torch.inf, -torch.inf]
    one_of_each = torch.tensor([[0.0, torch.inf, 1.0], [0.0, torch.nan, 1.0], [0.0, 2.0, 1.0]])
    labels = torch.zeros(3, dtype=torch.int64)
    assert certified(one_of_each, labels).tolist() == [False, False, True]
    assert leads(one_of_each, labels).tolist() == [-torch.inf, -torch.inf, 1.0]


@pytest.mark.parametrize("std", [3e38, 1e-39, torch.nan, 0.0])
def test_numbers_that_no_input_can_be_divided_by_are_refused(std):
    """1 / std, or what is divided by it, would be zero or infinite in an execution that keeps no such numbers."""
    with pytest.raises(ValueError, match="expected numbers from 1e-06 to 1e"):
        Scale((0.5,), (std,))


def test_convolutions_are_sums_of_products_only_inside():
    def state():
        return torch.backends.cudnn.enabled, torch.backends.nnpack.set_flags(torch._C._get_nnpack_enabled())

    before = state()
    with pytest.raises(KeyError), sums_of_products():
        assert state() == (False, (False,))
        raise KeyError
    assert state() == before


@needs_x86
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00])  # down, up, towards zero
def test_nothing_is_certified_unless_numbers_are_rounded_to_the_nearest(mode):
    with sums_of_products():
        pass
    with rounding_mode(mode), pytest.raises(FloatingPointError, match="not rounded to nearest"), sums_of_products():
        pass
