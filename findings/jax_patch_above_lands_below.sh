#!/bin/bash
# jax 0.10.2: jax.lax.dynamic_update_slice, the usual way to lay a patch on an image at a traced place, does not cut off
# the part of a patch that leaves the image. If the place is too far down, it moves the whole patch up into the image.
# If the place is above the image, it first counts from the other end: a patch of 8 x 8 whose first 3 rows are above the
# image lands, whole, at the lower edge. So a search that lets patches hang over the border tries other places than it
# reports, and its patches are never smaller there.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import jax
import numpy as np

image, patch = np.zeros((32, 32), np.float32), np.ones((8, 8), np.float32)  # height, width


def rows(first):
    """The rows that the patch covers, and how many pixels of the image it changes."""
    patched = np.asarray(jax.lax.dynamic_update_slice(image, patch, (first, 0)))
    covered = np.flatnonzero(patched.any(1))
    return int(covered.min()), int(covered.max()), int(patched.sum())


print(f"jax {jax.__version__}: a patch of 8 x 8 on an image of 32 x 32")
found = {first: rows(first) for first in (10, 28, -3)}
for first, (top, bottom, pixels) in found.items():
    print(f"  from row {first}: covers rows {top} to {bottom}, {pixels} pixels")
if found != {10: (10, 17, 64), 28: (24, 31, 64), -3: (24, 31, 64)}:
    sys.exit("the behaviour has changed")
PYTHON
