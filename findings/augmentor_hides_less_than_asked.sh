#!/bin/bash
# Augmentor 0.2.12 (with pillow 13.0.0, tqdm 4.70.1, numpy 2.4.6): random_erasing(probability, rectangle_area) fills a
# rectangle with random pixels. The docstring calls rectangle_area the percentage area of the image that the rectangle
# hides, from 0.01 to 1. We expected rectangles of this area, or of this area on average, or at most. But Augmentor
# draws the width between a tenth of the image and this share of it, and the height likewise, so the largest area is the
# square of what was asked for. Below, 0.5 hides 9 % of a square image on average, and never more than 25 %. 0.25 hides
# 3 %, and 0.1 always hides 1 %. If the image is not square, Augmentor also swaps the width and the height, and a part
# of the rectangle lies outside the image. A network trained with this sees much less hidden than its author thinks.
# There is no error and no warning. (In issue 242 a user finds that the areas are too large. Since then, values below
# 0.1 are accepted.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    Augmentor==0.2.12 pillow==13.0.0 tqdm==4.70.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import random
import sys
from importlib.metadata import version

import numpy as np
from Augmentor.Operations import RandomErasing
from PIL import Image

IMAGES, COLOUR = 1000, (255, 0, 255)


def shares(area, size):
    """The share of pixels that no longer have the colour, for each image."""
    erasing, found = RandomErasing(probability=1, rectangle_area=area), []
    for _ in range(IMAGES):
        erased = erasing.perform_operation([Image.new("RGB", size, COLOUR)])[0]
        found.append((np.asarray(erased) != COLOUR).any(-1).mean())
    return np.array(found)


print(f"Augmentor {version('Augmentor')}: {IMAGES} images each")
random.seed(0)
np.random.seed(0)
held = []
for area, size in ((0.1, (100, 100)), (0.25, (100, 100)), (0.5, (100, 100)), (1.0, (100, 100)), (1.0, (200, 50))):
    found = shares(area, size)
    print(f"  rectangle_area={area}, {size[0]} x {size[1]}: hidden are {found.mean():.1%} of an image on average,"
          f" {found.min():.1%} to {found.max():.1%}")
    held.append(found.max() <= (area**2 if size[0] == size[1] else 0.25) + 1e-9 and found.mean() < 0.4 * area)
if not all(held):
    sys.exit("the behaviour has changed")
PYTHON
