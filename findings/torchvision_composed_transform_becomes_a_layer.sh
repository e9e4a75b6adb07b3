#!/bin/bash
# torchvision 0.29.2 (with torch 2.15.0): the Compose of torchvision.transforms.v2 is an nn.Module. The Compose of
# torchvision.transforms is not. People keep a network's transform as an attribute of the network. If the network is an
# nn.Sequential, the older Compose stays an attribute. The Compose of v2 also becomes the last layer, and it runs on the
# logits. Below, both hold a random flip, as in training. It accepts logits (N, K), takes the classes for columns, and
# reverses their order. So in half of the calls the network names class 9 - c in place of c, also in eval mode and
# without an error or a warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import sys

import torch
import torchvision
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

CALLS = 200

torch.manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()
images = torch.rand(CALLS, 3, 32, 32)
answers = network(images).argmax(1)
print(f"torchvision {torchvision.__version__}: answers for {CALLS} images, one at a time, with a transform as attribute")
found = {}
for module in (transforms, v2):
    other = copy.deepcopy(network)
    other.preparation = module.Compose([module.RandomHorizontalFlip()])
    now = torch.cat([other(image[None]).argmax(1) for image in images])
    changed = now != answers
    found[module] = len(other), int(changed.sum()), int((now[changed] == 9 - answers[changed]).sum())
    layers, differ, in_reverse = found[module]
    print(f"  {module.__name__}: {layers} layers, {differ} answers differ, {in_reverse} of them are 9 - c")
if found[transforms] != (2, 0, 0) or found[v2] != (3, found[v2][1], found[v2][1]) or not 70 < found[v2][1] < 130:
    sys.exit("the behaviour has changed")
PYTHON
