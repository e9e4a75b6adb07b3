"""`interval_bounds` against every content of a patch that is tried: it certifies what the network itself computes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as every_module
from torch.nn.utils import parametrizations, parametrize, prune

from patchcert import Patch, Share, interval_bounds
from tests.test_python_interface import HEIGHT, WIDTH, dark_and_bright_images, with_every_content

IMAGES, LABELS = torch.rand(5, 1, HEIGHT, WIDTH), torch.arange(5) % 3


def bounded(network, **more):
    """What `interval_bounds` say of dark and bright images."""
    return interval_bounds(network, dark_and_bright_images(), np.ones(24, np.int64), Patch(1, 2), **more).answers[0]


def convolutional(convolution=None, relu=None):
    """Of some images sure, of others not."""
    torch.manual_seed(3)
    convolution, last = convolution or nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * HEIGHT * WIDTH, 3)
    last.bias.data[0] += 0.5
    return nn.Sequential(convolution, relu or nn.ReLU(), nn.Flatten(), last)


@torch.no_grad()
def lowest_leads(network, answer, mean=0.0, std=1.0):
    """(N,): of the answers over other classes, whatever the patch shows."""
    attacked = with_every_content(dark_and_bright_images(), Patch(1, 2)).flatten(0, 1)
    logits = network((attacked - mean) / std).view(24, -1, 3)
    own = answer.predicted[:, None, None].expand(-1, logits.shape[1], 1)
    return (logits.gather(2, own) - logits).scatter(2, own, torch.inf).amin(dim=(1, 2))


def test_bounds_hold_whatever_the_patch_shows():
    network, images, patch = convolutional(), dark_and_bright_images(), Patch(1, 2)
    result = interval_bounds(network, images, np.ones(24, np.int64), patch, mean=[0.4], std=[0.5], batch_size=7)
    (answer,) = result.answers
    assert (answer.verdicts["lead"] <= lowest_leads(network, answer, 0.4, 0.5) + 1e-5).all()
    assert torch.equal(answer.certified, answer.verdicts["lead"] > 0) and 0 < int(answer.certified.sum()) < 24
    assert result.to_dict()["certified_correct"] == int((answer.certified & (answer.predicted == 1)).sum())
    assert (result.arithmetic["precision"], result.arithmetic["engine"]) == ("float32", "intervals")


def test_a_share_of_the_pixels_is_the_square_that_it_is():
    share, patch = (
        interval_bounds(convolutional(), IMAGES, LABELS, size).answers[0]
        for size in (Share(350 / (HEIGHT * WIDTH)), Patch(2))
    )
    assert share.patch == Patch(2) and share.verdicts["lead"].equal(patch.verdicts["lead"])


@pytest.mark.parametrize(
    ("of", "precision"),
    [(torch.backends, "ieee"), (torch.backends.cudnn.conv, "ieee"), (torch.backends.mkldnn.conv, "bf16")],
)
def test_bounds_are_float32_however_pytorch_is_set(of, precision):
    expected = bounded(convolutional()).verdicts["lead"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bounded(convolutional()).verdicts["lead"], expected)
    before, of.fp32_precision = of.fp32_precision, precision
    try:
        assert torch.equal(bounded(convolutional()).verdicts["lead"], expected)
        assert of.fp32_precision == precision
    finally:
        of.fp32_precision = before


@pytest.mark.parametrize("first", [[], [nn.ReLU]])
def test_bounds_are_the_same_with_relu_in_place(first):
    in_place, plain = (
        bounded(nn.Sequential(*(relu(place) for relu in first), *convolutional(relu=nn.ReLU(place))), mean=[0.5])
        for place in (True, False)
    )
    assert torch.equal(in_place.verdicts["lead"], plain.verdicts["lead"])


def test_bounds_of_a_layer_used_twice_are_those_of_two_like_it():
    torch.manual_seed(4)
    layer, last = nn.Linear(HEIGHT * WIDTH, HEIGHT * WIDTH), nn.Linear(HEIGHT * WIDTH, 3)
    layer.bias.data += 1
    twice = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU(), last)
    two = copy.deepcopy(twice[:3]).extend(copy.deepcopy(twice[3:]))
    assert torch.equal(bounded(twice).verdicts["lead"], bounded(two).verdicts["lead"])


class Standardised(nn.Conv2d):
    def forward(self, maps):
        return self._conv_forward(maps, self.weight - self.weight.mean(), self.bias)


class Negating(nn.Conv2d):
    def __call__(self, maps):
        return -super().__call__(maps)


class Wide(nn.Conv2d):
    def __init__(self):
        super().__init__(1, 4, 3, padding=1)


class Centred(nn.Sequential):
    def forward(self, images):
        return super().forward(2 * images - 1)


class OfOwnKind(torch.Tensor):
    """A tensor whose class decides what is done with it."""


class Changing(nn.Module):
    def forward(self, weight):
        return weight + torch.rand_like(weight)


def a_method(part, name="forward"):
    """What gives a part of a network, or all of it, a method of its own, which negates what it computes."""

    def change(network):
        changed = network if part is None else network[part]
        method = getattr(changed, name)
        setattr(changed, name, lambda *args: -method(*args))

    return change


def hooked(kind):
    return lambda network: getattr(network[0], kind)(lambda layer, *maps: None)


def of_other_weights(make):
    def change(network):
        network[0].weight = nn.Parameter(make(network[0].weight.data), requires_grad=False)

    return change


CHANGES = {
    "forward of the network": (a_method(None), "a `forward` set on the network, a Sequential; its bounds would be"),
    "forward of a layer": (a_method(0), "a `forward` set on 0, a Conv2d"),
    "_conv_forward": (a_method(0, "_conv_forward"), "a `_conv_forward` set on 0, a Conv2d"),
    "_call_impl": (a_method(0, "_call_impl"), "a `_call_impl` set on 0, a Conv2d"),
    "forward of the last layer": (a_method(3), "a `forward` set on 3, a Linear"),
    "hook": (hooked("register_forward_hook"), "a forward hook, .*, on 0, a Conv2d"),
    "pre-hook": (hooked("register_forward_pre_hook"), "a forward pre-hook, .*, on 0, a Conv2d"),
    "old weight norm": (lambda network: nn.utils.weight_norm(network[0]), "pre-hook, WeightNorm, on 0, a Conv2d"),
    "old spectral norm": (lambda network: nn.utils.spectral_norm(network[0]), "pre-hook, SpectralNorm, on 0, a Conv2d"),
    "pruning": (lambda network: prune.l1_unstructured(network[0], "weight", 3), "pre-hook, L1Unstructured, on 0"),
    "compile": (lambda network: network.compile(backend="eager"), "the network was compiled"),
    "parametrisation that changes": (
        lambda network: parametrize.register_parametrization(network[0], "weight", Changing()),
        "has another weight each time",
    ),
    "float64": (lambda network: network.double(), "layer 0, a Conv2d, has a weight Parameter torch.float64"),
    "half": (lambda network: network.half(), "layer 0, a Conv2d, has a weight Parameter torch.float16"),
    "weights of another class": (of_other_weights(lambda w: w.as_subclass(OfOwnKind)), "a weight that is a OfOwnKind"),
    "of other channels": (of_other_weights(lambda w: w[:3]), "expected a plain tensor of float32 .4, 1, 3, 3"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_what_bounds_do_not_know_of_is_refused_every_time(change):
    network, (make, message) = convolutional(), CHANGES[change]
    make(network)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            bounded(network)


@pytest.mark.parametrize("kind", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_hooks_for_all_modules_are_refused(kind):
    network = convolutional()
    handle = getattr(every_module, kind)(lambda layer, *maps: None)
    try:
        with pytest.raises(ValueError, match="a forward hook on all modules"):
            bounded(network)
    finally:
        handle.remove()
    assert bounded(network).certified.any()


LAYERS = {
    "forward of its class": (Standardised(1, 4, 3, padding=1), "layer 0, a Standardised, has a forward of its own"),
    "call of its class": (Negating(1, 4, 3, padding=1), "a `__call__` that is not torch's on 0, a Negating"),
    "another padding": (nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), "padding_mode reflect, expected zeros"),
    "batch norm": (nn.BatchNorm2d(1), r"a BatchNorm2d, has no interval bounds.*; torch\.nn\.utils\.fuse_conv_bn_eval"),
    "group norm": (nn.GroupNorm(1, 1), "layer 0, a GroupNorm, has no interval bounds, expected Conv2d"),
    "layer norm": (nn.LayerNorm([1, HEIGHT, WIDTH]), "layer 0, a LayerNorm, has no interval bounds"),
    "average pooling": (nn.AvgPool2d(1), "layer 0, a AvgPool2d, has no interval bounds"),
    "layers in a layer": (nn.Sequential(nn.ReLU()), "layer 0, a Sequential, has no interval bounds"),
    "without its shape": (nn.LazyConv2d(4, 3, padding=1), "a forward pre-hook, .*, on 0, a LazyConv2d"),
    "flatten of images too": (nn.Flatten(0), "layer 0, a Flatten, has start_dim 0, expected 1"),
    "indices of maxima": (nn.MaxPool2d(1, return_indices=True), "has return_indices True, expected False"),
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_without_bounds_are_refused(layer):
    with pytest.raises(ValueError, match=LAYERS[layer][1]):
        bounded(convolutional(LAYERS[layer][0]))


def test_networks_that_compute_in_a_way_of_their_own_are_refused():
    with pytest.raises(ValueError, match="the network has a forward of its own"):
        bounded(Centred(*convolutional()))


ACCEPTED = {
    "a class of one's own": lambda network: network.__setitem__(0, Wide()),
    "parametrised": lambda network: parametrizations.weight_norm(network[0]),
    "backward hooks": lambda network: network[0].register_full_backward_hook(lambda *a: None),
    "attributes": lambda network: vars(network).update(description={"name": "mine"}, note=len),
    "batch norm in the layer before it": lambda network: network.__setitem__(0, folded(network[0])),
    "lazy, but asked before": lambda network: network.__setitem__(0, asked(nn.LazyConv2d(4, 3, padding=1))),
}


def folded(layer):
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)
    return nn.utils.fuse_conv_bn_eval(layer.eval(), norm.eval())


def asked(layer):
    layer(IMAGES)
    return layer


@pytest.mark.parametrize("change", ACCEPTED)
def test_bounds_of_what_changes_no_output_hold(change):
    network = convolutional()
    ACCEPTED[change](network)
    answer = bounded(network)
    assert (answer.verdicts["lead"] <= lowest_leads(network, answer) + 1e-5).all() and answer.certified.any()


def large(weight, at=3):
    """A network of small numbers but for the weights of the layer `at`, of either sign, which are of that size."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(HEIGHT * WIDTH, 4), nn.ReLU(), nn.Linear(4, 3))
    for parameter in network.requires_grad_(False).parameters():
        parameter.fill_(1e-30)
    network[at].weight[1:] = -weight
    network[at].weight[0] = weight
    return network


@pytest.mark.parametrize("weight", [3e38, torch.inf, torch.nan])
@pytest.mark.parametrize("at", [1, 3])
def test_weights_that_overflow_certify_nothing(weight, at):
    """Even where activations are so small that products of them are not: merged weights, ±2 · weight, are infinite."""
    with pytest.raises(FloatingPointError, match=r"too large for float32|not finite"):
        bounded(large(weight, at))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": nn.Linear(14, 3)}, "the network is a Linear, expected a Sequential with a Linear layer last"),
        (
            {"network": nn.Sequential(nn.Flatten(), nn.Linear(14, 1))},
            "gives (1, 1) for images, normalised, (1, 1, 2, 7), expected",
        ),
        (
            {"network": nn.Sequential(nn.Linear(7, 3))},
            "gives (1, 1, 2, 3) for images, normalised, (1, 1, 2, 7), expected logits (1, K)",
        ),
        (
            {"network": nn.Sequential(nn.Flatten(), nn.Linear(28, 3))},
            "the network fails on images, normalised, (1, 1, 2, 7): RuntimeError",
        ),
        ({"labels": LABELS + 9}, "labels go from 9 to 11, expected 0 to 2"),
        ({"patch": Patch(3, 3)}, "patch 3: expected a patch that fits into 2 × 7 pixels"),
        ({"patch": 5}, "patch 5: expected a Patch(height, width)"),
        ({"mean": [0.5, 0.5]}, "mean [0.5, 0.5]: expected 1 numbers, one for each channel"),
        ({"mean": ["grey"]}, "mean ['grey']: expected 1 numbers"),
        ({"mean": [torch.nan]}, "mean [nan]: expected numbers from -1e+09 to 1e+09"),
        ({"std": 0.5}, "std 0.5: expected 1 numbers"),
        ({"std": [0.0]}, "std [0.0]: expected numbers from 1e-06 to 1e+09"),
        ({"std": [3e38]}, "std [3e+38]: expected numbers from 1e-06"),
        ({"batch_size": 0}, "batch_size 0: expected a whole number from 1 on"),
        ({"batch_size": "8"}, "batch_size '8': expected a whole number from 1 on"),
        ({"max_memory": -1}, "max_memory -1: expected a number of at least 1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change, message):
    given = {"network": nn.Sequential(nn.Flatten(), nn.Linear(14, 3)), "images": IMAGES, "labels": LABELS}
    with pytest.raises(ValueError) as caught:
        interval_bounds(**(given | {"patch": Patch(1, 1)} | change))
    assert message in str(caught.value) and "\n" not in str(caught.value) and "--" not in str(caught.value)


def test_mean_and_std_may_be_arrays():
    given, expected = (bounded(convolutional(), mean=kind([0.4]), std=kind([0.5])) for kind in (np.array, list))
    assert torch.equal(given.verdicts["lead"], expected.verdicts["lead"])
