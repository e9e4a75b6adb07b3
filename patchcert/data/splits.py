"""Which images of a data set: its halves, and few of it that stand for all."""

from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from patchcert import inputs, tensor_files
from patchcert.data.dataset import Dataset
from patchcert.data.folders import Images
from patchcert.errors import UsageError

SHIPPED_SPLIT = Path(__file__).parent / "permutation_10000.txt"

MOST_OF_INDEX = 30
"""Characters that an index takes in a text file."""


def spread(dataset: Images, most: int | None) -> Images:
    """At most so many images, evenly spaced, so that all classes remain where they come one after the other."""
    count = min(most or len(dataset), len(dataset))
    return dataset.take(torch.arange(count) * len(dataset) // count)


def hold_out(dataset: Images, count: int) -> tuple[Images, Images]:
    """The images but for `count` of them, which are evenly spaced, and these."""
    held = torch.zeros(len(dataset), dtype=torch.bool)
    held[torch.arange(count) * len(dataset) // max(count, 1)] = True
    return dataset.take((~held).nonzero().squeeze(1)), dataset.take(held.nonzero().squeeze(1))


class Divided(Protocol):
    """N images, or what is known of them: `labels` (N,), and parts."""

    labels: Tensor

    def take(self, chosen: Tensor | slice) -> Self: ...


Part = TypeVar("Part", bound=Divided)


def first(images: Part, most: int | None, per_class: int | None = None) -> Part:
    """At most so many images, or so many of each class: the first ones, in their order."""
    if per_class is not None:
        return images.take((places_in_class(images.labels) < per_class).nonzero().squeeze(1))
    return images.take(slice(most))


def places_in_class(labels: Tensor) -> Tensor:
    """(N,) int64: how many of the images before each one have its label."""
    sizes = labels.bincount()
    order = labels.argsort(stable=True)
    starts = sizes.cumsum(0) - sizes
    return torch.empty_like(labels).scatter(0, order, torch.arange(len(labels)) - starts[labels[order]])


def choose_half(dataset: Dataset, test: bool, split_file: Path | None = None) -> Dataset:
    """The validation half of a test set, or with `test` the other half, on which only final numbers are taken.

    The halves are those of a fixed permutation: the one that ships with the project for 10,000 images, a
    frozen random one for other sizes. `split_file` holds another permutation, or the validation half alone.

    Raises:
        UsageError: `split_file` does not hold indices of this data set.
    """
    validation = _validation_half(len(dataset), split_file)
    half = in_test_half(len(dataset), split_file).nonzero().squeeze(1) if test else validation.sort().values
    return dataset.take(half)


def in_test_half(count: int, split_file: Path | None = None) -> Tensor:
    """(N,) bool: which of all N = `count` images the test half has; see `choose_half`."""
    return torch.ones(count, dtype=torch.bool).index_fill(0, _validation_half(count, split_file), False)


def _validation_half(count: int, split_file: Path | None) -> Tensor:
    if split_file is not None:
        order = read_indices(split_file, count)
    elif count == 10_000:
        order = read_indices(SHIPPED_SPLIT, count)
    else:
        order = fixed_permutation(count)
    return order[: count // 2] if len(order) == count else order


def fixed_permutation(count: int) -> Tensor:
    """The same for ever: NumPy keeps this legacy stream frozen."""
    return torch.from_numpy(np.random.RandomState(0).permutation(count))


def read_indices(path: Path, count: int) -> Tensor:
    """Distinct indices below `count`, (n,) int64, from a saved tensor or a text file.

    Raises:
        UsageError: the file holds something else.
    """
    try:
        indices = _indices(path, MOST_OF_INDEX * (count + 1)).double()
    except ValueError as error:
        right = f"expected a saved index tensor or a text file of indices: {error}"
        raise UsageError("split_file", path, right) from error
    in_range = (indices >= 0) & (indices < count) & (indices == indices.round())
    if indices.dim() != 1 or not len(indices) or not in_range.all() or len(indices.unique()) < len(indices):
        raise UsageError("split_file", path, f"expected distinct whole numbers from 0 to {count - 1}")
    return indices.to(torch.int64)


def _indices(path: Path, most: int) -> Tensor:
    """What a saved tensor or a text file of at most so many bytes holds."""
    with inputs.opened(path) as file:
        saved = file.read(len(tensor_files.ZIP)) == tensor_files.ZIP
    if not saved:
        return torch.tensor([float(word) for word in inputs.content(path, most).split()], dtype=torch.double)
    found = tensor_files.load(path)
    if not isinstance(found, Tensor) or found.is_complex():
        raise inputs.InputError("it holds something else")
    return found
