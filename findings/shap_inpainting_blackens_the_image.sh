#!/bin/bash
# shap 0.51.0 (with opencv-python-headless 5.0.0.93, numpy 2.4.6): shap.maskers.Image("inpaint_telea", shape) and
# "inpaint_ns" return an image in which hidden pixels are painted over. We expected that the pixels that are not hidden
# stay as they are, as with "blur(8,8)". But the masker converts the whole image to bytes first. If pixels are floats
# from 0 to 1, as most networks take them, each becomes 0 (or 1, if it is exactly 1). So the image is black also where
# nothing is hidden, and even if the mask hides nothing. Normalized pixels become 0, 1 or 255 here, and floats from 0 to
# 255 are rounded down. Below, shap explains two networks. One takes the mean of the left half of the image, the other
# one the mean of the right half. With inpainting, shap says that each looks at both halves, and to the same degree.
# With a blur, it says that each looks at its own half only, as it does. There is no error and no warning, and the
# docstring does not say which pixels are allowed. A defence or an explanation that hides windows in this way judges
# black images.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    shap==0.51.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import numpy as np
import shap

SHAPE = (16, 16, 3)
random = np.random.default_rng(0)
image = random.random(SHAPE)
shown = np.ones(SHAPE, bool)
shown[4:8, 4:8] = False  # the hidden window
images = {
    "from 0 to 1": image,
    "normalized": (image - 0.5) / 0.25,
    "floats from 0 to 255": 255 * image,
    "bytes": (255 * image).astype(np.uint8),
}
print(f"shap {shap.__version__}: how far shown pixels change when a window of 4 x 4 is hidden, and when nothing is")
changes = {}
for mode in ("inpaint_telea", "inpaint_ns", "blur(8,8)"):
    for name, array in images.items():
        masker = shap.maskers.Image(mode, SHAPE)
        (masked,), (whole,) = masker(shown.ravel(), array), masker(np.ones(array.size, bool), array)
        masked, whole = masked.reshape(SHAPE), whole.reshape(SHAPE)
        far = np.abs(masked.astype(float) - array)[shown].max(), np.abs(whole.astype(float) - array).max()
        changes[mode, name] = max(far)
        values = np.unique(whole)
        kinds = f"values {values.tolist()}" if len(values) < 9 else f"{len(values)} values"
        print(f"  {mode}, {name}: {far[0]:.3g}, {far[1]:.3g}; an image of which nothing is hidden has {kinds}")

networks = {
    "left": lambda batch: batch[:, :, :8].mean((1, 2, 3)),
    "right": lambda batch: batch[:, :, 8:].mean((1, 2, 3)),
}
shares = {}
for mode in ("inpaint_telea", "blur(8,8)"):
    for name, network in networks.items():
        explainer = shap.Explainer(network, shap.maskers.Image(mode, SHAPE))
        values = np.abs(explainer(image[None], max_evals=200, silent=True).values[0])
        shares[mode, name] = values[:, :8].sum() / values.sum()
        print(f"  {mode}, a network that looks only {name}: the left half has {shares[mode, name]:.1%} of the |values|")
for (mode, name), change in changes.items():
    expected = 0 if mode == "blur(8,8)" or name == "bytes" else 0.9  # at least
    if (change > 0) != (expected > 0) or change < expected:
        sys.exit("the behaviour has changed")
if not np.allclose(list(shares.values()), [0.5, 0.5, 1, 0], atol=0.01):
    sys.exit("the behaviour has changed")
PYTHON
