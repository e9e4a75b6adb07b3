"""How exactly the device computes, with which instructions, and how much of a lead rounding may change.

PyTorch has old and new names for how products of float32 are rounded. The old ones, such as `allow_tf32`, raise an
error when they are asked after a new one was set. So only the new ones, `fp32_precision`, are asked here.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REPEATABLE = "give exactly the same numbers in each run, also on a GPU; this is slower"
"""What `--deterministic` is good for."""

NUMERICAL_MARGINS = {"float32": 1e-3, "tf32": 0.1, "bfloat16": 1.0}
"""ν by arithmetic: at least six times as much as leads differed between executions, see docs/threat-model.md."""

RELATIVE_MARGINS = {"float32": 2.0**-18, "tf32": 2.0**-10, "bfloat16": 2.0**-7}
"""By arithmetic, as `NUMERICAL_MARGINS`: by which share of the magnitudes that were added up rounding may change a
lead. `masking.margins` says why."""

ROUNDING = {"float32": 2**-15, "tf32": 2**-7, "bfloat16": 2**-5}
"""By which share of the largest logit, plus 1, rounding in another order may change a logit; more is no rounding.

These are 256, 8 and 4 units in the last place."""


FLOAT32 = torch.finfo(torch.float32).eps / 2
"""u, the largest relative error of one rounding to nearest."""

ELEMENTS_OF_A_THREAD = 2**16
"""PyTorch shares sums of this many numbers for each thread among all of its threads."""


def require_nearest() -> None:
    """Raise FloatingPointError unless sums in float32 are rounded to nearest, here and in PyTorch's other threads.

    Numerical margins were measured for this mode alone, and bounds were derived for it. Each thread has a mode of its
    own. So the sums are large enough for PyTorch to share them among all threads.
    """
    ones = torch.ones(ELEMENTS_OF_A_THREAD * torch.get_num_threads(), dtype=torch.float32, device="cpu")
    little = FLOAT32 / 2  # the nearest number to 1 ± little is 1, or 1 is one of two and the even one
    if not all(bool((signed + change == signed).all()) for signed in (ones, -ones) for change in (little, -little)):
        right = "something that this program imported has changed the processor's mode"
        raise FloatingPointError(f"numbers are not rounded to nearest, so nothing can be certified: {right}")


def coarser(*names: str) -> str:
    """The coarsest of these arithmetics, by the `NUMERICAL_MARGINS`."""
    return max(names, key=NUMERICAL_MARGINS.__getitem__)


def settings() -> tuple:
    """All by which PyTorch is told how exactly to compute."""
    of, devices = torch.backends, ("cpu", "cuda")
    operations = (of.cudnn.conv, of.cudnn.rnn, of.cuda.matmul, of.mkldnn.conv, of.mkldnn.rnn, of.mkldnn.matmul)
    autocast = ((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices)
    return *autocast, *(operation.fp32_precision for operation in operations), torch.get_default_dtype()


FEATURES = {"AMX": ("amx_tile",), "VNNI": ("avx512_vnni", "avx_vnni"), "bfloat16": ("avx512_bf16", "bf16")}
"""What decides which kernels run, besides the length of vectors, by the names of `torch.cpu.get_capabilities`."""


def processor(device: torch.device) -> str:
    """What computes on `device`: the GPU's name, or which instructions PyTorch takes on this CPU: AVX512 + VNNI."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    vectors, features = torch.backends.cpu.get_cpu_capability(), _features()
    return f"{vectors}, AMX and VNNI unknown" if features is None else " + ".join([vectors, *features])


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether `device` is a CPU that is known to have no instructions for bfloat16: float32 is faster there."""
    features = _features() if device.type == "cpu" else None
    return features is not None and not {"AMX", "bfloat16"} & set(features)


def _features() -> list[str] | None:
    """Which of the `FEATURES` this CPU has; None where PyTorch does not say."""
    try:
        has = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):  # another PyTorch, or a processor that it does not know
        return None
    return [name for name, keys in FEATURES.items() if any(map(has.get, keys))]


def coarsest(device: torch.device) -> str:
    """That of `NUMERICAL_MARGINS` to which operations of float32 on `device` may now be rounded.

    Recurrent layers on a GPU do not count. They round to TF32 until somebody forbids it, as `allow_tf32` does.
    """
    of = torch.backends
    gpu, cpu = (of.cudnn.conv, of.cuda.matmul), (of.mkldnn.conv, of.mkldnn.rnn, of.mkldnn.matmul)
    precisions = {operation.fp32_precision for operation in (gpu if device.type == "cuda" else cpu)}
    if torch.is_autocast_enabled(device.type) or "bf16" in precisions:
        return "bfloat16"
    return "tf32" if "tf32" in precisions else "float32"


PRECISIONS = (
    ("generic", "all"),
    ("cuda", "all"),
    ("cuda", "matmul"),
    ("cuda", "conv"),
    ("cuda", "rnn"),
    ("mkldnn", "all"),
    ("mkldnn", "matmul"),
    ("mkldnn", "conv"),
    ("mkldnn", "rnn"),
)
"""Whose `fp32_precision` decides how operations round. What is not set follows what stands above it."""


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products inside are computed in full float32: no autocast, nor TF32, which GPUs' convolutions take by default.

    What is still not exact when all above it are has a setting of its own, so that what is read is what was set. All
    others are left to follow: there is no way to set them back to that. This asks torch._C, since setting
    `torch.backends.mkldnn.fp32_precision` sets that of everything.
    """
    of = torch._C
    with ExitStack() as inside:
        for where in PRECISIONS:
            precision = of._get_fp32_precision_getter(*where)
            if precision != "ieee":
                inside.callback(of._set_fp32_precision_setter, *where, precision)
                of._set_fp32_precision_setter(*where, "ieee")
        for kind in ["cpu"] + ["cuda"] * torch.cuda.is_available():
            inside.enter_context(torch.autocast(kind, enabled=False))
        yield


def without_autocast(layer: Callable[[Tensor], Tensor], weight: Tensor, given: Tensor) -> Tensor:
    """What a layer says of what it is given, computed as exactly as its weight is kept, mostly in float32."""
    with torch.autocast(given.device.type, enabled=False):
        return layer(given.to(weight.dtype))


def allow_tf32(allowed: bool) -> None:
    """Whether products, convolutions and recurrent layers of float32 on a GPU may be rounded to TF32.

    The old names are set, which set the new ones, too, so that asking either works. But "no" by the old name leaves
    convolutions and recurrent layers to follow what is set for everything.
    """
    of = torch.backends
    of.cuda.matmul.allow_tf32 = of.cudnn.allow_tf32 = allowed
    of.cudnn.conv.fp32_precision = of.cudnn.rnn.fp32_precision = "tf32" if allowed else "ieee"


class Halves(TorchDispatchMode):
    """While it is entered, notices numbers of fewer bits than float32 that operations give: `seen` are some.

    Behind a cast, or with an autocast of its own, a network computes with them whatever PyTorch is set to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    @property
    def arithmetic(self) -> str:
        """The coarsest that was seen, by its name in `NUMERICAL_MARGINS`."""
        return "bfloat16" if self.seen else "float32"

    def __torch_dispatch__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.seen |= any(tensor.itemsize < 4 for tensor in _floats_in(result))
        return result


JUMPING = {"round", "floor", "ceil", "trunc", "sign", "sgn", "heaviside", "bucketize", "argmax", "argmin"}
"""Operations that make a whole step of a difference in last digits; so do all with quantize in their names."""

COMPARING = {"gt", "ge", "lt", "le", "eq", "ne"}
"""These do so, too, if numbers are made of their results."""


class Levels(Halves):
    """It also notices whether operations give `levels`: the `JUMPING` and the `COMPARING` ones.

    To be entered for a few questions: it keeps what comparisons gave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.levels = False
        self.truths: dict[int, Tensor] = {}  # that follow from comparisons, by their id()

    def __torch_dispatch__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = super().__torch_dispatch__(function, types, args, kwargs)
        name, floats = _name_of(function), next(_floats_in(args), None) is not None
        if name in JUMPING or "quantize" in name:
            self.levels |= floats
        elif (name in COMPARING and floats) or any(id(tensor) in self.truths for tensor in _tensors_in(args)):
            found = list(_tensors_in(result))
            self.truths |= {id(tensor): tensor for tensor in found if tensor.dtype == torch.bool}
            self.levels |= any(tensor.dtype != torch.bool for tensor in found)
        return result


SUMMING = {"convolution", "mkldnn_convolution", "cudnn_convolution", "linear", "mm", "addmm", "bmm", "baddbmm", "mv"}
SUMMING |= {"addmv", "dot", "mean", "sum", "avg_pool2d", "_adaptive_avg_pool2d", "native_layer_norm"}
"""Operations that add up, and round otherwise in another order."""


class ShakenSums(TorchDispatchMode):
    """While it is entered, changes what the `SUMMING` operations give at random, by up to a `share` of it.

    With the same `seed`, the same operations are changed in the same directions.
    """

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        self.share, self.generator = share, torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if _name_of(function) not in SUMMING:
            return result
        if isinstance(result, tuple):  # behind it there are statistics
            return self._shaken(result[0]), *result[1:]
        return self._shaken(result)

    def _shaken(self, sums: Tensor) -> Tensor:
        if not sums.is_floating_point():
            return sums
        direction = 2 * torch.rand(sums.shape, generator=self.generator) - 1
        return sums * (1 + self.share * direction.to(sums))


def _name_of(function: Callable) -> str:
    """What an operation is called, whatever variant of it."""
    return function.name().rpartition("::")[2].partition(".")[0].rstrip("_")


def _tensors_in(values: object) -> Iterator[Tensor]:
    """Yield the tensors among what an operation takes or gives."""
    yield from (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _floats_in(values: object) -> Iterator[Tensor]:
    """Yield those of floating point."""
    yield from (tensor for tensor in _tensors_in(values) if tensor.is_floating_point())


def require_as_set(seen: str, device: torch.device) -> None:
    """Raise ValueError if a network was `seen` to compute in a coarser arithmetic than PyTorch is set to.

    Of hidden windows few logits are compared, and coarse ones are often equal.
    """
    if coarser(seen, coarsest(device)) != coarsest(device):
        right = "the network computes in bfloat16 or float16 by itself, expected float32"
        raise ValueError(f"{right}: in these, nearly equal logits would tie")


def be_deterministic(wanted: bool, device: torch.device) -> None:
    """Let every operation give the same numbers every time, or raise RuntimeError where it cannot; or let it be.

    On a CPU it is always so: there gradients of indexing are the only ones that threads would add up in any order. To
    be called before the first product on a GPU.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    deterministic = wanted or device.type == "cpu"
    if deterministic:
        os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")  # torch's compiler reads it when it is loaded
    # not use_deterministic_algorithms(), which loads the compiler: that takes as long as all else that loads
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False  # which tries kernels, and takes the one that was fastest this time
