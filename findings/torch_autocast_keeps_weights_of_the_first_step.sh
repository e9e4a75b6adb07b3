#!/bin/bash
# torch 2.15.0: torch.autocast converts weights to bfloat16 once, and keeps them until the outermost autocast ends. An
# autocast that is switched off counts as one. So a training loop inside torch.autocast("cpu", enabled=False), whose
# steps compute inside torch.autocast("cpu", torch.bfloat16), always computes with the weights of the first step: the
# optimizer changes the weights, but the loss does not move. We expected that a region that is switched off changes
# nothing. There is no error and no warning. One may switch autocast off around a training or a certification, to be
# sure of float32, and switch it on inside for some products. Such a program trains nothing. To avoid it, set
# cache_enabled=False in the inner autocast.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from contextlib import nullcontext

import torch

STEPS = 50
print(f"torch {torch.__version__}: the loss of a linear layer before and after {STEPS} steps of SGD in bfloat16")
found = {}
for around in ("nothing", "autocast, switched off"):
    for cache in (True, False):
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        inputs, losses = torch.randn(64, 8), []
        wanted = inputs.sum(1, keepdim=True)
        with nullcontext() if around == "nothing" else torch.autocast("cpu", enabled=False):
            for _ in range(STEPS):
                with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
                    outputs = layer(inputs)
                loss = (outputs.float() - wanted).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
        found[around, cache] = losses[-1] / losses[0]
        print(f"  around the steps: {around}; cache_enabled={cache}: {losses[0]:.3f}, then {losses[-1]:.3f}")
learns = {case: ratio < 0.1 for case, ratio in found.items()}
as_described = {("nothing", True): True, ("nothing", False): True, ("autocast, switched off", False): True}
sys.exit(learns != as_described | {("autocast, switched off", True): False})
PYTHON
