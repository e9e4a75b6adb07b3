#!/bin/bash
# torch 2.15.0: torch.backends.mkldnn.fp32_precision is for oneDNN, which computes on CPUs. But writing it also writes
# the setting for everything, torch.backends.fp32_precision. With "tf32" there, CUDA's matrix products, which were exact
# before, may also round to TF32. With "bf16", cuDNN's convolutions lose their "tf32". torch.backends.mkldnn.flags()
# with the same value changes oneDNN alone, as one expects. So margins for rounding that were derived for float32 are no
# longer valid. No GPU is needed to see the settings.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import torch
from torch import backends

warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")


def settings():
    return {
        "oneDNN": backends.mkldnn.fp32_precision,
        "everything": backends.fp32_precision,
        "CUDA's products": backends.cuda.matmul.fp32_precision,
        "cuDNN's convolutions": backends.cudnn.conv.fp32_precision,
    }


print(f"torch {torch.__version__}, fp32_precision")
before = settings()
print("  before:", before)
with backends.mkldnn.flags(enabled=True, fp32_precision="tf32"):
    inside = settings()
    print('  inside mkldnn.flags(fp32_precision="tf32"):', inside)
backends.mkldnn.fp32_precision = "tf32"
tf32 = settings()
print('  after mkldnn.fp32_precision = "tf32":', tf32)
backends.mkldnn.fp32_precision = "bf16"
bf16 = settings()
print('  after mkldnn.fp32_precision = "bf16":', bf16)
as_expected = inside == {**before, "oneDNN": "tf32"}
everything = tf32["everything"] == tf32["CUDA's products"] == "tf32" != before["CUDA's products"]
taken = before["cuDNN's convolutions"] == "tf32" and bf16["cuDNN's convolutions"] == "none"
if not (as_expected and everything and taken):
    sys.exit("the behaviour has changed")
PYTHON
