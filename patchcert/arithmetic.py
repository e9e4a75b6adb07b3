"""How exactly the device computes, the same for every run of a script."""

import os

import torch

REPEATABLE = "the same numbers every time on a GPU too, where the fastest kernels may differ; slower"
"""What `--deterministic` is good for."""


def be_deterministic(wanted: bool, device: torch.device) -> None:
    """Let every operation give the same numbers every time, or raise RuntimeError where it cannot; or let it be.

    On a CPU it is always so: there gradients of indexing are the only ones that threads would add up in any order. To
    be called before the first product on a GPU.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(wanted or device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False  # which tries kernels, and takes the one that was fastest this time
