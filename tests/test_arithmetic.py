"""Products are exact where they have to be, whatever names PyTorch was set by, and its settings are as before then."""

import pytest
import torch

from patchcert.arithmetic import PRECISIONS, allow_tf32, coarsest, exact_float32, settings

PRECISION = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
GPU = torch.device("cuda")


SETTINGS = {
    "nothing": lambda: None,
    "all exact": lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    "all in TF32": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "all in bfloat16": lambda: setattr(torch.backends, "fp32_precision", "bf16"),
    "GPUs exact": lambda: setattr(torch.backends.cudnn, "fp32_precision", "ieee"),
    "CPUs in bfloat16": lambda: torch.backends.mkldnn.set_flags(_fp32_precision="bf16"),
    "products of GPUs in TF32": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "recurrent layers of CPUs in bfloat16": lambda: setattr(torch.backends.mkldnn.rnn, "fp32_precision", "bf16"),
    "recurrent layers of GPUs exact": lambda: setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee"),
    "convolutions of CPUs in bfloat16": lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
    "by an old name": lambda: torch.set_float32_matmul_precision("medium"),
}


@pytest.fixture
def as_it_is_new():
    """PyTorch as it starts, but for cuDNN's operations on GPUs, which cannot be set back to that; in the end, too."""
    with_defaults()
    yield
    with_defaults()


def with_defaults():
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for backend, operation in PRECISIONS:
        of_cudnn = (backend, operation) in (("cuda", "conv"), ("cuda", "rnn"))
        PRECISION[1](backend, operation, "tf32" if of_cudnn else "none")


def asked(question):
    try:
        return question()
    except RuntimeError:  # which old names raise where they do not know
        return "no answer"


def answers():
    """What PyTorch says of its precisions, now, and with what else may be set for everything: who follows it, then."""
    found, everything = [], torch.backends.fp32_precision
    for precision in (everything, "ieee", "tf32", "bf16", "none"):
        torch.backends.fp32_precision = precision
        found += [PRECISION[0](*where) for where in PRECISIONS]
        found += [asked(lambda: torch.backends.cuda.matmul.allow_tf32), asked(lambda: torch.backends.cudnn.allow_tf32)]
        found.append(asked(torch.get_float32_matmul_precision))
    torch.backends.fp32_precision = everything
    return found


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.usefixtures("as_it_is_new")
def test_products_are_exact_inside_and_settings_are_as_before_after_it(setting, fails):
    SETTINGS[setting]()
    before = answers()
    try:
        with exact_float32():
            assert {PRECISION[0](*where) for where in PRECISIONS} == {"ieee"}
            with exact_float32():
                assert {coarsest(torch.device(kind)) for kind in ("cpu", "cuda")} == {"float32"}
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert answers() == before


@pytest.mark.usefixtures("as_it_is_new")
def test_tf32_is_allowed_or_not_whatever_is_set_for_everything():
    for everything in ("tf32", "ieee", "none"):
        for allowed, expected in ((True, "tf32"), (False, "float32")):
            torch.backends.fp32_precision = everything
            allow_tf32(allowed)
            assert coarsest(GPU) == expected
            torch.backends.fp32_precision = "none"
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed


@pytest.mark.usefixtures("as_it_is_new")
def test_recurrent_layers_count_like_convolutions():
    before = settings()
    assert coarsest(torch.device("cpu")) == "float32"
    torch.backends.mkldnn.rnn.fp32_precision = "bf16"
    assert coarsest(torch.device("cpu")) == "bfloat16"
    assert settings() != before


@pytest.mark.usefixtures("as_it_is_new")
def test_tf32_is_forbidden_in_recurrent_layers_of_gpus_too():
    for everything in ("tf32", "none"):
        torch.backends.fp32_precision = everything
        allow_tf32(False)
        assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
        torch.backends.fp32_precision = "none"
