"""Bounds inside windows equal the plain construction, are sound against attacks, and have its gradients."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from patchcert.errors import UsageError
from patchcert.intervals import config_files, strips
from patchcert.intervals.bounds import robust_loss
from patchcert.intervals.config import Method
from patchcert.intervals.guide import Guide, guide_loss, likeliest
from patchcert.intervals.networks import build
from patchcert.intervals.patches import times_maps
from patchcert.intervals.places import Scale, Threat, all_places, corners_of, own_places
from patchcert.intervals.training_attacks import ATTACKS
from patchcert.intervals.windows import Axis
from patchcert.intervals.worst_places import Batch, all_margins, lowest_margins, worst_margins
from patchcert.patch import Patch
from tests.intervals.oracle import plain_boxes, plain_margins

GREY, COLOUR = Scale((0.0,), (1.0,)), Scale((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
SMALL = {
    "mlp": {"hidden": 15},
    "cnn_2layer": {"width": 1, "linear_size": 12},
    "cnn_4layer": {"width": 1, "linear_size": 12},
    "cnn_5layer": {"width": 1, "linear_size": 12},
}
UNUSUAL = {
    "pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 10)
    ),
    "no ReLU": lambda: nn.Sequential(nn.Conv2d(3, 4, 4, stride=3), nn.Flatten(), nn.Linear(36, 10)),
    "kernels smaller than strides": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 1, stride=2), nn.ReLU(), nn.Conv2d(4, 3, 2, stride=3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(27, 9), nn.ReLU(), nn.Linear(9, 10),
    ),
    "no hidden layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 10)),
    "uneven kernels": lambda: nn.Sequential(
        nn.Conv2d(3, 4, (3, 2), stride=(1, 2), dilation=(2, 1)), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 7), nn.ReLU(), nn.Linear(7, 10),
    ),
}  # fmt: skip


def problem(network, patch, epsilon, count=3, size=12, scale=COLOUR, **more):
    images = torch.rand(count, len(scale.mean), size, size)
    images[0] = images[0].round()  # pixels at 0 and 1, where boxes are cut off
    return Batch(network, images, torch.randint(10, (count,)), Threat(patch, epsilon), scale, **more)


def small(name, channels=3, size=12):
    return build(name, channels, size, 10, SMALL[name])


def plain(batch, corners=None):
    return plain_margins(batch.network, batch.images, batch.labels, batch.threat, batch.scale, corners)


def assert_bounds_equal(found, expected):
    """To 1e-5 of their size, the rounding of sums of many float32 terms."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SMALL)
@given(
    height=st.integers(1, 8), width=st.integers(1, 8), epsilon=st.sampled_from([0.0, 0.3, 1.0]),
    scale=st.sampled_from([GREY, COLOUR]), seed=st.integers(0, 2**31), memory=st.sampled_from([1, 2**31]),
)  # fmt: skip
@settings(max_examples=8)
@torch.no_grad()
def test_bounds_equal_the_plain_construction(name, height, width, epsilon, scale, seed, memory):
    torch.manual_seed(seed)
    patch = Patch(height, width)
    batch = problem(small(name, len(scale.mean), size=8), patch, epsilon, size=8, scale=scale, max_memory=memory)
    expected = plain(batch)
    shared = all_places(batch.images, patch)
    assert_bounds_equal(all_margins(batch, shared), expected)
    own = own_places(batch.images, patch, torch.arange(len(expected))[:, None].expand(-1, 3))
    assert_bounds_equal(all_margins(batch, own), expected)
    worst, place = lowest_margins(batch, shared)
    assert_bounds_equal(worst, expected.amin(0))
    assert_bounds_equal(expected.gather(0, place[None])[0], worst)


@cache
def config_networks():
    """Each distinct network of the configs that train on patches, with its data's shape and scale."""
    found = {}
    for path in sorted(Path(__file__).parents[2].joinpath("config").glob("*.json")):
        experiment = config_files.load(path)
        if not experiment.training_params.method_params.sparse:
            for model in experiment.models:
                found[experiment.dataset, model.model_id] = experiment, model
    return found


@pytest.mark.parametrize(("data", "model_id"), config_networks())
@pytest.mark.parametrize(("patch", "epsilon"), [(Patch(2, 2), 0.3), (Patch(5, 5), 1.0), (Patch(1, 4), 0.0)], ids=str)
@torch.no_grad()
def test_every_networks_bounds_equal_the_plain_ones(data, model_id, patch, epsilon):
    torch.manual_seed(0)
    experiment, model = config_networks()[data, model_id]
    channels, size = (1, 28) if data == "mnist" else (3, 32)
    network = build(model.model_class, channels, size, 10, model.model_params)
    batch = problem(network, patch, epsilon, count=2, size=size, scale=experiment.scale)
    some = corners_of(patch, size, size)[torch.randperm(size)[:12]]
    some[:2] = torch.tensor([[0, 0], [size - patch.height, size - patch.width]])
    places = all_places(batch.images, patch)
    few = places.__class__(some[:, None], places.images)
    assert_bounds_equal(all_margins(batch, few), plain(batch, some))


@pytest.mark.parametrize("name", UNUSUAL)
@torch.no_grad()
def test_networks_of_other_shapes(name):
    torch.manual_seed(0)
    batch = problem(UNUSUAL[name]().eval(), Patch(3, 2), 0.5)
    assert_bounds_equal(all_margins(batch, all_places(batch.images, Patch(3, 2))), plain(batch))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "layer",
    [{"kernel_size": 1, "stride": 3, "padding": 2}, {"kernel_size": 1, "stride": 3}],
    ids=str,
)
def test_patches_that_strided_kernels_skip_change_nothing(layer, count):
    """What a convolution skips there, and the zeros beside a map, make windows of which nothing is left."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, **layer)
    features = convolution(torch.zeros(1, 3, 12, 12)).numel()
    network = nn.Sequential(
        convolution, nn.ReLU(), nn.Flatten(), nn.Linear(features, 7), nn.ReLU(), nn.Linear(7, 10)
    )  # fmt: skip
    patch = Patch(1)
    batch = problem(network, patch, 1.0, count=count, max_memory=1)
    shared = all_places(batch.images, patch)
    expected = plain(batch)
    assert_bounds_equal(all_margins(batch, shared), expected)
    with torch.no_grad():
        rounded = all_margins(replace(batch, rounded=True), shared)
        assert (rounded <= expected + 1e-6).all()
        torch.testing.assert_close(rounded, expected, atol=1e-3, rtol=1e-3)
    own = own_places(batch.images, patch, torch.arange(len(expected))[:, None].expand(-1, count))
    sums = expected.amin(0).sum(), worst_margins(batch, own).sum()
    for one, other in zip(*(gradients(total, batch) for total in sums), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("memory", [1, 2**31])
def test_gradients_are_those_of_the_plain_construction(name, memory):
    torch.manual_seed(0)
    patch = Patch(3, 2)
    batch = problem(small(name), patch, 0.7, count=5, max_memory=memory)
    losses = (F.cross_entropy(-m, batch.labels) for m in (plain(batch).amin(0), worst_of_all(batch)))
    expected, found = (torch.autograd.grad(loss, list(batch.network.parameters())) for loss in losses)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def gradients(loss, batch, *more):
    return torch.autograd.grad(loss, [*batch.network.parameters(), *more])


@pytest.mark.parametrize("neighbor", [(), (2, 1, 2)], ids=["each place", "merged"])
@pytest.mark.parametrize("name", ["cnn_4layer", "cnn_5layer"])
def test_a_step_by_windows_is_the_plain_step_in_float64(name, neighbor):
    """Loss and gradients, at every place, borders among them, behind strides."""
    torch.manual_seed(0)
    batch = problem(small(name), Patch(3, 2), 0.7, neighbor=neighbor).in_double()
    expected = (plain_pooled(batch, neighbor) if neighbor else plain(batch)).amin(0)
    losses = [robust_loss(worst, batch.labels) for worst in (expected, worst_of_all(batch, neighbor))]
    torch.testing.assert_close(*losses, atol=0, rtol=1e-12)
    for one, other in zip(*(gradients(loss, batch) for loss in losses), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("name", ["cnn_2layer", "cnn_5layer", "kernels smaller than strides", "uneven kernels"])
@pytest.mark.parametrize("memory", [1, 2**30])
def test_each_images_own_places_in_strips_are_the_plain_step_in_float64(name, memory, monkeypatch):
    """Every place, of each image in another order, in strips of a few boxes, and in groups full and not full."""
    for constant, value in (("STRIPS", 99), ("PER_STRIP", 17), ("BOXES", 4), ("FEW", 2)):
        monkeypatch.setattr(strips, constant, value)
    torch.manual_seed(0)
    network = small(name, size=8) if name in SMALL else UNUSUAL[name]()
    size = 8 if name in SMALL else 12
    batch = problem(network, Patch(3, 2), 0.7, count=2, size=size, max_memory=memory).in_double()
    every = plain(batch)
    drawn = torch.stack([torch.randperm(len(every)) for _ in range(2)], dim=1)
    places = own_places(batch.images, Patch(3, 2), drawn)
    assert strips.applies(batch.bounds(), places)
    torch.testing.assert_close(all_margins(batch, places), every[drawn, torch.arange(2)], atol=1e-12, rtol=1e-10)
    weights = torch.rand_like(every[0])
    sums = (every.amin(0) * weights).sum(), (worst_margins(batch, places) * weights).sum()
    for one, other in zip(*(gradients(total, batch) for total in sums), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize(("extent", "corner"), [(7, corner) for corner in range(6)] + [(8, 6)])
def test_windows_are_what_a_patch_reaches(corner, extent):
    """Behind a strided convolution and a plain one, of a single place: nothing more, nothing outside the map."""
    axis = Axis.around(torch.tensor([[corner]]), 2, 2, extent)
    touched = torch.zeros(1, 1, extent, extent)
    touched[..., corner : corner + 2, :] = 1
    for layer in (nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.Conv2d(1, 1, 3, padding=1)):
        axis, _, _ = axis.through(layer, 0)
        touched = F.conv2d(touched, torch.ones(1, 1, 3, 3), stride=layer.stride, padding=1)
        reached = touched[0, 0].sum(dim=1).nonzero().flatten()
        assert axis.positions().flatten().tolist() == reached.tolist()
        assert axis.strip == slice(int(reached[0]), int(reached[-1]) + 1)


@pytest.mark.parametrize("attack_type", ["patch-random", "patch-nn"])
def test_a_step_at_drawn_places_is_the_plain_step_in_float64(attack_type):
    """Both losses of the guide too, and its gradients."""
    torch.manual_seed(0)
    batch = problem(small("cnn_5layer"), Patch(2, 2), 0.7, count=2).in_double()
    method = Method(attack_type=attack_type, bound_type="interval", patch_w=2, patch_l=2, patch_count=2, base_width=3)
    attack = ATTACKS[attack_type](batch.network, method, batch.scale, 2**30)
    guide = attack.guide = Guide(3, 10, 3).double()
    noise = attack.noise(batch.images, torch.Generator().manual_seed(1))
    worst, beside = attack.worst(batch.images, batch.labels, 0.7, noise)
    predicted = guide(batch.scale.inputs(batch.images))[:, :, :11, :11].flatten(2)
    drawn = noise.t() if attack_type == "patch-random" else likeliest(predicted, 1.0, noise, 2)
    found = plain(batch, corners_of(Patch(2, 2), 12, 12)[drawn])
    plain_beside = torch.zeros(()) if attack_type == "patch-random" else guide_loss(predicted, drawn, found.detach())
    torch.testing.assert_close(torch.as_tensor(beside), plain_beside, check_dtype=False)
    losses = robust_loss(found.amin(0), batch.labels) + plain_beside, robust_loss(worst, batch.labels) + beside
    torch.testing.assert_close(*losses, atol=0, rtol=1e-12)
    more = list(guide.parameters()) if attack_type == "patch-nn" else []
    for one, other in zip(*(gradients(loss, batch, *more) for loss in losses), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512", "DEFAULT"])
def test_a_linear_layer_is_the_same_for_all_processors(instructions, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    maps, weights = torch.randn(5, 3, 4, 6), torch.randn(7, 9, 4, 6)[:, 2:5]
    with torch.no_grad():
        found = times_maps(maps, weights)
    assert_bounds_equal(found, torch.einsum("bhwc,dhwc->bd", maps, weights))


def test_half_precision_comes_near():
    """What --amp trains with: bounds within a few units of bfloat16, and gradients that point the same way."""
    torch.manual_seed(0)
    batch = problem(build("cnn_5layer", 3, 12, 10, {"width": 4, "linear_size": 32}), Patch(3, 2), 0.7, count=8)
    half = replace(batch, amp=True)
    exact, near = worst_of_all(batch), worst_of_all(half)
    assert 0 < (exact - near).abs().max() < 0.03 * exact.abs().max()
    one, other = (
        torch.cat([g.flatten() for g in gradients(robust_loss(worst / 100, batch.labels), batch)])
        for worst in (exact, near)
    )
    assert F.cosine_similarity(one, other, dim=0) > 0.99


def worst_of_all(batch, neighbor=()):
    return worst_margins(batch, all_places(batch.images, batch.threat.patch, neighbor))


@pytest.mark.parametrize("name", SMALL)
def test_gradients_at_own_places(name):
    torch.manual_seed(0)
    patch = Patch(2, 2)
    batch = problem(small(name), patch, 0.7)
    drawn = torch.randint(121, (6, 3))
    margins = plain(batch)[drawn, torch.arange(3)].amin(0)
    found = worst_margins(batch, own_places(batch.images, patch, drawn))
    assert_bounds_equal(found, margins)
    losses = (F.cross_entropy(-m, batch.labels) for m in (margins, found))
    expected, found = (torch.autograd.grad(loss, list(batch.network.parameters())) for loss in losses)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def pgd(batch, corner, steps=20):
    """The lowest margins (N, K) that sign steps on the pixels under one patch find."""
    row, column = corner.tolist()
    under = torch.zeros_like(batch.images)
    under[:, :, row : row + batch.threat.patch.height, column : column + batch.threat.patch.width] = 1
    ends = (batch.images + step for step in (-batch.threat.epsilon, batch.threat.epsilon))
    lower, upper = (torch.where(under > 0, end.clamp(0, 1), batch.images) for end in ends)
    images, lowest = lower + (upper - lower) * torch.rand_like(lower), None
    for _ in range(steps):
        images.requires_grad_()
        logits = batch.network(batch.scale.inputs(images))
        margins = logits.gather(1, batch.labels[:, None]) - logits
        lowest = margins.detach() if lowest is None else torch.minimum(lowest, margins.detach())
        (gradient,) = torch.autograd.grad(margins.sum(), images)
        images = (images.detach() - 0.2 * gradient.sign()).clamp(lower, upper)
    return lowest


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_nothing_in_the_threat_model_leaves_the_bounds(name, epsilon):
    """Random pixels, corners of the box, and PGD at every fifth place."""
    torch.manual_seed(1)
    batch = problem(small(name), Patch(3, 4), epsilon)
    corners = corners_of(Patch(3, 4), 12, 12)[::5]
    bounds = all_margins(batch, all_places(batch.images, Patch(3, 4)))[::5]
    box = plain_boxes(batch.images, batch.threat, batch.scale, corners)
    for share in (torch.rand_like(box.lower), torch.randint_like(box.lower, 2)):
        logits = batch.network(box.lower + share * (box.upper - box.lower)).detach().unflatten(0, (-1, 3))
        own = logits.gather(2, batch.labels.expand(len(corners), 3)[..., None])
        assert (own - logits >= bounds - 1e-4).all()
    for bound, corner in zip(bounds, corners, strict=True):
        assert (pgd(batch, corner) >= bound - 1e-4).all()


def plain_pooled(batch, neighbor):
    """The plain construction with groups merged on the grid of places: max of upper, min of lower bounds."""
    from patchcert.intervals.bounds import Box, margins, through

    rows, columns = (12 - side + 1 for side in (batch.threat.patch.height, batch.threat.patch.width))
    box = plain_boxes(batch.images, batch.threat, batch.scale, corners_of(batch.threat.patch, 12, 12))
    groups, count = list(neighbor), len(batch.labels)
    for layer in batch.network[:-1]:
        box = through(layer, box)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and groups:
            g, rest = groups.pop(0), box.lower.shape[1:]
            lower, upper = (end.view(rows, columns, count, *rest) for end in (box.lower, box.upper))
            tiles = [(r, c) for r in range(0, rows, g) for c in range(0, columns, g)]
            lower = torch.stack([lower[r : r + g, c : c + g].flatten(0, 1).amin(0) for r, c in tiles])
            upper = torch.stack([upper[r : r + g, c : c + g].flatten(0, 1).amax(0) for r, c in tiles])
            box, rows, columns = Box(lower.flatten(0, 1), upper.flatten(0, 1)), -(-rows // g), -(-columns // g)
    ends = (end.unflatten(0, (-1, count)) for end in (box.lower, box.upper))
    return margins(batch.network[-1], Box(*ends), batch.labels)


@pytest.mark.parametrize(("name", "neighbor"), [("mlp", [2]), ("cnn_2layer", [2, 1, 2]), ("cnn_2layer", [3, 2]),
                                               ("cnn_4layer", [2, 1, 2]), ("cnn_5layer", [2])])  # fmt: skip
def test_pooled_places_equal_plain_pooling_and_lie_below(name, neighbor):
    torch.manual_seed(0)
    batch = problem(small(name), Patch(4, 3), 0.8, neighbor=tuple(neighbor))
    expected, found = plain_pooled(batch, neighbor).amin(0), worst_of_all(batch, neighbor)
    assert_bounds_equal(found, expected)
    assert (found <= plain(batch).amin(0) + 1e-5).all()
    losses = (F.cross_entropy(-m, batch.labels) for m in (expected, found))
    expected, found = (torch.autograd.grad(loss, list(batch.network.parameters())) for loss in losses)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_patch_larger_than_the_image_is_an_error():
    with pytest.raises(UsageError, match="28 rows"):
        corners_of(Patch(29, 1), 28, 28)
