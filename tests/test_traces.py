"""What the windowed engine refuses by name: what it cannot compute, and what a trace of the network would not show."""

import pytest
import torch
from torch import Tensor, nn

from patchcert.ablations.ablation import Band
from patchcert.engines.windowed import WindowedNetwork
from patchcert.errors import UsageError


@pytest.mark.parametrize(
    "layer, name",
    [
        (nn.InstanceNorm2d(2), "InstanceNorm2d"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "circular padding"),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "average pooling"),
        (nn.BatchNorm2d(2, track_running_stats=False), "batch norm"),
        (nn.PixelUnshuffle(2), "PixelUnshuffle"),
    ],
)
def test_unknown_operation_is_named(layer, name):
    network = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 2, 8, 8))
    with pytest.raises(UsageError, match=rf"^engine windowed: .*{name}.*dense always works$"):
        WindowedNetwork(network, Band(8, 8, 2), 2)


def test_untraceable_network_is_named():
    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)))

    with pytest.raises(UsageError, match=r"torch\.fx"):
        WindowedNetwork(Undecided(), Band(8, 8, 2), 1)


class Whole(nn.Module):
    """A network that ends in a flattened map, with something in between."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.fc = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()), nn.Linear(256, 3)

    def between(self, maps: Tensor) -> Tensor:
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.between(self.maps(x)).flatten(1))


class OwnAutocast(Whole):
    @torch.autocast("cpu", torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class OwnPrecision(Whole):
    def forward(self, x: Tensor) -> Tensor:
        matmul = torch.backends.mkldnn.matmul
        before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
        try:
            return super().forward(x)
        finally:
            matmul.fp32_precision = before


class OtherWeights(Whole):
    """As averaged weights are tried."""

    def forward(self, x: Tensor) -> Tensor:
        halves = {name: weight / 2 for name, weight in self.maps.named_parameters()}
        return self.fc(torch.func.functional_call(self.maps, halves, x).flatten(1))


class WithoutGraph(Whole):
    """`data` was taken for a question about the shape, and answered for the empty image."""

    def between(self, maps: Tensor) -> Tensor:
        return maps.data


class ClampedByOwnTensor(Whole):
    def __init__(self) -> None:
        super().__init__()
        self.least = nn.Parameter(torch.rand(1, 1, 8, 1))

    def between(self, maps: Tensor) -> Tensor:
        return torch.clamp(maps, min=self.least)


class AlwaysDropping(Whole):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout()

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.dropout.train()
        return self

    def between(self, maps: Tensor) -> Tensor:
        return self.dropout(maps)


class MeanInDouble(Whole):
    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean((2, 3), dtype=torch.float64)


@torch.fx.wrap
def relu(maps: Tensor) -> Tensor:
    """Has the name of another function."""
    return -maps


class OwnFunction(Whole):
    def between(self, maps: Tensor) -> Tensor:
        return relu(maps)


def with_a_hook() -> nn.Module:
    network = Whole()
    network.register_forward_hook(lambda module, inputs, outputs: -outputs)
    return network


def with_a_layer(kind: type[nn.Module], **more: object) -> nn.Module:
    network = Whole()
    network.maps[0] = kind(2, 4, 3, padding=1, **more)
    return network


def parametrised() -> nn.Module:
    network = Whole()
    nn.utils.parametrizations.weight_norm(network.maps[0])
    return network


QCONFIG = torch.ao.quantization.get_default_qat_qconfig("x86")


@pytest.mark.parametrize(
    "make, what",
    [
        (with_a_hook, "a forward hook, with_a_hook"),
        (OwnAutocast, "torch.autocast, or other settings of arithmetic, inside of its own code"),
        (OwnPrecision, "torch.autocast, or other settings of arithmetic, inside of its own code"),
        (OtherWeights, "other weights inside of its own code"),
        (WithoutGraph, "the attribute data of an activation map"),
        (ClampedByOwnTensor, "torch.clamp of an activation map and a tensor of its own"),
        (AlwaysDropping, "a part that stays in training mode"),
        (MeanInDouble, "operations in a way that it does not know"),
        (OwnFunction, "tests.test_traces.relu"),
        (lambda: with_a_layer(torch.ao.nn.qat.Conv2d, qconfig=QCONFIG), "torch.ao.nn.qat.modules.conv.Conv2d"),
        (lambda: with_a_layer(type("Conv2d", (nn.Conv2d,), {})), "torch.conv2d"),
        (parametrised, "torch.nn.utils.parametrize.ParametrizedConv2d"),
    ],
)
def test_what_a_trace_would_not_show_is_refused_by_name(make, what):
    with pytest.raises(UsageError, match=rf"the network uses {what}.*, which it cannot do"):
        WindowedNetwork(make(), Band(8, 8, 2), 2)
    assert WindowedNetwork(Whole(), Band(8, 8, 2), 2).steps
