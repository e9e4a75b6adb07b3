"""How exactly the device computes, and what of a lead rounding may change."""

import os

import torch

REPEATABLE = "the same numbers every time on a GPU too, where the fastest kernels may differ; slower"
"""What `--deterministic` is good for."""

NUMERICAL_MARGINS = {"float32": 1e-3, "tf32": 0.1, "bfloat16": 1.0}
"""ν by arithmetic: at least six times as much as leads differed between executions, see docs/threat-model.md."""


def coarsest(device: torch.device) -> str:
    """That of `NUMERICAL_MARGINS` which products and convolutions of float32 on `device` may now be rounded to."""
    of = torch.backends
    computing = (of.cudnn.conv, of.cuda.matmul) if device.type == "cuda" else (of.mkldnn.conv, of.mkldnn.matmul)
    precisions = {operation.fp32_precision for operation in computing}
    if torch.is_autocast_enabled(device.type) or "bf16" in precisions:
        return "bfloat16"
    return "tf32" if "tf32" in precisions else "float32"


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
