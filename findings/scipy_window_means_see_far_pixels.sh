#!/bin/bash
# scipy 1.17.1 (with numpy 2.4.6): scipy.ndimage.uniform_filter, the mean of a sliding window, lets a pixel change the
# means of windows that do not contain it. It keeps one running sum for each line, adds the pixel that enters and
# subtracts the one that leaves. Rounding errors stay in the sum until the end of the line. So windows that contain only
# zeros have means that are not 0. Some are below 0, although no pixel is. And they change with pixels far to the left.
# A defence may sum evidence in windows, and assume that windows without evidence, or beyond the patch, are the same as
# before. This is wrong here. scipy.ndimage.convolve with the same window gives exact zeros, as one expects.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import scipy
from scipy.ndimage import convolve, uniform_filter

WINDOW = 5  # pixels, each way; it reaches 2 beyond its middle
SHOWN = 20  # columns that are not zero
BEYOND = SHOWN + WINDOW // 2  # from this column on, windows hold nothing but zeros

random = np.random.default_rng(0)
first, second = np.zeros((64, 64)), np.zeros((64, 64))  # height, width; evidence of two images
first[:, :SHOWN], second[:, :SHOWN] = random.random((2, 64, SHOWN)) * 255

means, others = uniform_filter(first, WINDOW)[:, BEYOND:], uniform_filter(second, WINDOW)[:, BEYOND:]
sums = convolve(first, np.ones((WINDOW, WINDOW)))[:, BEYOND:]
print(f"scipy {scipy.__version__}: {means.size} windows of nothing but zeros")
print(f"  uniform_filter: {(means != 0).sum()} means are not 0, from {means.min():.1e} to {means.max():.1e}")
print(f"  uniform_filter: {(means != others).sum()} means differ between two images that are the same in these windows")
print(f"  convolve: {(sums != 0).sum()} sums are not 0")
if not ((means < 0).any() and (means > 0).any() and (means != others).any() and (sums == 0).all()):
    sys.exit("the behaviour has changed")
PYTHON
