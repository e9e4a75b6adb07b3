"""Batches of one size, so that a network computes each answer in the same way, however many are asked for.

In which order a processor adds up the terms of a product follows from the shapes of what it multiplies, and from the
number of threads. In batches of one size, an answer can depend on the batch only by the row in which its question
stands. `classifiers.probing` tries whether it does.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def copies_at_once(device: torch.device) -> int:
    """On CPUs few are as fast as many, and fewer of them are there only to fill the last batch."""
    return 16 if device.type == "cpu" else 256


def images_at_once(device: torch.device) -> int:
    """For networks that answer for all copies of an image in one pass."""
    return 1 if device.type == "cpu" else 16


def in_equal_batches(ask: Callable[[Tensor], Tensor], shown: Tensor, size: int) -> Tensor:
    """(B, …): the answers to `shown` (B, …), asked for in batches of `size`; the last one is filled up with its last.

    Args:
        ask: for the answers (size, …) to a tensor (size, …) of its own, into which it may write.
    """
    missing = -len(shown) % size
    filled = torch.cat([shown, shown[-1:].expand(missing, *shown.shape[1:])]) if missing else shown
    return torch.cat([ask(part.clone()) for part in filled.split(size)])[: len(shown)]
