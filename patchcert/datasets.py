"""Images and labels on the device, splits, augmentation."""

import contextlib
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchcert.errors import UsageError

SHIPPED_SPLIT = Path(__file__).parent / "splits" / "permutation_10000.txt"

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""(N, C, H, W) float images and a generator on their device, to images of the same shape."""


@dataclass(frozen=True)
class Dataset:
    """N images with labels.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        indices: (N,) int64, places in the data set's own order.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Tensor | slice) -> "Dataset":
        return Dataset(self.images[chosen], self.labels[chosen], self.indices[chosen])

    def to(self, device: torch.device | str) -> "Dataset":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W) in [0, 1] and labels (B,), in order."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield images / 255, labels

    def shuffled_batches(
        self, batch_size: int, generator: torch.Generator, augmentations: tuple[Augmentation, ...] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W) in [0, 1], augmented, and labels (B,), in random order."""
        order = torch.randperm(len(self), generator=generator, device=self.labels.device)
        for chosen in order.split(batch_size):
            images = self.images[chosen] / 255
            for augment in augmentations:
                images = augment(images, generator)
            yield images, self.labels[chosen]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    flip = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(flip, images.flip(3), images)


def random_crop(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Pad each image with zeros and cut its own size out at a random place."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4)
    corner = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=images.device)
    rows = corner[0] + torch.arange(height, device=images.device)  # (N, H)
    columns = corner[1] + torch.arange(width, device=images.device)  # (N, W)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def load(name: str, root: Path, train: bool) -> Dataset:
    """The training or the test part of the data set `name`, on the CPU.

    Raises:
        UsageError: its files are neither under `root` nor to be had from the internet.
    """
    images, labels = _LOADERS[name](root, train)
    return Dataset(images, labels, torch.arange(len(labels)))


def _load_mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    return _load_idx("MNIST", root, train)


def _load_fashion_mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    return _load_idx("FashionMNIST", root, train)


def _load_idx(kind: str, root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """MNIST or FashionMNIST: images (N, 1, 28, 28) uint8 and labels (N,)."""
    import torchvision

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            data = getattr(torchvision.datasets, kind)(root, train=train, download=True)
    except (RuntimeError, OSError) as error:
        place = root / kind / "raw"
        right = f"{kind} is neither in {place} (four *-ubyte files) nor reachable; --dataset digits needs no files"
        raise UsageError("data", root, right) from error
    return data.data[:, None], data.targets


def _load_digits(_root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits, 8 × 8 in 17 greys, as 28 × 28; 1,437 to train and 360 to test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    images = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear").round().to(torch.uint8)
    labels = torch.from_numpy(digits.target).to(torch.int64)
    order = _fixed_permutation(len(labels))
    chosen = order[360:] if train else order[:360]
    return images[chosen], labels[chosen]


_LOADERS = {"mnist": _load_mnist, "fashion-mnist": _load_fashion_mnist, "digits": _load_digits}


def _fixed_permutation(count: int) -> Tensor:
    """The same for ever: NumPy keeps this legacy stream frozen."""
    return torch.from_numpy(np.random.RandomState(0).permutation(count))


def choose_half(dataset: Dataset, test: bool, split_file: Path | None = None) -> Dataset:
    """The validation half of a test set, or with `test` the other half, on which only final numbers are taken.

    The halves are those of a fixed permutation: the one that ships with the project for 10,000 images, a
    frozen random one for other sizes. `split_file` holds another permutation, or the validation half alone.

    Raises:
        UsageError: `split_file` does not hold indices of this data set.
    """
    if split_file is not None:
        order = read_indices(split_file, len(dataset))
    elif len(dataset) == 10_000:
        order = read_indices(SHIPPED_SPLIT, len(dataset))
    else:
        order = _fixed_permutation(len(dataset))
    validation = order[: len(dataset) // 2] if len(order) == len(dataset) else order
    rest = torch.ones(len(dataset), dtype=torch.bool)
    rest[validation] = False
    half = rest.nonzero().squeeze(1) if test else validation.sort().values
    return dataset.take(half)


def read_indices(path: Path, count: int) -> Tensor:
    """Distinct indices below `count`, (n,) int64, from a saved tensor or a text file.

    Raises:
        UsageError: the file holds something else.
    """
    try:
        indices = _saved_tensor(path) if zipfile.is_zipfile(path) else torch.from_numpy(np.loadtxt(path, ndmin=1))
    except (ValueError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError("split_file", path, "expected a saved index tensor or a text file of indices") from error
    in_range = (indices >= 0) & (indices < count) & (indices == indices.round())
    if indices.dim() != 1 or not in_range.all() or len(indices.unique()) < len(indices):
        raise UsageError("split_file", path, f"expected distinct whole numbers from 0 to {count - 1}")
    return indices.to(torch.int64)


def _saved_tensor(path: Path) -> Tensor:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Tensor):
        raise ValueError("not a tensor")
    return content
