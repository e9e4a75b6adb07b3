"""What a network computes besides what its layers' classes say is found, whoever added it, and how."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from patchcert.as_written import FUNCTIONS, unwritten
from patchcert.networks import mnist_network
from patchcert.small_networks import cifar_resnet


class Negated(nn.Sequential):
    def __call__(self, *inputs):
        return -super().__call__(*inputs)


class Scaled(torch.Tensor):
    """As libraries for quantised weights make them: multiplied in a way of its own."""


def with_hook(network):
    network.register_forward_hook(lambda module, inputs, outputs: -outputs)


def with_inner_pre_hook(network):
    network[1].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def with_forward(network):
    network.forward = lambda images: -nn.Sequential.forward(network, images)


def with_inner_convolution(network):
    network[0]._conv_forward = lambda maps, weight, bias: maps


def with_other_tensors(network):
    network[5].weight = nn.Parameter(network[5].weight.detach().as_subclass(Scaled))


CHANGES = {
    with_hook: "a forward hook, with_hook.<locals>.<lambda>, on the network, a Sequential",
    with_inner_pre_hook: "a forward pre-hook, with_inner_pre_hook.<locals>.<lambda>, on 1, a ReLU",
    with_forward: "a `forward` set on the network, a Sequential",
    with_inner_convolution: "a `_conv_forward` set on 0, a Conv2d",
    with_other_tensors: "a weight that is a Scaled on 5, a Linear",
    lambda network: nn.utils.weight_norm(network[0]): "a forward pre-hook, WeightNorm, on 0, a Conv2d",
    lambda network: nn.utils.spectral_norm(network[5]): "a forward pre-hook, SpectralNorm, on 5, a Linear",
    lambda network: prune.l1_unstructured(network[2], "weight", 0.5): "pre-hook, L1Unstructured, on 2, a Conv2d",
    lambda network: setattr(
        network, "__class__", Negated
    ): "a `__call__` that is not torch's on the network, a Negated",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of weight_norm's, which is old and still used
def test_what_is_added_to_a_network_is_named(change):
    network = mnist_network()
    change(network)
    assert CHANGES[change] in unwritten(network)


@pytest.mark.parametrize(("kind", "method"), [(nn.Conv2d, "forward"), (nn.Linear, "forward"), (nn.Module, "__call__")])
def test_a_class_of_torch_that_somebody_changed_is_named(monkeypatch, kind, method):
    written = getattr(kind, method)
    monkeypatch.setattr(kind, method, lambda self, *inputs: written(self, *inputs))
    assert f"a `{method}` that is not torch's on" in unwritten(mnist_network())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_torch_that_somebody_changed_is_named(monkeypatch, name):
    written = getattr(nn.functional, name)
    monkeypatch.setattr(nn.functional, name, lambda *inputs, **named: -written(*inputs, **named))
    assert unwritten(mnist_network()) == f"a `{name}` that is not torch's"


@pytest.mark.parametrize("other", [torch.tanh, nn.functional.tanh, nn.functional.leaky_relu])
def test_another_function_of_torch_in_the_place_of_one_is_named(monkeypatch, other):
    monkeypatch.setattr(nn.functional, "relu", other)
    assert unwritten(mnist_network()) == "a `relu` that is not torch's"


@pytest.mark.parametrize("other", [torch.tanh, nn.Tanh.forward])
def test_a_method_of_another_class_of_torch_is_named(monkeypatch, other):
    monkeypatch.setattr(nn.ReLU, "forward", other)
    assert "a `forward` that is not torch's on" in unwritten(mnist_network())


@pytest.mark.parametrize("kind", ["hook", "pre_hook"])
def test_hooks_on_all_modules_are_named(kind):
    handle = getattr(nn.modules.module, f"register_module_forward_{kind}")(lambda *_: None)
    try:
        assert unwritten(mnist_network()) == "a forward hook on all modules that there are"
    finally:
        handle.remove()


def test_of_networks_as_they_are_written_nothing_is_found():
    parametrised = mnist_network()
    nn.utils.parametrizations.weight_norm(parametrised[0])
    compiled = mnist_network()
    compiled.compile()
    backwards = mnist_network()
    backwards.register_full_backward_hook(lambda *_: None)
    networks = [mnist_network(), cifar_resnet("resnet18", channels=6, classes=10), parametrised, compiled, backwards]
    assert [unwritten(network) for network in [*networks, copy.deepcopy(networks[0])]] == [None] * 6
