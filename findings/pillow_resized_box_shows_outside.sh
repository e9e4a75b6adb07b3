#!/bin/bash
# pillow 13.0.0 (with numpy 2.4.6): image.resize(size, box=...) resizes a part of an image. But if the filter reaches
# over the edge of the box, it also uses the pixels outside. image.crop(box).resize(size) does not. If a box of 16 x 16
# is enlarged to 64 x 64, half of all pixels depend on what lies outside the box with LANCZOS, and a third with BICUBIC,
# by more than 100 of 255. Only the part is returned, so it looks like a crop. In a defence whose copies show one window
# each, a copy then shows a patch that lies beside its window. So certificates that count the windows that touch the
# patch are wrong. The documentation calls the box the region to be scaled.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import PIL
from PIL import Image

BOX = (8, 8, 24, 24)  # left, upper, right, lower
inside = np.s_[8:24, 8:24]
image = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)  # height, width, channels
other = np.zeros_like(image)
other[inside] = image[inside]  # the same image, black outside the box

print(f"pillow {PIL.__version__}: a box of 16 x 16 to 64 x 64; pixels that depend on what is outside of the box")
shares = {}
for name in ("BICUBIC", "LANCZOS"):
    method = Image.Resampling[name]
    for way, resized in (
        ("resize(box=)", lambda picture, method=method: picture.resize((64, 64), method, box=BOX)),
        ("crop().resize()", lambda picture, method=method: picture.crop(BOX).resize((64, 64), method)),
    ):
        first, second = (np.asarray(resized(Image.fromarray(pixels))).astype(int) for pixels in (image, other))
        differences = abs(first - second).max(2)
        shares[name, way] = (differences > 0).mean()
        print(f"  {name}, {way}: {shares[name, way]:.1%}, by up to {differences.max()} of 255")
beside = min(share for (_, way), share in shares.items() if way == "resize(box=)")
alone = max(share for (_, way), share in shares.items() if way == "crop().resize()")
if not (beside > 0.3 and alone == 0):
    sys.exit("the behaviour has changed")
PYTHON
