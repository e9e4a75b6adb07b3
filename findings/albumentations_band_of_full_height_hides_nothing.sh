#!/bin/bash
# albumentations 2.0.8 (with numpy 2.4.6): CoarseDropout hides rectangles. The documentation calls floats shares of the
# image, from 0 to 1. So hole_height_range=(1.0, 1.0), hole_width_range=(0.25, 0.25) should hide a band of full height.
# It hides nothing. A range of heights that ends at 1.0 is read as pixels. The range of widths is then read as pixels,
# too: 1 pixel times 0.25 is rounded down to 0. With the width in pixels the band is 1 pixel high. A height of 0.99
# hides a band, and so does a width of 1.0: only heights decide. There is no error and no warning. A network that is
# trained in this way for a defence of bands of columns never sees a hidden band. A network for bands of rows sees all
# of them.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    albumentations==2.0.8 albucore==0.0.24 opencv-python-headless==5.0.0.93 numpy==2.4.6 scipy==1.17.1
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import albumentations
import numpy as np

image = np.full((32, 32, 3), 100, np.uint8)  # height, width, channels


def hidden(height, width):
    """Sizes, height and width, of what 100 calls hide."""
    transform = albumentations.CoarseDropout(
        num_holes_range=(1, 1), hole_height_range=(height, height), hole_width_range=(width, width), fill=0, p=1
    )
    sizes = set()
    for _ in range(100):
        pixels = (transform(image=image)["image"] != image).any(2)
        sizes.add((int(pixels.any(1).sum()), int(pixels.any(0).sum())))
    return sizes


print(f"albumentations {albumentations.__version__}: what is hidden of an image of 32 x 32, in pixels")
expected = {
    (1.0, 0.25): {(0, 0)},
    (1.0, 8): {(1, 8)},
    (0.99, 0.25): {(31, 8)},
    (32, 8): {(32, 8)},
    (0.25, 1.0): {(8, 32)},
}
found = {(height, width): hidden(height, width) for height, width in expected}
for (height, width), sizes in found.items():
    print(f"  height {height}, width {width}: {', '.join(f'{rows} x {columns}' for rows, columns in sorted(sizes))}")
if found != expected:
    sys.exit("the behaviour has changed")
PYTHON
