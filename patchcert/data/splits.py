"""Which images of a data set: its halves, and few of it that stand for all."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchcert.data.dataset import Dataset
from patchcert.data.folders import Images
from patchcert.errors import UsageError

SHIPPED_SPLIT = Path(__file__).parent / "permutation_10000.txt"


def spread(dataset: Images, most: int | None) -> Images:
    """At most so many images, evenly spaced, so that all classes remain where they come one after the other."""
    count = min(most or len(dataset), len(dataset))
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
        order = fixed_permutation(len(dataset))
    validation = order[: len(dataset) // 2] if len(order) == len(dataset) else order
    rest = torch.ones(len(dataset), dtype=torch.bool)
    rest[validation] = False
    half = rest.nonzero().squeeze(1) if test else validation.sort().values
    return dataset.take(half)


def fixed_permutation(count: int) -> Tensor:
    """The same for ever: NumPy keeps this legacy stream frozen."""
    return torch.from_numpy(np.random.RandomState(0).permutation(count))


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
