#!/bin/bash
# scikit-learn 1.9.1 (with numpy 2.4.6, scipy 1.17.1): extract_patches_2d(image, size, max_patches=n) draws windows of
# an image with replacement. The documentation calls n the maximum number of windows. We expected n different ones, or
# all of them if n is their number or larger. An image of 9 x 9 has 49 windows of 3 x 3. With n = 49 or n = 1000, 49
# windows come back. Only 31 of them are different; one comes four times. In a defence whose copies each show a window,
# no copy sees 4 of the 81 pixels. And a patch of 3 x 3 touches up to 31 of the 49 copies. A certificate that counts
# places allows for 25, which is what max_patches=None gives: each window once.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from collections import Counter

import numpy as np
import sklearn
from sklearn.feature_extraction.image import extract_patches_2d

WINDOW = PATCH = 3  # pixels, both ways
image = np.arange(81).reshape(9, 9)  # each pixel has another value, so a window's first pixel tells its place
places = [divmod(number, 7) for number in range(49)]


def most_touched(windows):
    """How many of the windows a patch touches, at the place where they are most."""
    firsts = [divmod(int(window[0, 0]), 9) for window in windows]
    return max(
        sum(abs(top - row) < WINDOW and abs(left - column) < PATCH for top, left in firsts) for row, column in places
    )


print(f"scikit-learn {sklearn.__version__}: windows of 3 x 3 in an image of 9 x 9; there are 49")
found = {}
for asked in (None, 49, 1000):
    windows = extract_patches_2d(image, (WINDOW, WINDOW), max_patches=asked, random_state=0)
    times = Counter(int(window[0, 0]) for window in windows)
    unseen = 81 - len(np.unique(windows))
    found[asked] = len(windows), len(times), most_touched(windows)
    often = max(times.values())
    print(f"  max_patches={asked}: {len(windows)} windows, {len(times)} different, none more often than {often} times;")
    print(f"    {unseen} pixels are in none, and a patch of 3 x 3 touches up to {found[asked][2]}")
if not (found[None] == (49, 49, 25) and found[49] == found[1000] and found[49][1] < 40 and found[49][2] > 25):
    sys.exit("the behaviour has changed")
PYTHON
