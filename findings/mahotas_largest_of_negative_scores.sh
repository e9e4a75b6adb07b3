#!/bin/bash
# mahotas 1.4.19 (with numpy 2.4.6): labeled_max(array, labeled) should give for each region of an image the same as
# np.max(array[labeled == i]), according to its documentation. If all values of a region are negative floats, it gives
# the smallest positive normal number instead: 2.2e-308, or 1.2e-38 in float32. No pixel has that value. (In C++,
# numeric_limits<T>::min() is the lowest number for integers, but this one for floats.) Integers are right, and so is
# labeled_min. Logits, logarithms of probabilities and normalized pixels are often negative. If you take the largest
# evidence of each window or segment, all negative ones get the same tiny number. So they tie instead of having an
# order, and they exceed a threshold of 0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    mahotas==1.4.19 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import mahotas
import numpy as np
from mahotas.labeled import labeled_max, labeled_min

windows = np.array([[0, 0, 1, 1, 2, 2]] * 2)  # which of three windows a pixel belongs to
scores = np.array([[-1, -2, -9, -7, 3, -4], [-3, -1, -8, -9, -5, -6]])
print(f"mahotas {mahotas.__version__}: the largest score of each of three windows")
found = {}
for kind in (np.float64, np.float32, np.int64):
    array = scores.astype(kind)
    expected = [array[windows == window].max() for window in range(3)]
    lowest = [array[windows == window].min() for window in range(3)]
    largest = labeled_max(array, windows)
    print(f"  {kind.__name__}: labeled_max {largest.tolist()}, np.max {np.array(expected).tolist()}")
    found[kind] = (largest == expected).tolist()
    if labeled_min(array, windows).tolist() != lowest:
        sys.exit("the behaviour has changed")
if list(found.values()) != [[False, False, True], [False, False, True], [True, True, True]]:
    sys.exit("the behaviour has changed")
PYTHON
