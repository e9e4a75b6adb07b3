"""What the C library does with memory that tensors give back."""

import ctypes
import os
from pathlib import Path

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""What glibc's malloc.h calls M_TRIM_THRESHOLD and M_MMAP_MAX."""

AS_MUCH_AGAIN = 1.5
"""A process may hold so many times what it held after one piece of work."""

STATM = Path("/proc/self/statm")
"""Where Linux says how much memory this process holds."""

_keeps = False
_after_one: int | None = None


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors give back, for the tensors that come next.

    By default glibc returns each large block to the kernel when it is freed. The kernel then has to find and clear
    every page of the next block: in a training step with interval bounds that took a third of the time. Where the C
    library has no `mallopt` (macOS, musl), or nothing says how much a process holds, nothing changes.
    """
    global _keeps
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and STATM.exists():
        mallopt(MMAP_MAX, 0)  # large blocks come from the heap, too
        mallopt(TRIM_THRESHOLD, -1)  # the heap never shrinks by itself
        _keeps = True


def return_gaps() -> None:
    """After each piece of work, a training step or a batch: return freed memory if this process holds too much of it.

    Between blocks that are in use, freed ones leave gaps, and a block of another size may not fit into any of them. So
    a process that keeps what is freed would hold more and more: in a training with interval bounds, whose steps need
    2 GB, it was 10 GB after half an hour. This returns all whole pages of the gaps, and the next piece of work takes
    what it needs.
    """
    global _after_one
    if not _keeps:
        return
    held = int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if _after_one is None:
        _after_one = held
    elif held > AS_MUCH_AGAIN * _after_one:
        ctypes.CDLL(None).malloc_trim(0)
        _after_one = None
