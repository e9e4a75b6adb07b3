#!/bin/bash
# opencv-python-headless 5.0.0.93: cv2.inpaint fills in the pixels under a mask. If the mask touches the upper or the
# left border of the image, the result depends on the pixels that the mask hides. Take two images that are the same
# outside of the mask, one black and one white inside. Both methods of cv2.inpaint fill them with different values
# there, some levels of 255 apart. In the middle and at the lower and right border they are filled the same. Defences
# that hide a window and paint it in anew (as PatchCleanser may) argue that a patch wholly inside of the window has no
# influence. Here it has, at some places. skimage's inpaint_biharmonic (0.26.0) filled them the same in the middle and
# at the upper border.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import cv2
import numpy as np

SIZE, WINDOW = 32, 8
LAST = SIZE - WINDOW
PLACES = {"middle": (12, 12), "upper": (0, 12), "left": (12, 0), "lower": (LAST, 12), "right": (12, LAST)}
METHODS = {"TELEA": cv2.INPAINT_TELEA, "NS": cv2.INPAINT_NS}

image = np.random.default_rng(0).integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)  # height, width, channels
print(f"opencv {cv2.__version__}: values of the window that depend on what it hides, and by how much at most")
most = {}
for place, (row, column) in PLACES.items():
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[row : row + WINDOW, column : column + WINDOW] = 255
    for name, method in METHODS.items():
        black, white = (
            cv2.inpaint(np.where(mask[..., None] > 0, np.uint8(hidden), image), mask, 3, method).astype(int)
            for hidden in (0, 255)
        )
        differences = abs(black - white)
        most[place, name] = differences.max()
        count, values = (differences > 0).sum(), WINDOW * WINDOW * 3
        print(f"  {name}, {place}: {count} of {values}, by up to {differences.max()} of 255")
leaks = {place for place, name in most if most[place, name] > 0}
if not (leaks == {"upper", "left"} and all(most[place, name] for place in leaks for name in METHODS)):
    sys.exit("the behaviour has changed")
PYTHON
