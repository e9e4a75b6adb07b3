"""Random changes of training batches, whole batches at a time."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""(N, C, H, W) float images and a generator on their device, to images of the same shape.

`alternating_flip` takes, in place of a generator, whose turn it is.
"""


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    flip = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(flip, images.flip(3), images)


def alternating_flip(images: Tensor, turn: Tensor) -> Tensor:
    """Mirror left to right those images of which `turn` (N,) says so: each in every other epoch."""
    return torch.where(turn[:, None, None, None], images.flip(3), images)


def random_crop(images: Tensor, generator: torch.Generator, padding: int = 4, mode: str = "constant") -> Tensor:
    """Pad each image with zeros, or by another `mode` of torch's, and cut its own size out at a random place."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4, mode=mode)
    corner = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=images.device)
    rows = corner[0] + torch.arange(height, device=images.device)  # (N, H)
    columns = corner[1] + torch.arange(width, device=images.device)  # (N, W)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to 2 pixels up or down, left or right; what it leaves is filled with its mirror image."""
    return random_crop(images, generator, padding=2, mode="reflect")


def random_colours(images: Tensor, generator: torch.Generator, strength: float = 0.3) -> Tensor:
    """Change each image's brightness, contrast and saturation at random, by factors within 1 ± `strength`."""
    uniform = torch.rand(3, len(images), 1, 1, 1, generator=generator, device=images.device)
    brightness, contrast, saturation = 1 + strength * (2 * uniform - 1)
    grey = images.mean(dim=1, keepdim=True)
    saturated = grey + saturation * (images - grey)
    mean = saturated.mean(dim=(1, 2, 3), keepdim=True)
    return (brightness * mean + contrast * (saturated - mean)).clamp(0, 1)


def random_erasing(images: Tensor, generator: torch.Generator, size: int = 8) -> Tensor:
    """Black out a square of each image, its centre anywhere in it."""
    count, _, height, width = images.shape
    centre = torch.rand(2, count, 1, generator=generator, device=images.device)
    rows = (torch.arange(height, device=images.device) + 0.5 - height * centre[0]).abs() < size / 2  # (N, H)
    columns = (torch.arange(width, device=images.device) + 0.5 - width * centre[1]).abs() < size / 2  # (N, W)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def random_turn(images: Tensor, generator: torch.Generator, degrees: float = 15, strength: float = 0.15) -> Tensor:
    """With probability 1/2 turn an image by up to `degrees` and scale its axes by factors within 1 ± `strength`.

    Around its centre; pixels are interpolated, and black where nothing was.
    """
    turned = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    uniform = 2 * torch.rand(3, len(images), generator=generator, device=images.device) - 1
    angle = math.radians(degrees) * uniform[0]
    across, along = 1 + strength * uniform[1:]
    sine, cosine, centred = angle.sin(), angle.cos(), torch.zeros_like(angle)
    aspect = images.shape[2] / images.shape[3]  # coordinates go from -1 to 1 on both axes
    rows = [across * cosine, -along * sine * aspect, centred], [across * sine / aspect, along * cosine, centred]
    source = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # (N, 2, 3)
    places = torch.nn.functional.affine_grid(source, list(images.shape), align_corners=False)
    return torch.where(turned, torch.nn.functional.grid_sample(images, places, align_corners=False), images)


AUGMENTATIONS: dict[str, Augmentation] = {
    augment.__name__: augment
    for augment in (
        random_flip,
        alternating_flip,
        random_crop,
        random_shift,
        random_turn,
        random_colours,
        random_erasing,
    )
}
"""By the names that configs and options give."""


def augmented(
    images: Tensor, generator: torch.Generator, augmentations: tuple[Augmentation, ...], turn: Tensor
) -> Tensor:
    """Images (N, C, H, W) after all `augmentations`; `turn` (N,) bool is what `alternating_flip` goes by."""
    for augment in augmentations:
        images = augment(images, turn if augment is alternating_flip else generator)
    return images
