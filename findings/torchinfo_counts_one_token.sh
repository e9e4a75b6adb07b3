#!/bin/bash
# torchinfo 1.8.0, torch 2.15.0, torchvision 0.29.2: the multiply-adds of torchinfo's summary count a linear layer once
# for each image, however many tokens it is applied to. For torchvision's ViT-B/16, whose 197 tokens go through every
# layer, it says 0.17 billion, where 17.6 billion are computed. A ResNet-50, for which it says 4.09 billion, thus looks
# 24 times as expensive as the vision transformer. It is 4 times cheaper. For a transposed convolution with stride 2 it
# counts four times too many. We had expected the numbers that torch's own counter gives, which are right for these
# layers.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torchinfo==1.8.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchinfo import summary
from torchvision.models import resnet50, vit_b_16

print(f"torchinfo {importlib.metadata.version('torchinfo')}, torch {torch.__version__}")
torch.set_num_threads(1)
ratios = []
cases = {
    "Linear(64, 32) on 10 tokens": (nn.Linear(64, 32), (1, 10, 64)),
    "vit_b_16": (vit_b_16(), (1, 3, 224, 224)),
    "resnet50": (resnet50(), (1, 3, 224, 224)),
    "ConvTranspose2d(8, 4, 2, stride=2)": (nn.ConvTranspose2d(8, 4, 2, 2, bias=False), (1, 8, 16, 16)),
}
for name, (network, size) in cases.items():
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.rand(size))
    computed = counter.get_total_flops() / 2  # two operations for each multiply-add
    said = summary(network, input_size=size, verbose=0).total_mult_adds
    ratios.append(said / computed)
    print(f"{name}: torchinfo says {said:.3g} multiply-adds, {computed:.3g} are computed")
linear, transformer, residual, transposed = ratios
if not (linear < 0.11 and transformer < 0.011 and 0.99 < residual < 1.01 and transposed == 4):
    sys.exit("the behaviour has changed")
PYTHON
