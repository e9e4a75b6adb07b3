"""Files that later questions are answered from: arrays, and in JSON what they are. Reading executes no code."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from patchcert import distributed, inputs
from patchcert.errors import UsageError
from patchcert.files import write_atomically
from patchcert.inputs import InputError

MOST_SAID, MOST_CLASSES, MOST_IMAGES = 1 << 20, 100_000, 10**9
"""Characters in which a file says what it is, and what it may say."""

CONFIG = {"dataset": str, "data": (str, NoneType), "test": (bool, NoneType), "all": (bool, NoneType)}
CONFIG |= {"split_file": (str, NoneType), "skip": (int, NoneType), "limit": (int, NoneType)}
CONFIG |= {"per_class": (int, NoneType)}
"""What of the options is shown of a run; older versions and other data sets leave out some."""

Saved = TypeVar("Saved")


@dataclass(frozen=True)
class Ragged:
    """So many entries of each of N images; the first field counts them, (N, …) int64, all others are (E,) each."""

    @property
    def per_image(self) -> Tensor:
        """(N,) int64: how many entries each image has."""
        return next(iter(vars(self).values()))[..., None].flatten(1).sum(dim=1)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def ordered(self, numbers: Tensor) -> Self:
        """The images in the order of their `numbers` (N,)."""
        order = numbers.repeat_interleave(self.per_image).argsort(stable=True)
        return self._of(numbers.argsort(), order)

    def take(self, chosen: slice | Tensor) -> Self:
        """Those of some images, in their order here."""
        taken = torch.zeros(len(self.per_image), dtype=torch.bool)
        taken[chosen] = True
        return self._of(taken, taken.repeat_interleave(self.per_image))

    def gathered(self) -> Self | None:
        """Those of all processes, each of which has its `distributed.share`, in order; only the first one gets them."""
        parts = distributed.to_first(self)
        if not distributed.is_first():
            return None
        numbers = [rank + len(parts) * torch.arange(len(part.per_image)) for rank, part in enumerate(parts)]
        return type(self).concatenate(parts).ordered(torch.cat(numbers))

    def _of(self, images: Tensor, entries: Tensor) -> Self:
        counts, *values = vars(self).values()
        return type(self)(counts[images], *(value[entries] for value in values))


def write(path: Path, about: dict, arrays: dict[str, Tensor]) -> None:
    """Write arrays, and what they are."""
    content = {name: tensor.numpy() for name, tensor in arrays.items()}
    write_atomically(path, lambda file: np.savez_compressed(file, about=json.dumps(about), **content))


def read(path: Path, kinds: dict[str, Callable[[dict, dict[str, Tensor]], Saved]]) -> Saved:
    """What a file holds that --save_votes wrote.

    Args:
        kinds: by what a file says that it holds, how this is made of what it says of itself and of its arrays.

    Raises:
        UsageError: the file is missing or holds something else.
    """
    if not os.path.lexists(path):
        raise UsageError("votes", path, "no such file")
    try:
        about, arrays = _content(path)
        kind = about.get("kind", "votes")  # which older versions do not say
        if kind not in kinds:
            raise InputError(f"it holds {str(kind)[:40]}, expected {' or '.join(kinds)}")
        return kinds[kind](about, arrays)
    except Exception as error:  # zip, zlib, NumPy and JSON each have their own for a damaged file
        reason = f": {error}" if isinstance(error, InputError) else ""
        right = f"not a complete file of votes as --save_votes writes it{reason}"
        raise UsageError("votes", path, right) from error


def _content(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """What the file says of itself, and its arrays."""
    with inputs.opened(path) as file:
        inputs.entries(file)
        file.seek(0)
        with np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
    text = str(arrays.pop("about"))
    about = json.loads(text) if len(text) <= MOST_SAID else None
    if not isinstance(about, dict):
        raise InputError("its description of itself cannot be understood")
    return about, {name: torch.from_numpy(array) for name, array in arrays.items()}


def require_config(config: object) -> None:
    """Raise InputError unless these are options of a run, with those that are shown of it."""
    if not isinstance(config, dict) or not all(isinstance(config.get(name), kind) for name, kind in CONFIG.items()):
        raise InputError("some options of the run that wrote it are missing")


def require_images(labels: Tensor, indices: Tensor, class_count: int) -> None:
    """Raise InputError unless these are labels and places of some images."""
    count = len(labels)
    require_array("labels", labels, torch.int64, (count,), 0, class_count - 1)
    require_array("indices", indices, torch.int64, (count,), 0, MOST_IMAGES)
    if len(indices.unique()) < count:
        raise InputError("some indices are there twice")


def require_array(name: str, array: Tensor, dtype: torch.dtype, shape: tuple, least: float, most: float) -> None:
    """Raise InputError unless `array` has this type and shape, and finite values from `least` to `most`."""
    if array.dtype != dtype or array.shape != shape or not array.numel():
        found = f"{array.dtype} {tuple(array.shape)}"
        raise InputError(f"{name} are {found}, expected {dtype} {shape}, of at least one image")
    wrong = array[~((array >= least) & (array <= most))]
    if len(wrong):
        raise InputError(f"{name} has {wrong[0]:g}, expected values from {least:g} to {most:g}")
