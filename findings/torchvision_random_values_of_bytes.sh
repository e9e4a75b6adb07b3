#!/bin/bash
# torchvision 0.29.2 (with torch 2.15.0): RandomErasing(value="random") fills the rectangle of a uint8 image with the
# bytes 0 to 4 and 252 to 255 only, in v2 and in the older transforms. It draws normal numbers of mean 0 and deviation
# 1, which would suit a normalized image, and converts them to bytes. So the rectangle, which should stand for any
# patch, has black and white specks, and the network never sees the values between. The transform accepts uint8 without
# an error or a warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import torchvision
from torchvision import transforms
from torchvision.transforms import v2

torch.manual_seed(0)
image = torch.full((3, 224, 224), 100, dtype=torch.uint8)  # channels, height, width
print(f"torchvision {torchvision.__version__}: bytes in the rectangle that RandomErasing(value='random') fills")
same = True
for module in (v2, transforms):
    erased = module.RandomErasing(p=1, scale=(0.3, 0.3), value="random")(image)
    where = (erased != image).any(0)
    values = erased[:, where]
    dark, light = ((values < 8).float().mean().item(), (values > 247).float().mean().item())
    print(f"  {module.__name__}: {where.sum()} pixels; {dark:.1%} of the bytes are below 8, {light:.1%} above 247")
    print(f"    all that occur: {values.unique().tolist()}")
    grey = ((values >= 8) & (values <= 247)).any().item()
    same &= not grey and where.sum() > 10000
if not same:
    sys.exit("the behaviour has changed")
PYTHON
