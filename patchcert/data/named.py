"""The data sets that have a name, from their files or a download."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torchvision.datasets import CIFAR10

from patchcert.data.dataset import Dataset
from patchcert.data.folders import class_names, load_folder
from patchcert.data.splits import fixed_permutation
from patchcert.errors import UsageError


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
    order = fixed_permutation(len(labels))
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

IMAGE_SHAPES = dict.fromkeys(NAMES, (1, 28, 28)) | dict.fromkeys(("cifar10", "svhn"), (3, 32, 32))
"""(C, H, W) of their images."""
