#!/bin/bash
# bound-propagation 0.4.7, torch 2.15.0: its linear bounds (CROWN and CROWN-IBP) of a Clamp are wrong when the values
# before it begin exactly at one limit and go beyond the other. So it is with pixels in [0, 1] that are made twice as
# bright and clamped to [0, 1]: the bounds say that every pixel becomes 0, and a network behind the clamp seems to have
# a single output. We had expected bounds that contain the outputs, as its interval bounds do, and as its linear bounds
# do when the pixels begin at 0.01 instead. No case of the Clamp fits, so that slope and offset stay 0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    bound-propagation==0.4.7 torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import sys

import torch
from bound_propagation import BoundModelFactory, HyperRectangle
from bound_propagation.saturation import Clamp
from torch import nn

print(f"bound-propagation {importlib.metadata.version('bound-propagation')}, torch {torch.__version__}")
torch.manual_seed(0)
brighter, scores = nn.Linear(4, 4, bias=False), nn.Linear(4, 1)
brighter.weight.data = 2 * torch.eye(4)
network = nn.Sequential(brighter, Clamp(min=0.0, max=1.0), scores)
bounded, holds = BoundModelFactory().build(network), {}
for least in (0.0, 0.01):
    box = HyperRectangle(torch.full((1, 4), least), torch.ones(1, 4))
    outputs = network(least + (1 - least) * torch.rand(10000, 4))
    print(f"pixels from {least} to 1: outputs from {outputs.min():.3f} to {outputs.max():.3f}")
    for way in ("ibp", "crown", "crown_ibp"):
        bounds = getattr(bounded, way)(box)
        bounds = bounds.concretize() if hasattr(bounds, "concretize") else bounds
        lower, upper = bounds.lower.item(), bounds.upper.item()
        holds[least, way] = lower <= outputs.min() and outputs.max() <= upper
        print(f"    {way}: from {lower:.3f} to {upper:.3f}, {'contains' if holds[least, way] else 'excludes'} them")
if [key for key, held in holds.items() if not held] != [(0.0, "crown"), (0.0, "crown_ibp")]:
    sys.exit("the behaviour has changed")
PYTHON
