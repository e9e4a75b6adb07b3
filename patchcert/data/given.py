"""Images and labels that a caller hands over, as a data set."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from patchcert.data.dataset import Dataset, FloatDataset

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def given(images: Tensor | ArrayLike, labels: Tensor | ArrayLike, size: tuple[int, int] | None = None) -> Dataset:
    """Images (N, C, H, W), uint8 or floats in [0, 1], with their labels (N,), where they lie.

    Args:
        size: H and W, if only these will do.

    Raises:
        ValueError: they are something else; a pixel is no number, or none between these bounds.
    """
    images, labels = _tensor(images), _tensor(labels)
    sides = ", ".join(map(str, size or ("H", "W")))
    if images.dim() != 4 or not images.numel() or tuple(images.shape[2:]) != (size or images.shape[2:]):
        raise ValueError(f"images are {tuple(images.shape)}, expected (N, C, {sides}), channels first")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}, expected floats in [0, 1], or uint8 up to 255")
    if labels.dtype not in INTEGERS or labels.shape != images.shape[:1]:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"labels are {found}, expected whole numbers ({len(images)},), a class for each image")
    kind = Dataset if images.dtype == torch.uint8 else FloatDataset
    return kind(images.to(kind.DTYPE), labels.to(torch.int64), torch.arange(len(images)))


def require_classes(labels: Tensor, classes: int) -> None:
    """Raise ValueError unless all `labels` (N,) are from 0 to `classes` − 1."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise ValueError(f"labels go from {lowest} to {highest}, expected 0 to {classes - 1}, the network's classes")


def _tensor(array: Tensor | ArrayLike) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach()
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
