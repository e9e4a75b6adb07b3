"""Images and labels on the device or streamed from a disk, splits, augmentation."""

import contextlib
import copy
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2 import functional as transforms

from patchcert import checkpoint, distributed
from patchcert.errors import UsageError
from patchcert.results import progress_bar

DECODED_AT_ONCE = 500
"""Pictures that a worker process hands over together."""

SHIPPED_SPLIT = Path(__file__).parent / "permutation_10000.txt"

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

    @property
    def channels(self) -> int:
        return self.images.shape[1]

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
        self, batch_size: int, generator: torch.Generator, augmentations: tuple[Augmentation, ...] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W) in [0, 1], augmented, and labels (B,), in random order.

        With several processes each yields its share of every batch of `batch_size`.
        """
        for chosen in _shares_of_shuffled(len(self), batch_size, generator):
            yield _augmented(self.images[chosen] / 255, generator, augmentations), self.labels[chosen]


class PictureFolder:
    """Pictures in one folder per class, decoded by worker processes each time that batches of them are asked for.

    Has the interface of `Dataset`, but holds file names instead of images.

    Args:
        option: the option that named the folder.
        image_size: height and width to which pictures are resized, pixels.
        normalise: applied to float images (N, 3, H, W) in [0, 1].

    Raises:
        UsageError: the folder is not laid out so.
    """

    channels = 3

    def __init__(
        self, option: str, root: Path, image_size: int, normalise: Callable[[Tensor], Tensor] = lambda images: images
    ):
        class_names(option, root)
        try:
            files = ImageFolder(root)
        except FileNotFoundError as error:
            raise UsageError(option, root, f"expected pictures in each class's folder: {error}") from error
        self.option, self.image_size, self.normalise = option, image_size, normalise
        self.paths = [path for path, _ in files.samples]
        self.indices = torch.arange(len(files))
        self.labels = torch.tensor(files.targets)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Tensor | slice) -> "PictureFolder":
        taken = copy.copy(self)
        taken.indices, taken.labels = self.indices[chosen], self.labels[chosen]
        return taken

    def to(self, device: torch.device | str) -> "PictureFolder":
        moved = copy.copy(self)
        moved.labels = self.labels.to(device)
        return moved

    def fingerprint(self) -> str:
        """Tells data sets apart by the names of pictures and of their classes, and by the size they have here."""
        names = [self.paths[place].rsplit(os.sep, 2)[1:] for place in self.indices.tolist()]
        text = json.dumps([self.image_size, names])
        return checkpoint.fingerprint([torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)])

    def decoded(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 images (B, 3, H, W) for each of `batches`, places (B,) in this data set."""
        wanted = [self.indices[batch.cpu()] for batch in batches]
        loader = DataLoader(
            _Decoding(self.paths, self.image_size),
            batch_size=None,
            sampler=wanted,
            num_workers=min(distributed.cores(), len(wanted)),
            pin_memory=self.labels.is_cuda,
        )
        for images in loader:
            if isinstance(images, str):
                raise UsageError(self.option, images, "a damaged picture; mend it or take it away")
            yield images.to(self.labels.device, non_blocking=True)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, 3, H, W), normalised, and labels (B,), in order."""
        images = self.decoded(torch.arange(len(self)).split(batch_size))
        for decoded, labels in zip(images, self.labels.split(batch_size), strict=True):
            yield self.normalise(decoded / 255), labels

    def shuffled_batches(
        self, batch_size: int, generator: torch.Generator, augmentations: tuple[Augmentation, ...] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, 3, H, W), normalised and augmented, and labels (B,), as `Dataset` does."""
        shares = list(_shares_of_shuffled(len(self), batch_size, generator))
        for chosen, decoded in zip(shares, self.decoded(shares), strict=True):
            yield _augmented(self.normalise(decoded / 255), generator, augmentations), self.labels[chosen]


@dataclass(frozen=True)
class _Decoding(torch.utils.data.Dataset):
    """What the worker processes do; an exception of theirs would arrive as a traceback, so they return a name."""

    paths: list[str]
    image_size: int

    def __getitem__(self, places: Tensor) -> Tensor | str:
        """(B, 3, H, W) uint8, or the path of a picture that cannot be decoded."""
        images = []
        for place in places.tolist():
            try:
                picture = transforms.pil_to_tensor(default_loader(self.paths[place]))
            except (OSError, SyntaxError, ValueError):
                return self.paths[place]
            images.append(transforms.resize(picture, [self.image_size, self.image_size], antialias=True))
        return torch.stack(images)


def _shares_of_shuffled(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield this process's share of each batch of a random order of `count` images, the same order in all of them."""
    order = torch.randperm(count, generator=generator, device=generator.device)
    distributed.copy_from_first([order])
    yield from map(distributed.equal_share, order.split(batch_size))


def _augmented(images: Tensor, generator: torch.Generator, augmentations: tuple[Augmentation, ...]) -> Tensor:
    for augment in augmentations:
        images = augment(images, generator)
    return images


def normalise_imagenet(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean from images (N, 3, H, W) in [0, 1] and divide by its standard deviation."""
    mean, std = images.new_tensor([0.485, 0.456, 0.406]), images.new_tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


def class_names(option: str, root: Path) -> list[str]:
    """The names of the folders in `root`, in order: the classes of an ImageFolder.

    Raises:
        UsageError: there are none.
    """
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    if not names:
        raise UsageError(option, root, "expected a folder with one folder of pictures for each class")
    return names


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


AUGMENTATIONS: dict[str, Augmentation] = {"random_flip": random_flip, "random_crop": random_crop}
"""By the names that configs give."""

Images = Dataset | PictureFolder


def load(name: str, root: Path, train: bool) -> Dataset:
    """The training or the test part of the data set `name`, on the CPU.

    Raises:
        UsageError: its files are neither under `root` nor to be had from the internet.
    """
    images, labels = _LOADERS[name](root, train)
    return Dataset(images, labels, torch.arange(len(labels)))


def load_folder(root: Path, train: bool, image_size: int) -> Dataset:
    """The pictures in `root`/train/CLASS/ or `root`/test/CLASS/, resized to `image_size` both ways, on the CPU.

    Raises:
        UsageError: the folder is not laid out so, or a picture is damaged.
    """
    parts = [root / "train", root / "test"]
    if class_names("data", parts[0]) != class_names("data", parts[1]):
        raise UsageError("data", root, "train/ and test/ have different classes, expected the same folders in both")
    pictures = PictureFolder("data", parts[0] if train else parts[1], image_size)
    images = []
    with progress_bar(len(pictures), "decoding") as bar:
        for decoded in pictures.decoded(pictures.indices.split(DECODED_AT_ONCE)):
            images.append(decoded)
            bar.update(len(decoded))
    return Dataset(torch.cat(images), pictures.labels, pictures.indices)


def _load_mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    return _load_idx("MNIST", root, train)


def _load_fashion_mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    return _load_idx("FashionMNIST", root, train)


def _load_idx(kind: str, root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """MNIST or FashionMNIST: images (N, 1, 28, 28) uint8 and labels (N,)."""
    place = root / kind / "raw"
    missing = f"{kind} is neither in {place} (four *-ubyte files) nor reachable; the data set digits needs no files"
    with _reading(root, place, missing):
        data = getattr(torchvision.datasets, kind)(root, train=train, download=True)
    return data.data[:, None], data.targets


@contextlib.contextmanager
def _reading(root: Path, place: Path, missing: str) -> Iterator[None]:
    """Lets torchvision look for files in `place` under `root` or download them, without a word or an empty folder.

    Raises:
        UsageError: it failed, because there is nothing (`missing` says what that means) or because of what there is.
    """
    made = [folder for folder in (place, *place.parents) if not folder.exists()]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        damaged = f"the files in {place} are damaged or too few: {error}".replace("\n", " ")
        raise UsageError("data", root, damaged if place.is_dir() else missing) from error


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


def _load_cifar10(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """torchvision's files under `root`, or else pictures in cifar10/{train,test}/CLASS/, or else a download."""
    tree = root / "cifar10"
    if tree.is_dir() and not (root / CIFAR10.base_folder).is_dir():
        found = len(class_names("data", tree / "test"))
        if found != 10:
            raise UsageError("data", root, f"expected the 10 classes of CIFAR-10 in {tree}/test, found {found}")
        pictures = load_folder(tree, train, image_size=32)
        return pictures.images, pictures.labels
    place = root / CIFAR10.base_folder
    missing = f"CIFAR-10 is neither in {place} nor in {tree}/{{train,test}}/CLASS nor reachable"
    with _reading(root, place, missing):
        data = CIFAR10(root, train=train, download=True)
    return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)


def _load_svhn(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Street View House Numbers, cropped digits (3, 32, 32): {train,test}_32x32.mat under `root`/svhn."""
    place = root / "svhn"
    with _reading(root, place, f"SVHN is neither in {place} (train_32x32.mat, test_32x32.mat) nor reachable"):
        data = torchvision.datasets.SVHN(place, split="train" if train else "test", download=True)
    return torch.from_numpy(data.data), torch.from_numpy(data.labels).to(torch.int64)


_LOADERS = {
    "mnist": _load_mnist,
    "fashion-mnist": _load_fashion_mnist,
    "digits": _load_digits,
    "cifar10": _load_cifar10,
    "svhn": _load_svhn,
}

NAMES = tuple(_LOADERS)
"""The data sets that have a name."""


def _fixed_permutation(count: int) -> Tensor:
    """The same for ever: NumPy keeps this legacy stream frozen."""
    return torch.from_numpy(np.random.RandomState(0).permutation(count))


def spread(dataset: Images, limit: int | None) -> Images:
    """At most `limit` images, evenly spaced, so that all classes remain where they come one after the other."""
    count = min(limit or len(dataset), len(dataset))
    return dataset.take(torch.arange(count) * len(dataset) // count)


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
        indices = _saved_tensor(path) if zipfile.is_zipfile(path) else torch.tensor(_numbers(path), dtype=torch.double)
    except (ValueError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError("split_file", path, "expected a saved index tensor or a text file of indices") from error
    indices = indices.double()
    in_range = (indices >= 0) & (indices < count) & (indices == indices.round())
    if indices.dim() != 1 or not len(indices) or not in_range.all() or len(indices.unique()) < len(indices):
        raise UsageError("split_file", path, f"expected distinct whole numbers from 0 to {count - 1}")
    return indices.to(torch.int64)


def _numbers(path: Path) -> list[float]:
    return [float(word) for word in path.read_text().split()]


def _saved_tensor(path: Path) -> Tensor:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Tensor):
        raise ValueError("not a tensor")
    return content
