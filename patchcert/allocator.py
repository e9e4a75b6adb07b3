"""What the C library does with memory that tensors give back."""

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""What glibc's malloc.h calls M_TRIM_THRESHOLD and M_MMAP_MAX."""


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors give back, for the tensors that come next.

    By default glibc returns each large block to the kernel when it is freed. The kernel then has to find and clear
    every page of the next block: in a training step with interval bounds that took a third of the time. The process
    still holds no more than its peak, but it holds that until it ends. Where the C library has no `mallopt` (macOS,
    musl), nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)  # large blocks come from the heap, too
        mallopt(TRIM_THRESHOLD, -1)  # the heap never shrinks
