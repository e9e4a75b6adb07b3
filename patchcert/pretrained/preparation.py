"""How a network's images are made: its own transform, taken apart into pixels and what is done to their colours.

An adversary changes pixels, so these are what a certificate is about: 8 bits a channel, at the size that the network
sees. A network comes with a transform from an image to normalised numbers. Nothing of its recipe is read; it is run.
What it does to colours is seen from images of one colour, and is undone after it has resized and cropped.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

Transform = Callable[[Image.Image], Tensor]
"""An image to the numbers (C, H, W) that a network is shown."""

TRIED = (320, 288)
"""(H, W) of the image that a transform is tried on, and of another one turned by a quarter."""

COLOURS = [(255, 255, 255), (51, 102, 204), (250, 128, 7), (3, 77, 180), (128, 128, 128)]

MORE = "the transform does more to colours than a factor above 0 and an offset for each channel"

TOLERANCE = 0.01
"""Levels of 255 by which colours may differ from what was found of them, and pixels from whole numbers."""

MODES = {1: "L", 3: "RGB"}
"""What Pillow calls images of so many channels."""


@dataclass(frozen=True)
class Preparation:
    """What a transform does.

    Attributes:
        transform: to numbers (C, H, W), normalised.
        mode: what Pillow calls the images that it takes: RGB, or L for grey.
        size: (H, W) of what it gives, pixels.
        mean, std: for each of the image's channels; it gives (x − mean) / std of pixels x in [0, 1].
        order: which of the image's channels each number that it gives comes from: (2, 1, 0) is blue first.
        exact: whether it resizes pixels to pixels. Else they are rounded to 256 levels after it.
        clamped: whether some of what it gives lies outside of [0, 1], so that it is clamped, too. Bicubic resizing does
            that to floats.
    """

    transform: Transform
    mode: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: tuple[int, ...]
    exact: bool
    clamped: bool = False

    @classmethod
    def of(cls, transform: Transform, channels: int | None = None) -> "Preparation":
        """What `transform` does to images of any size, found by trying it.

        Args:
            channels: of the images that it takes; by default colour, if it gives as many of them.

        Raises:
            ValueError: it does something else to colours than a factor and an offset for each channel, gives images
                of several sizes, or not always the same ones.
        """
        colour = _noise(TRIED, 3)
        mode = MODES.get(channels or len(_run(transform, colour)))
        if mode is None:
            raise ValueError(f"the transform gives {len(_run(transform, colour))} channels, expected 3, or 1 for grey")
        sizes = [
            _run(transform, picture.convert(mode)).shape for picture in (colour, colour.transpose(Image.ROTATE_90))
        ]
        if sizes[0] != sizes[1]:
            found = " and ".join(f"{height} × {width}" for _, height, width in sizes)
            raise ValueError(f"the transform gives images of {found} pixels, expected one size: is a crop missing?")
        return cls._of(transform, mode, TRIED)

    @classmethod
    def of_pixels(cls, transform: Transform, shape: tuple[int, int, int]) -> "Preparation":
        """What `transform` does to the colours of images (C, H, W), whose pixels it must leave where they are.

        Raises:
            ValueError: as `of`; or it resizes or crops.
        """
        channels, *size = shape
        found, picture = cls._of(transform, MODES[channels], tuple(size)), _noise(tuple(size), channels)
        kept = found.size == tuple(size) and found.pixels(picture).equal(_as_it_is(picture))
        if not kept:
            height, width = size
            raise ValueError(f"the transform resizes or crops images of {height} × {width}, expected it to keep them")
        return found

    @classmethod
    def none(cls, shape: tuple[int, int, int]) -> "Preparation":
        """Nothing is done to images (C, H, W)."""
        channels, *size = shape
        numbers = (0.0,) * channels, (1.0,) * channels, tuple(range(channels))
        return cls(lambda picture: _as_it_is(picture) / 255, MODES[channels], tuple(size), *numbers, exact=True)

    @classmethod
    def _of(cls, transform: Transform, mode: str, tried: tuple[int, int]) -> "Preparation":
        """What it does, tried on images of a size (H, W)."""
        noise = _noise(tried, 3).convert(mode)
        numbers = _run(transform, noise)
        if not numbers.equal(_run(transform, noise)):
            raise ValueError("the transform is random, expected the one that the network was tested with")
        found = cls(transform, mode, tuple(numbers.shape[1:]), *_colours(transform, mode, tried), exact=True)
        shown = numbers, _run(transform, _edges(tried).convert(mode))
        levels = torch.stack([found._levels(given) for given in shown])
        pixels = levels.round().clamp(0, 255)
        exact = bool((levels - pixels).abs().max() <= TOLERANCE)
        return replace(found, exact=exact, clamped=not pixels.equal(levels.round()))

    def about(self) -> dict[str, object]:
        """What was found, in JSON's types."""
        found = {"size": list(self.size), "mean": list(self.mean), "std": list(self.std), "exact": self.exact}
        found |= {"clamped": True} if self.clamped else {}
        return found if self._in_order else found | {"channels": f"channels {', '.join(map(str, self.order))}"}

    def pixels(self, picture: Image.Image) -> Tensor:
        """(C, H, W) uint8: the pixels of `picture`, in `mode`, that the network sees.

        Raises:
            ValueError: the transform fails, or gives another size.
        """
        levels = self._levels(_run(self.transform, picture))
        if levels.shape[1:] != self.size:
            raise ValueError(f"the transform gives {tuple(levels.shape)}, expected (C, {self.size[0]}, {self.size[1]})")
        return levels.round().clamp(0, 255).to(torch.uint8)

    def shown(self, network: nn.Module) -> nn.Module:
        """The network on channels in the image's order."""
        return network if self._in_order else OtherChannels(network, self.order)

    @property
    def keeps_colours(self) -> bool:
        """Whether it gives pixels in [0, 1], and changes none of their colours."""
        offsets = [*self.mean, *(std - 1 for std in self.std)]
        return self._in_order and all(abs(offset) <= TOLERANCE / 255 for offset in offsets)

    @property
    def _in_order(self) -> bool:
        return self.order == tuple(range(len(self.order)))

    def _levels(self, numbers: Tensor) -> Tensor:
        """(C, H, W): numbers that the transform gave as what they were of 255, in the image's order of channels."""
        mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (self.mean, self.std))
        undone = torch.empty_like(numbers)
        undone[list(self.order)] = numbers
        return (undone * std + mean) * 255


class OtherChannels(nn.Module):
    """A network that wants the channels in another `order`."""

    def __init__(self, network: nn.Module, order: tuple[int, ...]):
        super().__init__()
        self.network, self.order = network, list(order)
        self.train(network.training)

    def forward(self, images: Tensor) -> object:
        return self.network(images[:, self.order])


def _noise(size: tuple[int, int], channels: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze(2) if channels == 1 else values)


def _as_it_is(picture: Image.Image) -> Tensor:
    """(C, H, W) uint8."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(picture)


def _edges(size: tuple[int, int]) -> Image.Image:
    """Squares of black and white; beside their edges, floats that are resized can leave [0, 1]."""
    rows, columns = (np.arange(length) * 4 // length for length in size)
    return Image.fromarray(((rows[:, None] + columns) % 2 * 255).astype(np.uint8))


def _run(transform: Transform, picture: Image.Image) -> Tensor:
    """(C, H, W) float64: what an image becomes."""
    try:
        numbers = transform(picture)
    except Exception as error:  # other people's code fails in every way there is
        raise ValueError(f"the transform fails on an image: {type(error).__name__}: {error}") from error
    if not isinstance(numbers, Tensor) or numbers.dim() != 3:
        found = tuple(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
        raise ValueError(f"the transform gives {found} for an image, expected a tensor (C, H, W)")
    return numbers.double()


def _colours(
    transform: Transform, mode: str, size: tuple[int, int]
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Mean and standard deviation of each of the image's channels, and which of them each number comes from."""
    channels = {"L": 1, "RGB": 3}[mode]

    def shown(colour: tuple[int, ...]) -> Tensor:
        """(C,): what becomes of a colour, in the middle of an image. Around it there may be a border."""
        numbers = _run(transform, Image.new(mode, size[::-1], colour[:channels] if channels > 1 else colour[0]))
        return numbers[:, numbers.shape[1] // 2, numbers.shape[2] // 2]

    black = shown((0, 0, 0))
    pure = [tuple(255 * (i == j) for j in range(channels)) for i in range(channels)]
    factors = torch.stack([shown(colour) - black for colour in pure])  # (channel of the image, number)
    order = factors.argmax(dim=0)
    factor = factors.gather(0, order[None])[0]
    if order.sort().values.tolist() != list(range(channels)) or not (factor > 0).all():
        raise ValueError(MORE)
    for colour in (*pure, *COLOURS):
        expected = black + factor * torch.tensor(colour).double()[order] / 255
        if not ((shown(colour) - expected).abs() <= TOLERANCE / 255 * factor).all():
            raise ValueError(MORE)
    mean, std = torch.empty_like(factor), torch.empty_like(factor)
    mean[order], std[order] = 0 - black / factor, 1 / factor
    return tuple(mean.tolist()), tuple(std.tolist()), tuple(order.tolist())
