"""How exactly the device computes, the same for every run of a script."""

import os

import torch

REPEATABLE = "the same numbers every time on a GPU too, where the fastest kernels may differ; slower"
"""What `--deterministic` is good for."""


def be_deterministic(wanted: bool) -> None:
    """Let every operation give the same numbers every time, or raise RuntimeError where it cannot; or let it be.

    On a CPU everything does anyway. To be called before the first product on a GPU.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = False  # which tries kernels, and takes the one that was fastest this time
