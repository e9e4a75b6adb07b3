"""The windowed engine computes what the network computes on every ablated image."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from patchcert.ablations.ablation import Ablation, Band, Block, Row, encode
from patchcert.ablations.choices import MultiBand, MultiBlock
from patchcert.engines import asking
from patchcert.engines.windowed import WindowedNetwork
from patchcert.engines.windowed.geometry import Window, windows_of

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


class Residual(nn.Module):
    """Two 3 × 3 convolutions with batch norm and a shortcut, as in the ResNets."""

    def __init__(self, channels: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return F.relu(y)


class SmallResNet(nn.Module):
    """The CIFAR-10 ResNet-18 with few channels: 3 × 3 stem, four stages at strides 1, 2, 2, 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        stages = ((4, 4, 1), (4, 4, 1), (4, 6, 2), (6, 6, 1), (6, 8, 2), (8, 8, 1), (8, 8, 2), (8, 8, 1))
        self.layers = nn.Sequential(*(Residual(*stage) for stage in stages))
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.layers(F.relu(self.bn1(self.conv1(x)))), 4)
        return self.linear(x.view(x.size(0), -1))


class SmallImageNetResNet(nn.Module):
    """A torchvision-like ResNet: 7 × 7 stem, max pooling, bottleneck convolutions, global average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(6, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        self.bottleneck = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(2, 2, 3, 1, 1))
        self.widen = nn.Conv2d(2, 4, 1)
        self.down = Residual(4, 6, 2)
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.widen(self.bottleneck(x))
        y += x
        return self.fc(torch.flatten(self.pool(self.down(F.relu(y))), 1))


class Branches(nn.Module):
    """What the ResNets do not have: concatenation, gates, arithmetic, dilation, groups, odd pools, overwriting."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 4, (3, 2), (1, 2), (2, 1), dilation=(2, 1), groups=2)
        self.other = nn.AvgPool2d((3, 2), (1, 2), (1, 1))
        self.norm, self.act = nn.BatchNorm2d(6), nn.SiLU(inplace=True)
        self.gate, self.fc = nn.Conv2d(6, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = 1 - x / 2
        x = torch.cat([self.one(x), self.other(x)], dim=1)
        overwritten = self.norm(x)
        y = self.act(overwritten)
        y = y * overwritten - x
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        y = F.max_pool2d(y, 2, ceil_mode=True)
        return F.log_softmax(self.fc(y.mean((-2, -1))) * y.shape[0], dim=1)


def mnist_network() -> nn.Module:
    """The MNIST network with a sixteenth of its channels."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 7 * 7, 30), nn.ReLU(), nn.Linear(30, 10),
    )  # fmt: skip


def strided_network() -> nn.Module:
    """Strides beyond the kernel, so that some windows reach nothing."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 1, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 4, 2, 3), nn.Flatten(), nn.LazyLinear(4)
    )


def five_ablations(height: int, width: int, size: int) -> list[Ablation]:
    return [
        Band(height, width, size),
        Row(height, width, size),
        Block(height, width, size),
        MultiBand(height, width, size, 2),
        MultiBlock(height, width, size, 2),
    ]


def settled(network: nn.Module, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """The network with random weights and batch norm statistics, in evaluation mode."""
    torch.manual_seed(seed)
    network.eval()(torch.zeros(1, *shape))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


@torch.inference_mode()
def difference(network: nn.Module, ablation: Ablation, channels: int, dtype: torch.dtype, most: int) -> float:
    """The largest difference between windowed and dense logits, as a fraction of the largest dense logit.

    Args:
        most: ablations that are looked at, evenly spaced.
    """
    network = network.to(dtype)
    images = encode(torch.rand(2, channels // 2, ablation.height, ablation.width, dtype=dtype))
    indices = torch.arange(0, ablation.count, -(-ablation.count // most))
    masks = ablation.masks(indices).to(dtype)
    copies = [images * mask for mask in masks]
    lying = isinstance(ablation, Row)
    dense = torch.stack([network(copy.transpose(2, 3) if lying else copy) for copy in copies], dim=1)
    windowed = WindowedNetwork(network, ablation, channels).logits(images, indices)
    return float((windowed - dense).abs().max() / dense.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("ablation", five_ablations(28, 28, 4), ids=lambda a: type(a).__name__)
def test_mnist_network(ablation, dtype):
    network = settled(mnist_network(), (2, 28, 28))
    assert difference(network, ablation, 2, dtype, most=157) < TOLERANCE[dtype]  # of blocks every fifth, in all columns


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("ablation", five_ablations(32, 32, 4), ids=lambda a: type(a).__name__)
def test_cifar_resnet(ablation, dtype):
    network = settled(SmallResNet(), (6, 32, 32))
    assert difference(network, ablation, 6, dtype, most=128) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("ablation", five_ablations(75, 67, 12), ids=lambda a: type(a).__name__)
def test_imagenet_resnet(ablation, dtype):
    network = settled(SmallImageNetResNet(), (6, 75, 67))
    assert difference(network, ablation, 6, dtype, most=75) < TOLERANCE[dtype]


@pytest.mark.parametrize("make", [Branches, strided_network])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_unusual_operations(make, size, dtype):
    network = settled(make(), (2, 11, 13))
    for ablation in five_ablations(11, 13, size):
        assert difference(network, ablation, 2, dtype, most=143) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_band_as_wide_as_the_image(dtype):
    assert difference(settled(SmallResNet(), (6, 32, 32)), Band(32, 32, 32), 6, dtype, most=4) < TOLERANCE[dtype]
    assert difference(settled(mnist_network(), (2, 28, 28)), Band(28, 28, 28), 2, dtype, most=4) < TOLERANCE[dtype]


class Drawn(nn.Module):
    """Layers in a row, each as (kind, kernel, stride, padding, dilation); "residual" adds its own input."""

    def __init__(self, layers: list[tuple[str, int, int, int, int]]):
        super().__init__()
        self.kinds = [kind for kind, *_ in layers]
        self.layers = nn.ModuleList(self._layer(*layer) for layer in layers)
        self.head = nn.LazyLinear(3)

    @staticmethod
    def _layer(kind: str, kernel: int, stride: int, padding: int, dilation: int) -> nn.Module:
        if kind == "max":
            return nn.MaxPool2d(kernel, stride, min(padding, kernel // 2))
        if kind == "average":
            return nn.AvgPool2d(kernel, stride, min(padding, kernel // 2))
        if kind == "residual":
            return nn.Sequential(nn.Conv2d(2, 2, 3, 1, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
        return nn.Sequential(nn.Conv2d(2, 2, kernel, stride, padding, dilation), nn.BatchNorm2d(2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            x = x + layer(x) if kind == "residual" else layer(x)
        return self.head(x.flatten(1))


LAYERS = st.lists(
    st.tuples(
        st.sampled_from(["convolution", "residual", "max", "average"]),
        st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.integers(9, 17), st.integers(9, 17), st.integers(1, 4), st.integers(0, 4), st.integers(0, 99))
def test_drawn_networks(layers, height, width, size, which, seed):
    torch.manual_seed(seed)
    try:
        network = settled(Drawn(layers), (2, height, width), seed)
    except RuntimeError:
        return  # some layer's kernel is larger than its map
    ablation = five_ablations(height, width, size)[which]
    assert difference(network, ablation, 2, torch.float64, most=20) < TOLERANCE[torch.float64]


def test_both_engines_give_the_same_probabilities():
    network, ablation = settled(mnist_network(), (2, 28, 28)), Band(28, 28, 4)
    images = torch.rand(5, 1, 28, 28)
    dense, windowed = (
        asking.softmax_over(asking.engine(name, network, ablation, 2), images, ablation, batch_size=10)
        for name in ("dense", "windowed")
    )
    assert dense.shape == (5, 28, 10)
    assert torch.allclose(dense, windowed, rtol=0, atol=1e-6)


def test_network_is_left_as_it_was():
    network = settled(SmallImageNetResNet(), (6, 20, 20)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.rand(2, 6, 20, 20)
    kept = images.clone()
    WindowedNetwork(network, Band(20, 20, 3), 6).logits(images, torch.arange(20))
    assert network.training and network.stem[2].inplace
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(images, kept)


def test_plans_that_do_not_fit_are_made_anew(monkeypatch):
    monkeypatch.setattr("patchcert.engines.windowed.KEPT_BYTES", 500_000)
    engine = WindowedNetwork(settled(SmallResNet(), (6, 32, 32)), Band(32, 32, 4), 6)
    images = torch.rand(2, 6, 32, 32)
    first = engine.logits(images, torch.arange(32))
    assert 0 < len(engine.plans) < 32
    assert torch.equal(engine.logits(images, torch.arange(32)), first)


def test_windows_of_masks():
    assert windows_of(Band(4, 6, 3).masks(torch.tensor([5]))[0]) == (Window(0, 4, 0, 2), Window(0, 4, 5, 6))
    corners = windows_of(Block(5, 5, 2).masks(torch.tensor([24]))[0])
    assert corners == tuple(Window(*rows, *columns) for rows in ((0, 1), (4, 5)) for columns in ((0, 1), (4, 5)))


def test_multiply_adds_of_the_whole_window_are_those_of_the_network():
    engine = WindowedNetwork(settled(mnist_network(), (2, 28, 28)), Band(28, 28, 28), 2)
    rows = {28: 4 * 14 - 2, 14: 4 * 7 - 2}  # kernel rows that meet the map, over all output rows
    convolutions = 2 * 4 * rows[28] ** 2 + 4 * 8 * rows[14] ** 2
    assert engine.multiply_adds(torch.tensor([0])) == convolutions + 8 * 7 * 7 * 30
