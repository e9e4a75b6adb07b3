"""Images with labels, held in memory on one device."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from patchcert import checkpoint, distributed
from patchcert.data.augmentation import Augmentation, augmented


@dataclass(frozen=True)
class Dataset:
    """N images with labels.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        indices: (N,) int64, places in the data set's own order.

    Raises:
        TypeError: a tensor holds numbers of another type. Floats in [0, 1], say, would be divided by 255 once more.
        ValueError: a tensor has other axes, or there are not as many labels and indices as images.
    """

    DTYPE: ClassVar[torch.dtype] = torch.uint8
    PIXELS: ClassVar[str] = "pixels from 0 to 255; of floats, (255 * images).round().to(torch.uint8) makes them"

    images: Tensor
    labels: Tensor
    indices: Tensor

    def __post_init__(self):
        count = len(self.images)
        for name, dtype, axes, shape in (
            ("images", self.DTYPE, 4, f"(N, C, H, W), {self.PIXELS}"),
            ("labels", torch.int64, 1, f"({count},), a class for each image"),
            ("indices", torch.int64, 1, f"({count},), a place for each image"),
        ):
            tensor = getattr(self, name)
            message = f"{name} are {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {shape}"
            if tensor.dtype != dtype:
                raise TypeError(message)
            if tensor.dim() != axes or len(tensor) != count:
                raise ValueError(message)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.images.shape[1:])

    def take(self, chosen: Tensor | slice) -> Self:
        return type(self)(self.images[chosen], self.labels[chosen], self.indices[chosen])

    def to(self, device: torch.device | str) -> Self:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def fingerprint(self) -> str:
        """Tells data sets apart."""
        return checkpoint.fingerprint([self.images, self.labels])

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W) in [0, 1] and labels (B,), in order."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield self._scaled(images), labels

    def shuffled_batches(
        self,
        batch_size: int,
        generator: torch.Generator,
        augmentations: tuple[Augmentation, ...] = (),
        done: int = 0,
        reached: Tensor | None = None,
        turn: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W) in [0, 1], augmented, and labels (B,), in random order.

        With several processes each yields its share of every batch of `batch_size`.

        Args:
            done: batches to leave out, which a run saw before it stopped; the generator's state was `reached` then.
            turn: (N,) bool, which images `alternating_flip` mirrors; by default none.
        """
        for chosen in shares_of_shuffled(len(self), batch_size, generator, done, reached):
            images, turns = self._scaled(self.images[chosen]), turns_of(chosen, turn)
            yield augmented(images, generator, augmentations, turns), self.labels[chosen]

    def _scaled(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of this data set as floats in [0, 1]."""
        return images / 255


class FloatDataset(Dataset):
    """N images that are floats in [0, 1] already, and stay what they are: no rounding to 256 values.

    Raises:
        TypeError, ValueError: as `Dataset` does, or a pixel lies elsewhere.
    """

    DTYPE = torch.float32
    PIXELS = "pixels in [0, 1]"

    def __post_init__(self):
        super().__post_init__()
        require_pixels(self.images)

    def _scaled(self, images: Tensor) -> Tensor:
        return images


def require_pixels(images: Tensor) -> None:
    """Raise ValueError unless all pixels of the float `images` lie in [0, 1], which NaN does not."""
    if images.numel():
        lowest, highest = images.detach().aminmax()
        if not (lowest >= 0 and highest <= 1):
            found = f"{float(lowest):.9g} to {float(highest):.9g}"
            raise ValueError(f"images have pixels from {found}, expected floats in [0, 1], or uint8 up to 255")


def turns_of(chosen: Tensor, turn: Tensor | None) -> Tensor:
    """(B,) bool: of the `chosen` images (B,) those that `turn` (N,) names, or none."""
    return torch.zeros_like(chosen, dtype=torch.bool) if turn is None else turn[chosen]


def shares_of_shuffled(
    count: int, batch_size: int, generator: torch.Generator, done: int = 0, reached: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield this process's share of each batch of a random order of `count` images, the same order in all of them.

    Args:
        done, reached: see `Dataset.shuffled_batches`.
    """
    order = torch.randperm(count, generator=generator, device=generator.device)
    distributed.copy_from_first([order])
    if reached is not None:
        generator.set_state(reached)
    yield from map(distributed.equal_share, order.split(batch_size)[done:])
