#!/bin/bash
# opencv-python-headless 5.0.0.93 (with numpy 2.4.6): cv2.seamlessClone, which blends a patch into an image, writes into
# the mask that it is given, if the mask has one channel. The documentation calls the mask an input. Suppose that you
# blend a patch of 16 x 16 into one image after another, always with the same mask. This changes 12 x 12 pixels of the
# first image, at most 3 pixels of the second, 12 x 12 of the third, and so on. So every second image is nearly clean.
# An attack that is measured in this way succeeds about half as often as it should, and the defence looks better. To
# avoid it, give each call a copy of the mask, or a mask with three channels, which stays as it is. OpenCV 4.13 does the
# same.
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

random = np.random.default_rng(0)
patch = random.integers(256, size=(16, 16, 3), dtype=np.uint8)  # height, width, channels
pictures = random.integers(256, size=(6, 200, 200, 3), dtype=np.uint8)  # pictures, height, width, channels
white = np.full((16, 16), 255, np.uint8)


def changed_pixels(next_mask):
    """For each picture, how many pixels change when the patch is blended into its middle."""
    return [
        int((cv2.seamlessClone(patch, picture, next_mask(), (100, 100), cv2.NORMAL_CLONE) != picture).any(2).sum())
        for picture in pictures
    ]


used, of_three_channels = white.copy(), np.dstack([white] * 3)
found = {
    "one mask for all": changed_pixels(lambda: used),
    "a copy for each": changed_pixels(white.copy),
    "one mask of three channels": changed_pixels(lambda: of_three_channels),
}
print(f"opencv {cv2.__version__}: a patch of 16 x 16 in {len(pictures)} pictures; how many pixels change")
for name, pixels in found.items():
    print(f"  {name}: {pixels}")
print(f"  values of the mask that is used for all, white at first: {np.unique(used).tolist()}")
shared, whole = found["one mask for all"], [found["a copy for each"], found["one mask of three channels"]]
kept = (of_three_channels == 255).all() and min(map(min, whole)) > 100
if not (kept and (used != white).any() and min(shared[::2]) > 100 and max(shared[1::2]) < 10):
    sys.exit("the behaviour has changed")
PYTHON
