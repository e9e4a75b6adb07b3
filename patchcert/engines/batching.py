"""`--batch_size auto`: the number of ablated copies per call with which certifying is fastest within memory."""

import time
import weakref
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from patchcert.ablations.ablation import Ablation
from patchcert.data.folders import Images
from patchcert.engines.asking import Engine, softmax_chunks

SMALLEST, CALLS, REPETITIONS, REAL_IMAGES = 16, 2, 3, 64

GAIN = 0.95
"""A larger size is taken if it needs at most this share of the time per copy."""

LARGEST_SHARE = 1 / 32
"""Of all copies there are, the most that a size may take: trying sizes then costs half of certifying at the worst."""

CPU_BYTES, GPU_SHARE = 10**9, 0.5
"""What may be held at a time: on a GPU a share of what is free, for convolutions need working memory, too."""


def fastest_batch_size(
    engine: Engine, dataset: Images, ablation: Ablation, use: Callable[[Iterator[tuple[Tensor, Tensor]]], object]
) -> int:
    """Try sizes, each twice the last, on real images until memory runs short or two of them gain nothing.

    Args:
        dataset: the images of this process, on the engine's device.
        use: what becomes of each batch's chunks of probabilities; it may hold memory of its own.
    """
    device = dataset.labels.device
    budget = GPU_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else CPU_BYTES
    real = next(dataset.take(slice(REAL_IMAGES)).batches(REAL_IMAGES))[0]
    largest = max(SMALLEST, LARGEST_SHARE * len(dataset) * ablation.count)
    best, least, size = SMALLEST, float("inf"), SMALLEST
    while size <= min(4 * best, largest):
        images = real[torch.arange(min(size, len(dataset)), device=device) % len(real)]
        with LiveBytes() as memory:  # and what is done only once
            use(islice(softmax_chunks(engine, images, ablation, size), CALLS))
        seconds = min(_seconds_per_copy(engine, images, ablation, size) for _ in range(REPETITIONS))
        if seconds < GAIN * least:
            best, least = size, seconds
        if 2 * memory.most > budget:
            break
        size *= 2
    return best


def _seconds_per_copy(engine: Engine, images: Tensor, ablation: Ablation, size: int) -> float:
    """Wall clock of some calls, to the end of what they started on the device."""
    start, copies = time.perf_counter(), 0
    for indices, _ in islice(softmax_chunks(engine, images, ablation, size), CALLS):
        copies += len(images) * len(indices)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return (time.perf_counter() - start) / copies


class LiveBytes(TorchDispatchMode):
    """While it is entered, follows the memory of all tensors that operations make: `most` bytes at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self.storages:
                storage = tensor.untyped_storage()
                self.storages.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)
