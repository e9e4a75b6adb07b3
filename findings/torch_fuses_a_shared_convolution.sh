#!/bin/bash
# torch 2.15.0: torch.fx.experimental.optimization.fuse folds batch normalizations into the convolutions before them.
# Suppose that a network calls a convolution twice, and a normalization follows one of the calls. Then fuse changes the
# other call, too: both calls use the folded weights. We had expected that it leaves such a pair unchanged, or gives one
# of the calls its own weights, as torch.ao.quantization.fuse_modules does. There is no error and no warning. The
# outputs are those of another network.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
from torch import nn
from torch.ao.quantization import fuse_modules
from torch.fx.experimental.optimization import fuse


class Network(nn.Module):
    """One convolution, called twice as in networks with tied weights; the second call has a normalization."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = self.first
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, images):
        return self.norm(self.second(self.first(images).relu()))


torch.manual_seed(0)
network, images = Network().eval(), torch.rand(4, 3, 16, 16)
ways = {
    "torch.fx.experimental.optimization.fuse": fuse(network),
    "torch.ao.quantization.fuse_modules": fuse_modules(network, [["second", "norm"]], inplace=False),
}
print(f"torch {torch.__version__}")
differences = []
with torch.no_grad():
    expected = network(images)
    for way, folded in ways.items():
        differences.append((folded(images) - expected).abs().max().item())
        print(f"{way}: outputs of up to {expected.abs().max():.2f} differ by up to {differences[-1]:.1e}")
if not (differences[0] > 0.01 and differences[1] < 1e-5):
    sys.exit("the behaviour has changed")
PYTHON
