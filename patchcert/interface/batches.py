"""Images that a caller hands over: all at once, or batch by batch from a loader, which is read once."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple, TypeGuard, cast

from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import DataLoader

from patchcert import checkpoint, distributed
from patchcert.data.dataset import Dataset
from patchcert.data.given import given
from patchcert.errors import UsageError

Images = Tensor | ArrayLike | Iterable[object]
"""(N, C, H, W), or batches of these, each alone or as (images, labels)."""

BATCHES = "batches of images (N, C, H, W), or of (images, labels)"


class Part(NamedTuple):
    """Some of the images, checked; without labels these are 0.

    `expected` is how many images there are in all, or a few less or more; None if nobody knows.
    """

    dataset: Dataset
    labelled: bool
    expected: int | None


def parts_of(images: Images, labels: Tensor | ArrayLike | None, size: tuple[int, int]) -> Iterator[Part]:
    """Yield what was handed over: all images at once, or batch by batch.

    Args:
        size: H and W, the only ones that will do.

    Raises:
        ValueError: images or labels are none; of batches it says which one.
    """
    if not _are_batches(images):
        dataset = given(cast(ArrayLike, images), labels, size)
        distributed.require_images(len(dataset))
        yield Part(dataset, labels is not None, len(dataset))
        return
    if labels is not None:
        raise UsageError(
            "labels", f"a {type(labels).__name__}", f"expected None beside {BATCHES}, which bring their own"
        )
    count, expected, labelled = 0, None, False
    for number, batch in enumerate(images, start=1):
        try:
            dataset, own = _of_batch(batch, size)
        except ValueError as error:
            raise ValueError(f"batch {number} of images: {error}") from error
        if not count:
            expected, labelled = _expected(images, len(dataset)), own
        if own != labelled:
            raise ValueError(f"batch {number} of images: expected labels in all batches, or in none")
        count += len(dataset)
        yield Part(dataset, labelled, expected)
    if not count:
        raise UsageError("images", f"a {type(images).__name__} of nothing", f"expected {BATCHES}")


class Same:
    """Tells whether all processes have the same classifier, and were handed the same images and labels."""

    def __init__(self, classifier: nn.Module):
        self.digests: list[str] = []
        self.note(*classifier.parameters(), *classifier.buffers())

    def note(self, *tensors: Tensor) -> None:
        """Take these in, of this process; of one process alone nothing has to be known."""
        if distributed.world() > 1:
            self.digests.append(checkpoint.fingerprint(tensors))

    def require(self) -> None:
        """Raise ValueError, in every process, if something that was noted differs between them."""
        if not self.digests:
            return
        networks, *images = map(set, zip_longest(*distributed.from_first(distributed.to_first(self.digests))))
        right = "expected the same {} in all processes, which share the images out"
        if len(networks) > 1:
            raise UsageError("classifier", "of each process", right.format("weights"))
        if any(len(digests) > 1 for digests in images):
            raise UsageError("images", "of each process", right.format("images"))


def _are_batches(images: object) -> TypeGuard[Iterable[object]]:
    """Whether they are batches, and not numbers: of a list the first entry says so."""
    if isinstance(images, (Tensor, tuple, str, bytes, Mapping)) or hasattr(images, "__array__"):
        return False
    if not isinstance(images, list):
        return isinstance(images, Iterable)
    first = images[0] if images else None
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    return getattr(first, "ndim", 0) == 4


def _expected(batches: Iterable[object], size: int) -> int | None:
    """How many images there are if all batches are of one `size`; the last one may be smaller, as a loader knows."""
    try:
        most = len(batches) * size  # type: ignore[arg-type]
        return min(most, len(batches.sampler)) if isinstance(batches, DataLoader) else most  # type: ignore[arg-type]
    except TypeError:  # a loader of a stream has a method for it, too
        return None


def _of_batch(batch: Any, size: tuple[int, int]) -> tuple[Dataset, bool]:
    """One batch, checked, and whether it has labels; ValueError if it is none."""
    if not isinstance(batch, (list, tuple)):
        batch = (batch,)
    if len(batch) not in (1, 2) or isinstance(batch[0], Mapping):
        found = f"{len(batch)} entries" if len(batch) != 1 else f"a {type(batch[0]).__name__}"
        raise ValueError(f"it has {found}, expected images, or (images, labels)")
    labels = batch[1] if len(batch) == 2 else None
    return given(batch[0], labels, size), labels is not None
