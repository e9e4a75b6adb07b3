#!/bin/bash
# OpenCV 5.0.0 (opencv-python-headless 5.0.0.93, with numpy 2.4.6, scipy 1.17.1, scikit-image 0.26.0): a closing fills
# the gaps of a mask, and an opening removes what is too small. We expected that a closed mask contains the mask, and
# that an opened one is part of it, as everywhere in mathematical morphology. cv2.morphologyEx does so with windows of
# odd size. With a window of even size, like 4 x 4, both move the mask by one pixel down and to the right, and by one
# more with each iteration. The middle of such a window is between pixels. OpenCV shifts the dilation and the erosion to
# the same side, instead of to opposite ones. Below, a detector marks a patch of 8 x 8 pixels, and a defence closes the
# mask and hides what it marks. Then 15 of the 64 pixels of the patch stay visible, and 28 with two iterations. scipy
# and scikit-image keep every pixel. With an opening, as many pixels outside of the patch are hidden. There is no error
# and no warning, and the documentation of morphologyEx does not say it. (OpenCV's issue 10571 is about it. It was
# closed with the advice to take an odd size. A comment in issue 22042 describes the shift.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import cv2
import numpy as np
import scipy
import skimage
from scipy import ndimage

SIZE, PATCH, EDGE = 32, 8, 6


def by_opencv(name, mask, window, iterations):
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (window, window))
    kind = cv2.MORPH_CLOSE if name == "closing" else cv2.MORPH_OPEN
    return cv2.morphologyEx(mask, kind, kernel, iterations=iterations)


def by_scipy(name, mask, window, iterations):
    function = ndimage.binary_closing if name == "closing" else ndimage.binary_opening
    return function(mask, np.ones((window, window)), iterations).astype(np.uint8)


def by_skimage(name, mask, window, iterations):
    function = getattr(skimage.morphology, name)
    return function(mask, np.ones((window, window), np.uint8)) if iterations == 1 else None


programs = {
    f"OpenCV {cv2.__version__}": by_opencv,
    f"scipy {scipy.__version__}": by_scipy,
    f"scikit-image {skimage.__version__}": by_skimage,
}
print(f"a mask of {PATCH} x {PATCH} = {PATCH * PATCH} pixels in an image of {SIZE} x {SIZE},"
      f" at all places that are at least {EDGE} pixels from the border")
found = {}
for name in ("closing", "opening"):
    for window, iterations in ((3, 1), (4, 1), (4, 2), (5, 1), (6, 1)):
        parts = []
        for program, function in programs.items():
            missing, added = [], []
            for row in range(EDGE, SIZE - PATCH - EDGE + 1):
                for column in range(EDGE, SIZE - PATCH - EDGE + 1):
                    mask = np.zeros((SIZE, SIZE), np.uint8)
                    mask[row : row + PATCH, column : column + PATCH] = 1
                    after = function(name, mask.copy(), window, iterations)
                    if after is None:
                        continue
                    missing.append(int((after < mask).sum()))
                    added.append(int((after > mask).sum()))
            if missing:
                found[program.split()[0], name, window, iterations] = set(missing + added)
                parts.append(f"{program}: {max(missing)} are missing, {max(added)} are too many")
        print(f"  {name}, window of {window} x {window}, {iterations} iteration(s): {'; '.join(parts)}")
expected = {(4, 1): 15, (4, 2): 28, (6, 1): 15}
for (program, name, window, iterations), values in found.items():
    if values != {expected.get((window, iterations), 0) if program == "OpenCV" else 0}:
        sys.exit("the behaviour has changed")
PYTHON
