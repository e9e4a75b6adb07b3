"""The data sets that have a name, from their files or a download.

MNIST and FashionMNIST are plain bytes. CIFAR-10 comes as pickles, which can execute anything, and SVHN in MATLAB's
format: of these the very bytes are read that have the checksum of the original files, and no others.
"""

import contextlib
import gzip
import hashlib
import io
import math
import os
import pickle
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchcert import first_bytes, inputs
from patchcert.data.dataset import Dataset
from patchcert.data.folders import load_folder
from patchcert.data.listing import class_names
from patchcert.data.splits import fixed_permutation
from patchcert.errors import UsageError
from patchcert.inputs import InputError

CLASSES = 10
"""Of every data set that has a name."""

CIFAR10_TREES = ("cifar10_exact", "cifar10")
"""Folders of CIFAR-10 as images, the first that is there being read: original pixels, or copies."""

CIFAR10_SUMS = ((6415714204, 6295060180, 5829907619), (1290492328, 1266775083, 1176108223))
"""Of all red, green and blue values of the original 50,000 training images, and of the 10,000 test images."""

MOST_IMAGES, MOST_BYTES = 10**6, 1 << 28
"""In a file."""

GZIP = b"\x1f\x8b"
"""What files begin with that gzip packed."""


def load(name: str, root: Path, train: bool) -> Dataset:
    """The training or the test part of the data set `name`, on the CPU.

    Raises:
        UsageError: its files are neither under `root` nor to be had from the internet, or hold something else.
    """
    images, labels = _LOADERS[name](root, train)
    if len(images) != len(labels):
        raise UsageError("data", root, f"{name} has {len(images)} images and {len(labels)} labels")
    if not 0 <= labels.min() <= labels.max() < CLASSES:
        raise UsageError("data", root, f"{name} has labels beyond its classes, 0 to {CLASSES - 1}")
    return Dataset(images, labels, torch.arange(len(labels)))


def _load_mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    return _load_idx("MNIST", root, train)


def _load_fashion_mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    return _load_idx("FashionMNIST", root, train)


def _load_idx(kind: str, root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """MNIST or FashionMNIST: images (N, 1, 28, 28) uint8 and labels (N,)."""
    place, part = root / kind / "raw", "train" if train else "t10k"
    files = _unpacked_or_not(place / f"{part}-images-idx3-ubyte"), _unpacked_or_not(place / f"{part}-labels-idx1-ubyte")
    there = "four files *-ubyte or *-ubyte.gz"
    missing = f"no {kind} in {place} ({there}), and the download failed; the data set digits needs no files"
    with _reading(root, files, missing, lambda: _of_torchvision(kind)(root, download=True)):
        images, labels = _idx(files[0], 28, 28), _idx(files[1])
    return images[:, None], labels.to(torch.int64)


def _unpacked_or_not(file: Path) -> Path:
    """Where a file of MNIST's is: here or in the folder above, unpacked or not, under this name or Kaggle's."""
    names = [name + end for end in ("", ".gz") for name in (file.name, file.name.replace("-idx", ".idx"))]
    places = [folder / name for folder in (file.parent, file.parent.parent) for name in names]
    inside = [place / file.name for place in places]  # Kaggle's archive has folders of these names, too
    return next(filter(os.path.isfile, (*places, *inside)), file)


def _idx(path: Path, *size: int) -> Tensor:
    """(N, …) uint8, each of this size: what a file in MNIST's format holds, packed by gzip or not.

    Raises:
        InputError: they are others, or not as many as it says.
    """
    with inputs.opened(path) as file:
        beginning = file.read(first_bytes.LOOKED_AT)
        file.seek(0)
        content = gzip.GzipFile(fileobj=file) if beginning.startswith(GZIP) else file
        try:
            count = _count(path, content.read(4 * (2 + len(size))), beginning, size)
            wanted = count * math.prod(size)
            inputs.require_plausible(wanted, inputs.size_of(file))
            values = bytearray(content.read(wanted + 1))
        except (EOFError, zlib.error) as error:
            raise InputError(f"{path.name} is a damaged gzip file") from error
    if len(values) != wanted:
        raise InputError(f"{path.name} does not have exactly the bytes of the {count} images that it names")
    return torch.frombuffer(values, dtype=torch.uint8).view(count, *size)


def _count(path: Path, header: bytes, beginning: bytes, size: tuple[int, ...]) -> int:
    """How many images of this size a file in MNIST's format says that it has.

    Raises:
        InputError: it is none, or of images of another size.
    """
    magic, count, *found = np.frombuffer(header.ljust(4 * (2 + len(size)), b"\0"), ">u4").tolist()
    if magic != 0x0801 + len(size):
        raise InputError(f"{path.name} {first_bytes.otherwise(beginning, 'a file in the format of MNIST')}")
    if tuple(found) != size:
        here, right = (" × ".join(map(str, sides)) for sides in (found, size))
        raise InputError(f"{path.name} has images of {here} pixels, expected {right}")
    if not 1 <= count <= MOST_IMAGES:
        raise InputError(f"{path.name} says that it has {count} images, expected 1 to {MOST_IMAGES}")
    return count


def _of_torchvision(kind: str) -> type:
    """A data set of torchvision's."""
    return getattr(import_module("torchvision.datasets"), kind)


@contextlib.contextmanager
def _reading(root: Path, files: Sequence[Path], missing: str, download: Callable[[], object]) -> Iterator[None]:
    """Inside, `files` of one folder under `root` are read; torchvision downloads them before if one is not there.

    Raises:
        UsageError: it failed, because there is nothing (`missing` says what that means) or because of what there is.
    """
    place = files[0].parent
    made = [folder for folder in (place, *place.parents) if not os.path.exists(folder)]
    try:
        if not all(map(os.path.lexists, files)):
            with contextlib.redirect_stdout(io.StringIO()):
                download()
        yield
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        damaged = f"the files in {place} are damaged or incomplete: {error}".replace("\n", " ")
        raise UsageError("data", root, damaged if os.path.isdir(place) else missing) from error


def _original(path: Path, md5: str) -> bytes:
    """The content of a file that nobody has changed.

    Raises:
        InputError: somebody has.
    """
    content = inputs.content(path, MOST_BYTES)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        wanted = "the original file and is not trusted; --dataset folder takes images of any origin"
        raise InputError(f"{path.name} {first_bytes.otherwise(content[: first_bytes.LOOKED_AT], wanted)}")
    return content


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


def cifar10_pictures(dataset: Dataset) -> str:
    """What the whole training or test part of CIFAR-10 is by the sums of its channels: `original`, or else `copies`."""
    sums = tuple(dataset.images.sum(dim=(0, 2, 3), dtype=torch.int64).tolist())
    return "original" if sums in CIFAR10_SUMS else "copies"


def _load_cifar10(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """torchvision's files under `root`, or else one of `CIFAR10_TREES`, {train,test}/CLASS/, or else a download."""
    original = _of_torchvision("CIFAR10")
    tree = next((root / name for name in CIFAR10_TREES if (root / name).is_dir()), root / CIFAR10_TREES[-1])
    if tree.is_dir() and not (root / original.base_folder).is_dir():
        found = len(class_names("data", tree / "test"))
        if found != 10:
            raise UsageError("data", root, f"expected the 10 classes of CIFAR-10 in {tree}/test, found {found}")
        pictures = load_folder(tree, train, image_size=32)
        return pictures.images, pictures.labels
    place = root / original.base_folder
    files = {place / name: md5 for name, md5 in (original.train_list if train else original.test_list)}
    missing = f"no CIFAR-10 in {place} or {tree}/{{train,test}}/CLASS, and the download failed"
    with _reading(root, list(files), missing, lambda: original(root, download=True)):
        batches = [pickle.loads(_original(file, md5), encoding="latin1") for file, md5 in files.items()]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return torch.from_numpy(images), torch.tensor([label for batch in batches for label in batch["labels"]])


def _load_svhn(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Street View House Numbers, cropped digits (3, 32, 32): {train,test}_32x32.mat under `root`/svhn."""
    from scipy.io import loadmat

    original, place, part = _of_torchvision("SVHN"), root / "svhn", "train" if train else "test"
    _, name, md5 = original.split_list[part]
    missing = f"no SVHN in {place} (train_32x32.mat, test_32x32.mat), and the download failed"
    with _reading(root, [place / name], missing, lambda: original(place, part, download=True)):
        content = loadmat(io.BytesIO(_original(place / name, md5)))
    images, labels = torch.from_numpy(content["X"]).permute(3, 2, 0, 1), torch.from_numpy(content["y"])
    return images.contiguous(), labels.flatten().to(torch.int64) % CLASSES  # zeros are labelled 10


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
