#!/bin/bash
# scikit-image 0.26.0 (with numpy 2.4.6, scipy 1.17.1) has dilation, erosion, opening and closing with a radius:
# isotropic_dilation and so on. A dilation adds to a mask what is within the radius of its pixels. We expected that a
# mask without pixels stays empty, as it does with dilation(mask, disk(radius)). But isotropic_dilation adds pixels in
# the upper left corner, 7 with a radius of 3 and 79 with a radius of 10. It takes distances from scipy's
# distance_transform_edt, which measures them from a pixel above this corner if the mask is empty. An opening removes
# what is smaller than the radius, so it also makes a mask empty, and then adds the corner. An erosion of a mask of the
# whole image leaves the corner visible, and so does a closing. Below, a defence hides what a detector finds, with a
# margin. For an image in which the detector finds nothing, the margin hides a corner, so what is hidden in images
# without a patch depends on the radius. With an opening before that, the defence drops a small patch and hides the
# corner instead. There is no error and no warning. (scipy's issues 1616 and 15585 are about these distances, and pull
# request 25528 wants to change them.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import numpy as np
import skimage
from skimage import morphology

SIDE, PATCH, RADII = 32, 5, (1, 3, 5, 10)
print(f"scikit-image {skimage.__version__}, images of {SIDE} x {SIDE} pixels")
nothing = np.zeros((SIDE, SIDE), bool)
everything = ~nothing
patch = nothing.copy()
patch[14 : 14 + PATCH, 20 : 20 + PATCH] = True


def by_disk(name, mask, radius):
    return getattr(morphology, name)(mask, morphology.disk(radius))


def isotropic(name, mask, radius):
    return getattr(morphology, f"isotropic_{name}")(mask, radius)


found = {}
for radius in RADII:
    for function in (isotropic, by_disk):
        key = function.__name__, radius
        margin = function("dilation", nothing, radius)
        opened = function("opening", patch, radius)
        found[key] = counts = {
            "dilation of nothing": int(margin.sum()),
            "opening of nothing": int(function("opening", nothing, radius).sum()),
            "not in an erosion of everything": int((~function("erosion", everything, radius)).sum()),
            "not in a closing of everything": int((~function("closing", everything, radius)).sum()),
            f"opening of {PATCH} x {PATCH} pixels, outside of them": int((opened & ~patch).sum()),
            "within them": int((opened & patch).sum()),
        }
        furthest = np.argwhere(margin).max(0).tolist() if margin.any() else None
        print(f"  {key[0]}, radius {radius}: " + ", ".join(f"{name} {count}" for name, count in counts.items())
              + f"; the dilation of nothing reaches to {furthest}")
for (name, radius), counts in found.items():
    corner = counts["dilation of nothing"]
    values = list(counts.values())
    if name == "by_disk" and any(values[:5]):
        sys.exit("the behaviour has changed")
    # a radius of 3 and more removes the patch
    if name == "isotropic" and not (values[:4] == [corner] * 4 and corner > 0 and values[4] == (radius >= 3) * corner):
        sys.exit("the behaviour has changed")
if found["isotropic", 3]["dilation of nothing"] != 7:
    sys.exit("the behaviour has changed")
PYTHON
