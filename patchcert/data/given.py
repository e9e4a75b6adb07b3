"""Images and labels that a caller hands over: as a data set, or to be looked at at once."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from patchcert.arithmetic import require_nearest
from patchcert.data.dataset import Dataset, FloatDataset, require_pixels

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64)


def given(
    images: Tensor | ArrayLike, labels: Tensor | ArrayLike | None, size: tuple[int, int] | None = None
) -> Dataset:
    """Images (N, C, H, W), uint8 or floats in [0, 1], with their labels (N,), where they lie; without labels 0 for all.

    Args:
        size: H and W, if only these will do.

    Raises:
        ValueError: they are something else; a pixel is no number, or none between these bounds.
    """
    images = _images(images, size).detach()
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device) if labels is None else _labels(labels)
    if labels.shape != images.shape[:1]:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"labels are {found}, expected whole numbers ({len(images)},), a class for each image")
    kind = Dataset if images.dtype == torch.uint8 else FloatDataset
    return kind(images.to(kind.DTYPE), labels, torch.arange(len(images)))


def pixels(images: Tensor | ArrayLike, size: tuple[int, int]) -> Tensor:
    """What a classifier is to answer about: the same images as float32 (N, C, H, W) in [0, 1], with their gradient.

    Float32 itself is handed on as it is.

    Raises:
        ValueError: as `given` does.
        FloatingPointError: the processor does not round to nearest, and would answer otherwise than certificates say.
    """
    require_nearest()
    images = _images(images, size)
    if images.dtype == torch.uint8:
        return images / 255
    images = images.float()
    require_pixels(images)
    return images


def require_classes(labels: Tensor, classes: int) -> None:
    """Raise ValueError unless all `labels` (N,) are from 0 to `classes` − 1."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise ValueError(f"labels go from {lowest} to {highest}, expected 0 to {classes - 1}, the network's classes")


def _images(images: Tensor | ArrayLike, size: tuple[int, int] | None) -> Tensor:
    """(N, C, H, W), uint8 or floats of any kind."""
    sides = ", ".join(map(str, size or ("H", "W")))
    images = _tensor(images, "images", f"a tensor or array (N, C, {sides}); torch.cat joins the batches of a loader")
    if images.dim() != 4 or not images.numel() or tuple(images.shape[2:]) != (size or images.shape[2:]):
        raise ValueError(f"images are {tuple(images.shape)}, expected (N, C, {sides}), channels first")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}, expected floats in [0, 1], or uint8 up to 255")
    return images


def _labels(labels: Tensor | ArrayLike) -> Tensor:
    """Any shape but (N, 1), which becomes (N,), int64; a copy, since results keep them."""
    labels = _tensor(labels, "labels", "a tensor or array of whole numbers (N,), a class for each image, or None")
    if labels.dtype not in INTEGERS:
        raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}, expected whole numbers (N,)")
    columns = labels.shape[1:] == (1,)  # as MedMNIST has them; held against predictions (N,) they would make (N, N)
    return (labels[:, 0] if columns else labels).detach().to(torch.int64, copy=True)


def _tensor(array: Tensor | ArrayLike, name: str, expected: str) -> Tensor:
    """The tensor that was handed over, or one of the same numbers."""
    if isinstance(array, Tensor):
        if array.layout is not torch.strided or array.is_meta or array.is_quantized:
            raise ValueError(f"{name} are sparse, quantised or without values, expected {expected}")
        return array
    found = f"a {type(array).__name__}"
    if isinstance(array, (list, tuple)) or hasattr(array, "__array__"):
        try:
            numbers = np.asarray(array)
            if numbers.dtype == object:  # as tables have whole numbers
                numbers = np.array(numbers.tolist())
            found = f"{found} of {numbers.dtype} {numbers.shape}"
            native = numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
            return torch.from_numpy(np.require(native, requirements=["C", "W"]))
        except (TypeError, ValueError, RuntimeError):  # of texts, of parts that have different sizes, …
            pass
    raise ValueError(f"{name} are {found}, expected {expected}")
