"""Normalisations become part of convolutions where that is the same function, and nowhere else."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from patchcert import HiddenWindows, Patch, PlainNetwork, WindowMaskedClassifier, certify
from patchcert.engines.folding import Folded, NotFoldedError, folded

IMAGES = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def settled(network: nn.Module) -> nn.Module:
    """In eval mode, with statistics and weights of normalisations as after a training."""
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor in (part.weight, part.bias, part.running_mean):
                if tensor is not None:
                    nn.init.uniform_(tensor, -1, 2)
            if part.running_var is not None:
                nn.init.uniform_(part.running_var, 0.5, 2)
    return network.eval()


def norms_left(plain: PlainNetwork) -> int:
    """How many normalisations are still computed."""
    nodes = plain.network.operations.graph.nodes
    layers = [plain.network.operations.get_submodule(n.target) for n in nodes if n.op == "call_module"]
    of_functions = sum(node.target is F.batch_norm for node in nodes)
    return of_functions + sum(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers)


class Head(nn.Module):
    """Maps (B, 6, H, W) to logits (B, 5)."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, maps: Tensor) -> Tensor:
        return self.linear(maps.mean(dim=(2, 3)))


class Same(nn.Conv2d):
    """Pads by itself, as networks from TensorFlow do."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv2d(F.pad(maps, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class BySize(nn.Conv2d):
    """Pads by as much as the size of its maps asks for."""

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = -maps.shape[2] % self.stride[0], -maps.shape[3] % self.stride[1]
        return F.conv2d(F.pad(maps, (0, columns, 0, rows)), self.weight, self.bias, self.stride)


class ByWholeSize(nn.Conv2d):
    """Does that with numbers of Python's, which torch.fx cannot follow."""

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = (math.ceil(size / 4) * 4 - size for size in maps.shape[2:])
        return F.conv2d(F.pad(maps, (0, columns, 0, rows)), self.weight, self.bias, self.stride)


class NormAndReLU(nn.BatchNorm2d):
    """As timm has them."""

    def forward(self, maps: Tensor) -> Tensor:
        normed = F.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return F.relu(normed)


class ByBatch(nn.BatchNorm2d):
    """It has statistics, and does not use them."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.batch_norm(maps, self.running_mean.clone(), self.running_var.clone(), training=True)


class Doubled(nn.BatchNorm2d):
    def forward(self, maps: Tensor) -> Tensor:
        return 2 * super().forward(maps)


class Standardised(nn.Conv2d):
    """Its weight is computed whenever it is used."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True), self.bias)


class ReadTwice(nn.Module):
    """The norm is not the only one that reads the convolution."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), Head()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        return self.head(self.norm(maps).relu() + maps)


class OneConvolution(nn.Module):
    """One convolution is called three times: before each of two norms, and before nothing."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 6, 3), Head()
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])

    def forward(self, images: Tensor) -> Tensor:
        first, second = (norm(self.convolution(images)).relu() for norm in self.norms)
        return self.head(first + second + self.convolution(images).relu())


class OneNorm(nn.Module):
    """One norm is called behind two convolutions, and on the images."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(9, 5)
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 5)])

    def forward(self, images: Tensor) -> Tensor:
        maps = [self.norm(images), *(self.norm(convolution(images)).relu() for convolution in self.convolutions)]
        return self.head(torch.cat([some.mean(dim=(2, 3)) for some in maps], dim=1))


class NormFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.convolution, self.head = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1), Head()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.convolution(self.norm(images)))


class Viewed(nn.Module):
    """Its maps have to lie one channel after the other."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), nn.Linear(600, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).view(-1, 600))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = simple()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) if images.mean() > 0 else self.body(-images)


def simple(convolution: nn.Module | None = None, norm: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(convolution or nn.Conv2d(3, 6, 3), norm or nn.BatchNorm2d(6), nn.ReLU(), Head())


def with_linear() -> nn.Module:
    return nn.Sequential(simple(), nn.Linear(5, 5), nn.BatchNorm1d(5))


def parametrized() -> nn.Module:
    return simple(parametrizations.weight_norm(nn.Conv2d(3, 6, 3)))


FOLDED = {  # and how many normalisations are left
    "convolution": (simple, 0),
    "without bias": (lambda: simple(nn.Conv2d(3, 6, 3, bias=False)), 0),
    "depthwise": (lambda: simple(nn.Conv2d(3, 6, 3, groups=3)), 0),
    "reflected at the border": (lambda: simple(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect")), 0),
    "nothing learnt": (lambda: simple(norm=nn.BatchNorm2d(6, affine=False)), 0),
    "another ε": (lambda: simple(norm=nn.BatchNorm2d(6, eps=0.5)), 0),
    "own padding": (lambda: simple(Same(3, 6, 2, bias=False)), 0),
    "norm as a function": (lambda: simple(norm=NormAndReLU(6)), 0),
    "both as functions": (lambda: simple(Same(3, 6, 2), NormAndReLU(6)), 0),
    "behind a linear layer": (with_linear, 1),
    "one convolution, two norms": (OneConvolution, 0),
    "one norm, two convolutions": (OneNorm, 1),
    "viewed": (Viewed, 0),
}


@pytest.mark.parametrize("name", FOLDED)
def test_a_folded_network_says_the_same(name):
    make, left = FOLDED[name]
    network = settled(make())
    before, kept = network(IMAGES), copy.deepcopy(network.state_dict())
    plain = PlainNetwork(network)
    assert plain.fold(IMAGES) is None and plain.engine_name == "folded" and norms_left(plain) == left
    assert plain(IMAGES).allclose(before, rtol=1e-5, atol=1e-5)
    assert plain.classes(IMAGES) == 5
    after = network.state_dict()
    assert list(after) == list(kept) and all(after[key].equal(kept[key]) for key in kept)
    assert all(after[key].stride() == kept[key].stride() for key in kept), "weights of the caller lie as they did"
    assert network(IMAGES).equal(before), "the network of the caller is what it was"


@pytest.mark.parametrize("size", [(12, 12), (13, 15), (20, 9)])
@pytest.mark.parametrize(("convolution", "engine"), [(BySize, "folded"), (ByWholeSize, "dense")])
def test_a_network_folded_on_images_of_one_size_says_the_same_of_others(convolution, engine, size):
    network = settled(simple(convolution(3, 6, 4, stride=4)))
    plain, images = PlainNetwork(network), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    plain.fold(IMAGES)
    assert plain.engine_name == engine
    assert plain(images).allclose(network(images), rtol=1e-5, atol=1e-5)


def with_hook() -> nn.Module:
    network = simple()
    network[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return network


AS_IT_IS = {
    "read twice": (ReadTwice, "no convolution whose output only a normalisation uses"),
    "norm first": (NormFirst, "no convolution whose output only a normalisation uses"),
    "parametrized": (parametrized, "no convolution|a `"),
    "weight computed": (lambda: simple(Standardised(3, 6, 3)), "no convolution"),
    "subclass": (lambda: simple(norm=Doubled(6)), "torch.fx cannot trace"),
    "hook": (with_hook, "a forward hook"),
    "branching": (Branching, "torch.fx cannot trace"),
    "no norm": (lambda: simple(norm=nn.Identity()), "no convolution"),
}


@pytest.mark.parametrize("name", AS_IT_IS)
def test_what_cannot_be_folded_is_asked_as_it_is(name):
    make, why = AS_IT_IS[name]
    network = settled(make())
    plain = PlainNetwork(network)
    before = plain(IMAGES)
    refused = plain.fold(IMAGES)
    assert refused is not None and plain.network is network and plain.engine_name == "dense"
    assert any(part in refused for part in why.split("|")), refused
    assert plain(IMAGES).equal(before)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6, track_running_stats=False), ByBatch(6)])
def test_normalisations_by_the_batch_are_refused_and_not_folded(norm):
    network = settled(simple(norm=norm))
    with pytest.raises(NotFoldedError, match="no convolution"):
        folded(network)
    with pytest.raises(ValueError, match="the same answer whatever else is in the batch"):
        PlainNetwork(network).fold(IMAGES)


class ByChance(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = simple()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) + torch.rand(1)


def test_a_network_that_answers_by_chance_is_refused_and_not_fixed_to_one_answer():
    with pytest.raises(ValueError, match="the same answer each time"):
        PlainNetwork(settled(ByChance())).fold(IMAGES)


class SeesTraces(nn.Module):
    """Looks at what it is given, and so is another function where it is traced."""

    def __init__(self):
        super().__init__()
        self.body = simple()

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images if isinstance(images, Tensor) else -images)


def test_a_network_that_is_another_one_when_it_is_traced_is_asked_as_it_is():
    network = settled(SeesTraces())
    plain = PlainNetwork(network)
    assert "folded, it must answer as it did" in plain.fold(IMAGES) and plain.network is network


def test_a_network_in_training_mode_is_not_folded():
    plain = PlainNetwork(settled(simple()))
    plain.network[1].train()
    with pytest.raises(ValueError, match="training mode"):
        plain.fold(IMAGES)


def test_it_is_folded_once_and_stays_what_it_was():
    network = settled(simple())
    plain = PlainNetwork(network, mean=0.5)
    assert plain.fold(IMAGES) is None
    first, before = plain.network, plain(IMAGES)
    assert plain.fold(IMAGES) is None and plain.network is first
    nn.init.zeros_(network[0].weight)
    assert plain(IMAGES).equal(before)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda plain: pickle.loads(pickle.dumps(plain))])
def test_copies_of_it_say_the_same(again):
    plain = PlainNetwork(settled(simple()))
    plain.fold(IMAGES)
    assert again(plain)(IMAGES).equal(plain(IMAGES)) and again(plain).engine_name == "folded"


def test_it_hands_gradients_on():
    network, shown = settled(simple()), IMAGES.clone().requires_grad_()
    expected = torch.autograd.grad(network(shown)[:, 1].sum(), shown)[0]
    plain = PlainNetwork(network)
    plain.fold(IMAGES)
    found = torch.autograd.grad(plain(shown)[:, 1].sum(), shown)[0]
    assert found.allclose(expected, rtol=1e-4, atol=1e-6) and found.any()


def test_weights_that_are_not_read_any_more_are_not_kept():
    plain = PlainNetwork(settled(simple(Same(3, 6, 2), NormAndReLU(6))))
    plain.fold(IMAGES)
    assert len(plain.network.state_dict()) == 4, "weight and bias of the convolution, and of the linear layer"


@pytest.mark.parametrize("asked", ["predict", "alarms", "certify"])
def test_whoever_asks_is_answered_by_the_folded_network(monkeypatch, asked):
    network = settled(simple())
    plain = PlainNetwork(network)
    plain.fold(IMAGES)
    shown = []
    monkeypatch.setattr(Folded, "forward", lambda self, images: shown.append(len(images)) or self.operations(images))
    network.register_forward_pre_hook(lambda *_: pytest.fail("the network of the caller is asked"))
    classifier = WindowMaskedClassifier(plain, HiddenWindows.for_patch(12, 12, Patch(2, 2), 2))
    if asked == "certify":
        found = certify(classifier, IMAGES, torch.zeros(len(IMAGES), dtype=torch.int64), goal=["recover", "alert"])
        assert found.arithmetic["engine"] == "folded" and found.config["network"] == {"name": "Sequential"}
    else:
        getattr(classifier, asked)(IMAGES)
    assert sum(shown) >= 4 * len(IMAGES)
