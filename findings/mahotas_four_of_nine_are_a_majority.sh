#!/bin/bash
# mahotas 1.4.19 (with numpy 2.4.6): majority_filter(img, N) should be true where "the majority of pixels in the squared
# of size N centred on (y,x) are positive". It is true already if 4 of 9 are positive, 12 of 25, or 24 of 49, because it
# compares with half the number, rounded down. And it leaves out the last row and the last column of whole squares.
# These stay false even if all pixels are true. (So does the border, where squares would extend beyond the image.) A
# defence that decides by the majority of a neighbourhood of votes, or smooths a mask of a suspected patch, decides by a
# minority. And it decides differently at the lower and right side than at the upper and left side.
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
from numpy.lib.stride_tricks import sliding_window_view

SIDE = 200

votes = np.random.default_rng(0).random((SIDE, SIDE)) < 0.5
print(f"mahotas {mahotas.__version__}: majority_filter of {SIDE} x {SIDE} random votes")
found = []
for size in (3, 5, 7):
    reach = size // 2
    counts = sliding_window_view(votes, (size, size)).sum((2, 3))  # of whole squares, by their middle
    decided = mahotas.majority_filter(votes, size)[reach:-reach, reach:-reach]
    inner_counts, inner = counts[:-1, :-1], decided[:-1, :-1]  # all but the last row and column of whole squares
    fewest, most = inner_counts[inner].min(), inner_counts[~inner].max()
    print(f"  {size} x {size}: true from {fewest} votes on, false up to {most}, of {size * size}")
    full = mahotas.majority_filter(np.ones((SIDE, SIDE), bool), size)[reach:-reach, reach:-reach]
    first, last = bool(full[0, :-1].all() and full[:-1, 0].all()), bool(full[-1].any() or full[:, -1].any())
    print(f"    all votes true: first row and column of whole squares {first}, last row and column {last}")
    found.append(fewest == size * size // 2 == most + 1 and not last and full[:-1, :-1].all())
if not all(found):
    sys.exit("the behaviour has changed")
PYTHON
