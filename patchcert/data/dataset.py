"""Images with labels, held in memory on one device."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from patchcert import checkpoint, distributed
from patchcert.data.augmentation import Augmentation, augmented

PIXELS = "pixels from 0 to 255; of floats in [0, 1], (255 * images).round().to(torch.uint8) makes them"


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

    images: Tensor
    labels: Tensor
    indices: Tensor

    def __post_init__(self):
        count = len(self.images)
        for name, dtype, axes, shape in (
            ("images", torch.uint8, 4, f"(N, C, H, W), {PIXELS}"),
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

    def take(self, chosen: Tensor | slice) -> "Dataset":
        return Dataset(self.images[chosen], self.labels[chosen], self.indices[chosen])

    def to(self, device: torch.device | str) -> "Dataset":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def fingerprint(self) -> str:
        """Tells data sets apart."""
        return checkpoint.fingerprint([self.images, self.labels])

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W) in [0, 1] and labels (B,), in order."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield images / 255, labels

    def shuffled_batches(
        self,
        batch_size: int,
        generator: torch.Generator,
        augmentations: tuple[Augmentation, ...] = (),
        done: int = 0,
        reached: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W) in [0, 1], augmented, and labels (B,), in random order.

        With several processes each yields its share of every batch of `batch_size`.

        Args:
            done: batches to leave out, which a run saw before it stopped; the generator's state was `reached` then.
        """
        for chosen in shares_of_shuffled(len(self), batch_size, generator, done, reached):
            yield augmented(self.images[chosen] / 255, generator, augmentations), self.labels[chosen]


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
