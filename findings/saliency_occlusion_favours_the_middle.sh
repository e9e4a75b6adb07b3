#!/bin/bash
# saliency 0.2.1 (with numpy 2.4.6): Occlusion "slides a window over the image and computes how that occlusion affects
# the class score". For each pixel it sums these effects over all windows that contain the pixel, and does not divide by
# their number. This number is 1 in a corner and size * size in the middle. We expected a mean, as captum's Occlusion
# computes it. Take a score that counts every pixel the same. With the default size of 15, the mask is 225 times as
# large in the middle as in the corners. So a patch at the border is hard to find. Below, one patch of 8 x 8 pixels lies
# in the corner and one in the middle. First they have the same weight, and then the patch in the corner has 3 times the
# weight. The mask is largest in the middle both times. Suppose that someone looks for a patch where the mask is
# largest, or judges a network by what it looks at. Then the result depends on the places of the windows. The
# documentation does not mention this.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    saliency==0.2.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from saliency.core import OUTPUT_LAYER_VALUES, Occlusion

SIDE, SIZE, PATCH = 48, 15, 8


def mask_of(weights):
    """The mask of a linear score for an image of ones."""
    score = lambda images, call_model_args=None, expected_keys=None: {
        OUTPUT_LAYER_VALUES: (images * weights).sum((1, 2, 3))
    }
    return Occlusion().GetMask(np.ones((SIDE, SIDE, 1)), score, size=SIZE)[..., 0]


print(f"saliency {version('saliency')}: images of {SIDE} x {SIDE}, windows of {SIZE} x {SIZE}")
mask = mask_of(np.ones((SIDE, SIDE, 1)))
middle = SIDE // 2
times = mask[middle, middle] / mask[0, 0]
print(f"  a score that counts all pixels the same: the mask is {mask[0, 0]:.0f} in the corner,"
      f" {mask[0, middle]:.0f} at the edge, {mask[middle, middle]:.0f} in the middle: {times:.0f} times the corner")
found = []
for strength in (1, 3):
    weights = np.zeros((SIDE, SIDE, 1))
    weights[:PATCH, :PATCH] = strength
    weights[middle - PATCH // 2 : middle + PATCH // 2, middle - PATCH // 2 : middle + PATCH // 2] = 1
    mask = mask_of(weights)
    place = np.unravel_index(mask.argmax(), mask.shape)
    found.append(min(place) > SIDE // 3)
    print(f"  a patch in the corner with {strength} times the weight of one in the middle: the mask is largest in row"
          f" {place[0]} and column {place[1]}: {mask.max():.0f}; in the corner it is {mask[:PATCH, :PATCH].max():.0f}")
if not (times == SIZE**2 and all(found)):
    sys.exit("the behaviour has changed")
PYTHON
