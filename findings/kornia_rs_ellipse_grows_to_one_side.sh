#!/bin/bash
# kornia-rs 0.2.0 (with opencv-python-headless 5.0.0.93, numpy 2.4.6): imgproc.dilate and imgproc.erode take a "box", a
# "cross" or an "ellipse" of a size, and use it around each pixel. We expected an ellipse of 3 x 3 or 5 x 5 pixels to
# have its middle at the pixel, as in OpenCV and in every other shape here. But it lacks the last row and the last
# column: that of 3 x 3 is a square of 2 x 2, that of 5 x 5 reaches two pixels up and to the left, and one down and to
# the right. So a dilated mask grows less on these two sides, and with 3 x 3 not at all. If a mask is first dilated and
# then eroded, it moves by one pixel. Below, a detector finds a patch of 8 x 8 pixels, but its mask may be one or two
# pixels too far in a direction. So the defence dilates the mask by one or two pixels, and hides what it marks. With a
# box, the whole patch is hidden each time, and so it is with OpenCV's ellipse. With kornia-rs' ellipse, 8 of 64 pixels
# stay visible if the mask is too far up or to the left. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    kornia-rs==0.2.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import cv2
import numpy as np
from kornia_rs import imgproc

SIDE, PATCH, START = 32, 8, 12
SHAPES = {"box": cv2.MORPH_RECT, "cross": cv2.MORPH_CROSS, "ellipse": cv2.MORPH_ELLIPSE}


def by_kornia(name, mask, shape, size):
    function = imgproc.dilate if name == "dilate" else imgproc.erode
    return np.asarray(function(np.ascontiguousarray(mask)[..., None], shape, (size, size))).reshape(mask.shape)


def by_opencv(name, mask, shape, size):
    function = cv2.dilate if name == "dilate" else cv2.erode
    return function(mask, cv2.getStructuringElement(SHAPES[shape], (size, size)))


def window(row, column):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[row : row + PATCH, column : column + PATCH] = 1
    return mask


programs = {f"kornia-rs {version('kornia-rs')}": by_kornia, f"OpenCV {cv2.__version__}": by_opencv}
reaches, moved, visible = {}, {}, {}
patch = window(START, START)
middle = np.zeros((SIDE, SIDE), np.uint8)
middle[START, START] = 1
for program, function in programs.items():
    print(program)
    for shape in SHAPES:
        for size in (3, 5, 7):
            reach = np.argwhere(function("dilate", middle, shape, size)) - START
            closed = function("erode", function("dilate", patch, shape, size), shape, size)
            key = program.split()[0], shape, size
            reaches[key] = int(reach.min()), int(reach.max())
            moved[key] = int((closed < patch).sum())
            print(f"  {shape} of {size} x {size}: one pixel becomes {len(reach)}, from {reach.min(0).tolist()} to"
                  f" {reach.max(0).tolist()}; a patch that is dilated and eroded loses {moved[key]} pixels")
    for shape in ("box", "ellipse"):
        for off in (1, 2):
            left = []
            for shift in ((-off, 0), (off, 0), (0, -off), (0, off)):
                mask = function("dilate", window(START + shift[0], START + shift[1]), shape, 2 * off + 1)
                hidden = patch * mask
                left.append(int(patch.sum() - hidden.sum()))
            visible[program.split()[0], shape, off] = left
            print(f"  mask {off} pixel(s) too far up, down, left, right, dilated with {shape} of {2 * off + 1} x"
                  f" {2 * off + 1}: {left} pixels of the patch stay visible")
for (program, shape, size), reach in reaches.items():
    lacking = program == "kornia-rs" and shape == "ellipse"
    if reach != (-(size // 2), size // 2 - lacking) or (moved[program, shape, size] > 0) != lacking:
        sys.exit("the behaviour has changed")
for (program, shape, off), left in visible.items():
    if left != ([8, 0, 8, 0] if program == "kornia-rs" and shape == "ellipse" else [0] * 4):
        sys.exit("the behaviour has changed")
PYTHON
