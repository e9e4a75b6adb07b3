#!/bin/bash
# torch 2.15.0: if an fp32_precision is read and written back, it is another setting afterwards. A fresh process says
# "tf32" for cuDNN's convolutions, and torch.backends.fp32_precision = "ieee", exact float32 for everything, makes it
# "ieee". Code may save a setting, change it and restore it. Once the same "tf32" was written back in this way, the same
# line leaves it at "tf32": the inherited value has become an explicit one. If you then ask for exact float32, you get
# TF32 on GPUs that have it, and nothing that you can read distinguishes the two states. No GPU is needed to see the
# settings.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torch==2.15.0 numpy==2.4.6
cat > "$folder/ask.py" <<'PYTHON'
import sys

import torch
from torch import backends

before = backends.cudnn.conv.fp32_precision
if sys.argv[1] == "written back":
    backends.cudnn.conv.fp32_precision = before
read = backends.cudnn.conv.fp32_precision
backends.fp32_precision = "ieee"
after = backends.cudnn.conv.fp32_precision
expected = {"untouched": "ieee", "written back": "tf32"}[sys.argv[1]]
print(f"torch {torch.__version__}, cuDNN's convolutions, {sys.argv[1]}: {read}; everything set to ieee: {after}")
if not (before == read == "tf32" and after == expected):
    sys.exit("the behaviour has changed")
PYTHON
"$folder/venv/bin/python" "$folder/ask.py" "untouched"
"$folder/venv/bin/python" "$folder/ask.py" "written back"
