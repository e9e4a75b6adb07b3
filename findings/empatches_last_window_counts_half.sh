#!/bin/bash
# empatches 0.2.3 (with numpy 2.4.6) cuts an image into overlapping windows, and merge_patches puts maps of such windows
# together again. For mode="avg" its documentation promises, at each pixel, the average of the windows that overlap
# there. We expected the mean over all windows that contain the pixel. But merge_patches takes the mean of the value so
# far and of the next window, again and again. So the last window counts half, the one before a quarter, and so on. And
# if the value so far is 0, it counts as no value: votes 0, 0, 1 give 1, and votes 1, 0, 0 give 1/4. With mode="max",
# negative scores become 0. Below, windows of 8 x 8 with stride 2 vote 0 or 1, and pixels with more than half of the
# votes are 1. A pixel in the middle lies in 16 windows. If only its last window votes 1, the merged vote is 1. If all
# windows but the last two vote 1, it is 1/4. So for each pixel one window decides, and a patch that reaches this window
# wins. There is no error and no warning. Merging windows that were not changed gives the right image in this mode.
# (Issue 11 of empatches asks why it divides by 2.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    empatches==0.2.3 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from empatches import EMPatches

SIZE, STRIDE, ROW, COLUMN = 8, 2, 15, 15
random = np.random.default_rng(0)
image = random.random((32, 32)).astype(np.float32)
tool = EMPatches()
windows, places = tool.extract_patches(image, patchsize=SIZE, stride=STRIDE)


def merged(values, mode):
    """The merged map if each window has the same value everywhere."""
    return tool.merge_patches([np.full((SIZE, SIZE), value, np.float32) for value in values], places, mode=mode)


def means(values):
    total, count = np.zeros(image.shape), np.zeros(image.shape)
    for value, (top, bottom, left, right) in zip(values, places):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    return total / count


covering = [i for i, (top, bottom, left, right) in enumerate(places) if top <= ROW < bottom and left <= COLUMN < right]
print(f"empatches {version('empatches')}: {len(windows)} windows, {len(covering)} of them contain row {ROW}, column"
      f" {COLUMN}")
whole = np.allclose(tool.merge_patches(windows, places, mode="avg"), image, atol=1e-5)
print(f"  windows as they were, 'avg': the image comes back: {whole}")
votes = {
    "only the first votes 1": covering[:1],
    "only the last votes 1": covering[-1:],
    "all but the last two vote 1": covering[:-2],
}
found = []
for name, ones in votes.items():
    values = np.isin(np.arange(len(windows)), ones).astype(float)
    found.append((merged(values, "avg")[ROW, COLUMN], means(values)[ROW, COLUMN]))
    print(f"  {name}: merged {found[-1][0]:.4g}, mean {found[-1][1]:.4g}")
values = random.integers(0, 2, len(windows)).astype(float)
wrong = ((merged(values, "avg") > 0.5) != (means(values) > 0.5)).mean()
print(f"  random votes: {wrong:.0%} of all pixels are on the other side of one half than their mean")
largest = merged(-1 - random.random(len(windows)), "max")
print(f"  scores from -2 to -1, 'max': {largest.min():g} to {largest.max():g}")
expected = [(0.5 ** (len(covering) - 1), 1 / 16), (1, 1 / 16), (1 / 4, 14 / 16)]
if not (whole and np.allclose(found, expected) and wrong > 0.1 and not largest.any()):
    sys.exit("the behaviour has changed")
PYTHON
