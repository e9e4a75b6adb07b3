"""How pictures are made, found by trying a transform: pixels and colours, against the transform itself."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from patchcert import PlainNetwork
from patchcert.pretrained.preparation import Preparation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZED = [transforms.Resize(40, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(32)]
SCALED = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]


def picture(height=61, width=83, seed=3):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


class Shown(nn.Module):
    """Answers with what it is shown."""

    def forward(self, images):
        return images.flatten(1)


def seen(preparation, pixels):
    """What a network behind `PlainNetwork` is shown of pixels (C, H, W) uint8, as numbers (C, H, W)."""
    plain = PlainNetwork(preparation.shown(Shown().eval()), mean=preparation.mean, std=preparation.std)
    return plain(pixels[None] / 255).view(pixels.shape)


def of(*steps):
    return transforms.Compose(steps)


class Swapped:
    def __call__(self, numbers):
        return numbers[[2, 0, 1]]


TRANSFORMS = {
    "as usual": of(*RESIZED, *SCALED),
    "squashed": of(transforms.Resize((32, 24)), *SCALED),
    "not normalised": of(*RESIZED, transforms.ToTensor()),
    "of 255": of(*RESIZED, transforms.PILToTensor(), v2.ToDtype(torch.float32)),
    "divided by std twice": of(*RESIZED, *SCALED, transforms.Normalize(0, STD)),
    "channels in another order": of(*RESIZED, *SCALED, Swapped()),
    "with a border": of(transforms.Resize(20), transforms.CenterCrop(32), *SCALED),
    "one mean for all": of(*RESIZED, transforms.ToTensor(), transforms.Normalize(0.5, 0.5)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(61, 83), (83, 61), (40, 51), (43, 40)])
def test_a_network_is_shown_what_its_transform_gives(name, size):
    preparation = Preparation.of(TRANSFORMS[name])
    pixels = preparation.pixels(picture(*size))
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, *preparation.size) and preparation.exact
    torch.testing.assert_close(seen(preparation, pixels), TRANSFORMS[name](picture(*size)), rtol=1e-5, atol=1e-5)


def test_pixels_are_those_of_pillow():
    expected = np.asarray(of(*RESIZED)(picture()))
    assert (
        Preparation.of(TRANSFORMS["as usual"]).pixels(picture()).permute(1, 2, 0).numpy().tolist() == expected.tolist()
    )


def test_colours_are_found_as_they_are():
    preparation = Preparation.of(TRANSFORMS["channels in another order"])
    assert preparation.mean == pytest.approx(MEAN, abs=1e-6) and preparation.std == pytest.approx(STD, abs=1e-6)
    assert preparation.order == (2, 0, 1) and preparation.size == (32, 32) and preparation.mode == "RGB"


def test_where_floats_are_resized_pixels_are_rounded_and_it_is_said():
    late = of(transforms.ToTensor(), transforms.Resize((32, 32), antialias=True))
    preparation = Preparation.of(late)
    assert not preparation.exact and preparation.about()["exact"] is False and "clamped" not in preparation.about()
    difference = seen(preparation, preparation.pixels(picture())) - late(picture()).clamp(0, 1)
    assert 0 < difference.abs().max() <= 0.5 / 255 + 1e-6


def sharpened(numbers):
    """Whole levels stay whole, and leave their range."""
    return (5 * numbers - sum(numbers.roll(by, along) for by in (1, -1) for along in (1, 2))).float()


BICUBIC = transforms.InterpolationMode.BICUBIC
OVERSHOOTING = {
    "smaller": of(transforms.ToTensor(), transforms.Resize((32, 24), BICUBIC, antialias=True)),
    "larger": of(transforms.CenterCrop(20), transforms.ToTensor(), transforms.Resize((32, 32), BICUBIC)),
    "normalised": of(transforms.ToTensor(), transforms.Resize((32, 24), BICUBIC), transforms.Normalize(MEAN, STD)),
    "sharpened": of(*RESIZED, transforms.ToTensor(), sharpened),
}


@pytest.mark.parametrize("name", OVERSHOOTING)
def test_where_floats_leave_the_range_of_pixels_they_are_clamped_and_it_is_said(name):
    late = OVERSHOOTING[name]
    preparation = Preparation.of(late)
    assert not preparation.exact and preparation.about()["clamped"] is True
    coloured = picture(6, 8).point(lambda level: 255 * (level > 127)).resize((83, 61), Image.Resampling.NEAREST)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.std))
    given = late(coloured) * std + mean
    assert given.min() < -0.02 and given.max() > 1.02
    shown = preparation.pixels(coloured) / 255
    assert (shown - given.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-5


@pytest.mark.parametrize("grey", [transforms.Grayscale(), transforms.Grayscale(1)])
def test_grey_pictures(grey):
    transform = of(grey, *RESIZED, transforms.ToTensor(), transforms.Normalize((0.13,), (0.31,)))
    preparation = Preparation.of(transform)
    pixels = preparation.pixels(picture().convert("L"))
    assert preparation.mode == "L" and pixels.shape == (1, 32, 32) and preparation.mean == pytest.approx((0.13,))
    torch.testing.assert_close(seen(preparation, pixels), transform(picture().convert("L")))


def test_a_transform_of_one_mean_takes_grey_pictures_where_that_is_asked_for():
    transform = of(*RESIZED, transforms.ToTensor(), transforms.Normalize((0.13,), (0.31,)))
    assert [Preparation.of(transform, channels).mode for channels in (None, 3, 1)] == ["RGB", "RGB", "L"]


@pytest.mark.parametrize(
    ("transform", "right"),
    [
        (of(transforms.Resize(32), *SCALED), "gives images of 35 × 32 and 32 × 35 pixels, .* is a crop missing"),
        (of(transforms.RandomCrop(32), *SCALED), "the transform is random"),
        (of(*RESIZED, transforms.Grayscale(3), *SCALED), "does more to colours than"),
        (of(*RESIZED, transforms.ToTensor(), lambda x: x[[0, 0, 0]]), "does more to colours than"),
        (of(*RESIZED, transforms.ToTensor(), lambda x: x**2), "does more to colours than"),
        (of(*RESIZED, transforms.ToTensor(), lambda x: 1 - x), "does more to colours than"),
        (of(*RESIZED, transforms.ToTensor(), lambda x: x.clamp(0.1)), "does more to colours than"),
        (of(*RESIZED, transforms.ToTensor(), lambda x: x * 0), "does more to colours than"),
        (of(*RESIZED, transforms.ToTensor(), lambda x: x[:2]), "gives 2 channels, expected 3, or 1"),
        (of(*RESIZED), "gives Image for an image, expected a tensor"),
        (of(*RESIZED, *SCALED, lambda x: x[None]), r"gives \(1, 3, 32, 32\) for an image"),
        (of(transforms.Normalize(MEAN, STD)), "fails on an image: TypeError"),
    ],
)
def test_transforms_that_cannot_be_taken_apart_are_refused(transform, right):
    with pytest.raises(ValueError, match=right):
        Preparation.of(transform)


def test_a_picture_that_comes_out_at_another_size_is_refused():
    small_ones_stay = of(lambda p: p if min(p.size) < 40 else of(*RESIZED)(p), *SCALED)
    with pytest.raises(ValueError, match=r"the transform gives \(3, 30, 39\), expected \(C, 32, 32\)"):
        Preparation.of(small_ones_stay).pixels(picture(30, 39))


def test_of_a_data_set_the_pixels_are_kept():
    scaled = of(transforms.ToTensor(), transforms.Normalize((0.13,), (0.31,)))
    preparation = Preparation.of_pixels(scaled, (1, 28, 28))
    assert preparation.mean == pytest.approx((0.13,), abs=1e-6) and preparation.size == (28, 28)
    for moves in (transforms.CenterCrop(24), transforms.RandomHorizontalFlip(1.0), transforms.Resize((32, 32))):
        with pytest.raises(ValueError, match="the transform resizes or crops images of 28 × 28"):
            Preparation.of_pixels(of(moves, *scaled.transforms), (1, 28, 28))
    assert Preparation.none((3, 32, 32)).mean == (0, 0, 0)
