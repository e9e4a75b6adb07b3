#!/bin/bash
# scipy 1.17.1 (with numpy 2.4.6): scipy.ndimage.uniform_filter, the mean of a sliding window, lets a pixel change
# means of windows that it is not in. It keeps one running sum for each line, adds the pixel that enters and subtracts
# the one that leaves. What rounding left behind goes along to the end of the line. So windows that hold nothing but
# zeros have means that are not 0, some below 0 though no pixel is, and other pixels far to the left change them. A
# defence that sums evidence in windows and takes windows without evidence, or beyond the patch, to be the same as
# before, is mistaken. scipy.ndimage.convolve with the same window does as one expects: exact zeros.
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
