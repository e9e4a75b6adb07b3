#!/bin/bash
# deel-torchlip 1.0.5 (with torch 2.15.0): SpectralConv2d promises a Lipschitz constant of 1: outputs are never further
# apart (L2) than inputs. It takes padding_mode, but leaves it out of its bound. Padding that repeats pixels of the
# image ("reflect", "replicate") lets a pixel near the border count several times. Below, two images of distance 0.1
# have outputs of distance 0.2 with a stride of 3, and of 0.133 with "reflect" and no stride. "zeros" and "circular"
# keep the promise. So radii that are certified from such a layer are up to twice too large for an attacker who works at
# the border. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    deel-torchlip==1.0.5 torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from deel.torchlip import SpectralConv2d

DISTANCE = 0.1
print(f"deel-torchlip {version('deel-torchlip')}, torch {torch.__version__}")
print(f"  how far apart are the outputs for two images of distance {DISTANCE}, at most?")
found = {}
for stride in (1, 3):
    for padding_mode in ("zeros", "circular", "reflect", "replicate"):
        torch.manual_seed(0)
        layer = SpectralConv2d(1, 9, 3, stride=stride, padding=1, padding_mode=padding_mode, bias=False)
        image = torch.rand(1, 1, 9, 9)  # images, channels, height, width
        for _ in range(10):
            layer(image)  # in training, norms are worked out on the way
        layer.eval()
        with torch.no_grad():
            matrix = layer(torch.eye(81).view(81, 1, 9, 9)).flatten(1)  # pixels, outputs: the layer is linear
            step = torch.linalg.svd(matrix)[0][:, 0]  # the direction that it stretches most
            other = image + DISTANCE * step.view_as(image)
            apart = (layer(other) - layer(image)).norm().item()
        found[stride, padding_mode] = apart / DISTANCE
        print(f"  stride {stride}, padding_mode {padding_mode}: {apart:.3f}")
broken = {kind for kind, stretch in found.items() if stretch > 1.01}
if not (broken == {(1, "reflect"), (3, "reflect"), (3, "replicate")} and found[3, "reflect"] > 1.9):
    sys.exit("the behaviour has changed")
PYTHON
