"""Networks whose reach is the ablation: one pass says what every band of an image shows.

A band of (de)randomized smoothing shows s adjacent columns. Here the network's horizontal reach is exactly s: the
kernel widths add up to Σ(width − 1) = s − 1, without horizontal stride or padding, so each of its outputs is a
function of one band alone, and neighbouring bands share what they have in common. Small reach, trained end to end, is
the idea of BagCert (Metzen and Yatsura, ICLR 2021); the votes are those of Levine and Feizi, NeurIPS 2020.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from patchcert import checkpoint
from patchcert.ablations.ablation import Ablation, Band, BandAndRow, Row
from patchcert.arithmetic import without_autocast
from patchcert.errors import UsageError, require_within

LINES = ("columns", "rows", "both")
"""What bands consist of: `both` is one network for columns beside one for rows."""

COLUMN = "column"
"""By which scripts and checkpoints call these networks."""

MOST = 4096
"""Of anything that the shape of a network counts."""

MOST_LAYERS = 100
"""Stages and residual blocks."""

STEMS = ("shared", "whole")
"""`shared`: the first layers look across a few columns each, and neighbouring bands share them. `whole`: the first one
sees the whole band, at half its length, so that all layers cost in proportion to the bands that are looked at."""

WIDE_LAYERS = 3
"""Layers of a shared stem: the first ones of that many stages, which share the band's columns among their kernels."""

WHOLE_STEM = 5
"""Pixels along the band that the kernel of a whole stem sees."""


@dataclass(frozen=True)
class Shape:
    """What a network for bands looks like; a checkpoint keeps it.

    Attributes:
        channels: of each stage; the first keeps the image's length, each further one halves it.
        blocks: residual blocks of each stage.
        band_size: s, the columns (or rows) of a band, pixels.
        lines: of `LINES`.
        height, width, image_channels: of the images.
        classes: K.
        stem: of `STEMS`.

    Raises:
        UsageError: no such network can be built.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    band_size: int
    lines: str
    height: int
    width: int
    image_channels: int
    classes: int
    stem: str = "shared"

    def __post_init__(self):
        self.ablation()
        require_within("channels", min(self.channels), 1, MOST, "channels of each stage")
        require_within("blocks", sum(self.blocks) + len(self.blocks), 1, MOST_LAYERS, "blocks and stages together")
        if len(self.channels) != len(self.blocks):
            stages = f"expected one number for each of the {len(self.channels)} stages that channels names"
            raise UsageError("blocks", ",".join(map(str, self.blocks)), stages)

    def ablation(self) -> Ablation:
        """The copies of which a network of this shape tells."""
        kind = {"columns": Band, "rows": Row, "both": BandAndRow}[self.lines]
        return kind(self.height, self.width, self.band_size)

    def description(self) -> dict:
        """What a checkpoint says of its network, in JSON's types; nothing of a shared stem, once the only one."""
        lists = {"channels": list(self.channels), "blocks": list(self.blocks)}
        said = {"name": COLUMN} | asdict(self) | lists
        return {name: value for name, value in said.items() if (name, value) != ("stem", "shared")}

    @classmethod
    def described(cls, description: dict) -> "Shape":
        """The shape that gave this description.

        Raises:
            ValueError: none can have given it.
        """
        values = {"stem": "shared"} | description
        if values.pop("name", None) != COLUMN or values.keys() != {field.name for field in fields(cls)}:
            raise ValueError("is not from a network that answers for all bands in one pass")
        lists, texts = [values.pop("channels"), values.pop("blocks")], (values.pop("lines"), values.pop("stem"))
        numbers = [*values.values(), *(n for found in lists if isinstance(found, list) for n in found)]
        whole = all(type(number) is int and 0 <= number <= MOST for number in numbers)
        named = texts[0] in LINES and texts[1] in STEMS
        if not whole or not named or not all(isinstance(found, list) and found for found in lists):
            raise ValueError("describes a network that is not possible")
        return cls(*map(tuple, lists), lines=texts[0], stem=texts[1], **values)


class BandNetwork(nn.Module):
    """Images (N, C, H, W) in [0, 1] to the logits (N, A, K) of all A bands, each a function of its band alone.

    Along the band it is a residual network. A learned vector for each start, added behind the last layer that looks
    across columns, tells where the band lies and that it may wrap around the border. Under autocast logits are float32,
    too.

    Args:
        rows: bands of rows instead of columns.
    """

    def __init__(self, shape: Shape, rows: bool):
        super().__init__()
        self.rows, self.band_size = rows, shape.band_size
        length, self.count = (shape.width, shape.height) if rows else (shape.height, shape.width)
        self.whole = shape.stem == "whole"
        widths = _kernel_widths(shape.band_size, len(shape.channels), 1 if self.whole else WIDE_LAYERS)
        layers, before = [], shape.image_channels
        for stage, (channels, blocks, width) in enumerate(zip(shape.channels, shape.blocks, widths, strict=True)):
            kernel = (WHOLE_STEM if self.whole and stage == 0 else 3), width
            stride = 2 if self.whole or stage > 0 else 1
            layers.append(_Transition(before, channels, kernel, stride))
            layers += [_ResidualBlock(channels) for _ in range(blocks)]
            length, before = (length - 1) // stride + 1, channels
        self.layers = nn.ModuleList(layers)
        transitions = [layer for layer in layers if isinstance(layer, _Transition)]
        self.last_wide = transitions[max(place for place, width in enumerate(widths) if width > 1 or place == 0)]
        self.position = nn.Parameter(torch.zeros(self.count, self.last_wide.convolution.out_channels))
        self.head = nn.Conv2d(before, shape.classes, (length, 1))
        nn.init.zeros_(self.head.weight)  # sums over many bands would begin with leads that drown the labels

    def forward(self, images: Tensor, chosen: slice = slice(None)) -> Tensor:
        """The logits (N, A', K) of the bands with the `chosen` starts, upwards, by default all of them."""
        images = images.transpose(2, 3) if self.rows else images
        wrapped = torch.cat([images, images[..., : self.band_size - 1]], dim=3)
        first, _, step = chosen.indices(self.count)
        return self._logits(wrapped, self.position[chosen].T[None, :, None], first, step)

    def of_bands(self, bands: Tensor, starts: Tensor) -> Tensor:
        """(P, K): the logits of bands (P, C, H, s), or (P, C, s, W) of rows, cut out alone at `starts` (P,)."""
        bands = bands.transpose(2, 3) if self.rows else bands
        return self._logits(bands, self.position[starts][:, :, None, None])[:, 0]

    @torch.no_grad()
    def fold(self) -> None:
        norm = self.last_wide.norm
        if isinstance(norm, nn.Identity):
            return  # it is folded already
        self.position *= norm.weight / (norm.running_var + norm.eps).sqrt()
        for layer in self.layers:
            layer.fold()

    def _logits(self, pixels: Tensor, position: Tensor, first: int = 0, step: int = 1) -> Tensor:
        """(P, A', K) for pixels (P, C, length, A + s − 1): of every `step`-th band from the `first` on.

        `position` broadcasts to (P, channels, 1, A').
        """
        centred = 4 * pixels - 2 if self.whole else pixels
        features = centred.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            features = layer(features[..., first:], position, step) if layer is self.last_wide else layer(features)
        return without_autocast(self.head, self.head.weight, features).squeeze(2).transpose(1, 2)


def has_limited_reach(network: nn.Module) -> bool:
    """Whether a network answers for all copies of an image in one pass: it says so by an attribute of this name."""
    return getattr(network, "limited_reach", False) is True


class LinesNetwork(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to the logits (N, A, K) of all A bands: of columns, of rows, or of both in
    turn.

    Attributes:
        limited_reach: True, as `has_limited_reach` asks.
        shape: what a checkpoint must hold so that the network can be built again.
        families: a `BandNetwork` for each family of bands.
    """

    limited_reach = True

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape, self.description = shape, shape.description()
        rows = {"columns": (False,), "rows": (True,), "both": (False, True)}[shape.lines]
        self.families = nn.ModuleList(BandNetwork(shape, of_rows) for of_rows in rows)

    @classmethod
    def without_memory(cls, shape: Shape) -> "LinesNetwork":
        """A network whose weights have shapes but no values, so that it may have any size."""
        with torch.device("meta"):
            return cls(shape)

    @classmethod
    def load(cls, path: str | Path) -> "LinesNetwork":
        """Load the network from a checkpoint of train_*_band_masked.py or of `--model column`, on the CPU.

        Its normalisations are folded, as in scripts that certify. So it can no longer be trained.

        Raises:
            UsageError: the file does not hold such a network.
        """
        path = Path(path)
        content = checkpoint.read("path", path)
        about = content.get("about")
        described = about.get("network") if isinstance(about, dict) else None
        try:
            shape = Shape.described(described if isinstance(described, dict) else {})
            described_network = cls.without_memory(shape)
        except ValueError as error:
            raise UsageError("path", path, str(error)) from error
        checkpoint.require_same("path", path, described_network, checkpoint.tensors_of("path", path, content))
        network = cls(shape)
        checkpoint.fill("path", path, network, content)
        network.fold()
        return network

    def require(self, ablation: Ablation) -> None:
        """Raise UsageError unless the network answers for the copies of `ablation`."""
        wanted, here = (a.description() for a in (ablation, self.shape.ablation()))
        if wanted != here:
            right = f"this one answers for {here['kind']} of {here['band_size']} pixels alone"
            raise UsageError("model", COLUMN, f"{right}, not for {wanted['kind']} of {wanted.get('band_size')}")

    def require_images(self, dataset: str, image_shape: tuple[int, int, int]) -> None:
        """Raise UsageError, about the data set, unless the network takes its images (C, H, W)."""
        wanted = self.shape.image_channels, self.shape.height, self.shape.width
        if image_shape != wanted:
            found, taken = (" × ".join(map(str, sizes)) for sizes in (image_shape, wanted))
            raise UsageError("dataset", dataset, f"has images of {found}, the network takes {taken}")

    def fold(self) -> None:
        """Prepare the network for evaluation alone. It then is faster, and its logits stay the same up to rounding.

        Each normalisation becomes part of the convolution before it. Weights get the memory layout of the images.
        """
        self.eval()
        for family in self.families:
            family.fold()
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, chosen: slice = slice(None)) -> Tensor:
        """The logits (N, A', K) of the bands with the `chosen` starts of each family, by default all of them."""
        return torch.cat([family(images, chosen) for family in self.families], dim=1)


class _Transition(nn.Module):
    """A convolution to other channels, at `stride` along the band; normalised, rectified.

    Args:
        kernel: pixels along the band, an odd number, and across it.
    """

    def __init__(self, before: int, channels: int, kernel: tuple[int, int], stride: int):
        super().__init__()
        self.convolution = nn.Conv2d(before, channels, kernel, (stride, 1), (kernel[0] // 2, 0), bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor, position: Tensor | None = None, step: int = 1) -> Tensor:
        """Across the band, every `step`-th column; `position` is added."""
        weight, bias, padding = self.convolution.weight, self.convolution.bias, self.convolution.padding
        convolved = nn.functional.conv2d(features, weight, bias, (self.convolution.stride[0], step), padding)
        return self.norm(convolved if position is None else convolved + position).relu_()

    def fold(self) -> None:
        self.convolution, self.norm = fuse_conv_bn_eval(self.convolution, self.norm), nn.Identity()


class _ResidualBlock(nn.Module):
    """relu(x + two 3 × 1 convolutions of it); begins as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), bias=False),
            nn.BatchNorm2d(channels),
        )
        nn.init.zeros_(self.body[-1].weight)

    def forward(self, features: Tensor) -> Tensor:
        return (features + self.body(features)).relu_()

    def fold(self) -> None:
        first, first_norm, rectified, second, second_norm = self.body
        convolutions = fuse_conv_bn_eval(first, first_norm), fuse_conv_bn_eval(second, second_norm)
        self.body = nn.Sequential(convolutions[0], rectified, convolutions[1])


def _kernel_widths(band_size: int, stages: int, wide: int) -> list[int]:
    """Widths of the stages' first kernels: Σ(width − 1) = s − 1, spread over the first `wide` of them."""
    wide = min(wide, stages)
    return [1 + (band_size - 1 + wide - 1 - stage) // wide if stage < wide else 1 for stage in range(stages)]
