#!/bin/bash
# shap 0.51.0 (with opencv-python-headless 5.0.0.93, numpy 2.4.6): shap.maskers.Image("blur(8,8)", shape) returns an
# image in which a part is replaced by a blurred version of the image. We expected that of the same image. But the
# masker keeps the last blurred image, and decides by Python's id() of a temporary array whether it still fits. Python
# gives the id of an array that is no longer used to the next one. Below, 100 images come one after the other, and one
# masker hides the same window of each. For about half of them, the window shows the blurred version of the image
# before. If the images are flat arrays, and each is read into the same memory, the window shows the first image for all
# 99 others. In a defence that hides windows, the patch of another image is then a part of the copy. If we took the
# images from one array in a loop, or used shap's explainers, all windows were right: it depends on which memory Python
# uses again. There is no error and no warning. To avoid it, set masker.last_xid = None first, or make a new masker for
# each image.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    shap==0.51.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import cv2
import numpy as np
import shap

IMAGES, SHAPE = 100, (32, 32, 3)
random = np.random.default_rng(0)
images = [random.uniform(0, 255, SHAPE) for _ in range(IMAGES)]
shown = np.ones(SHAPE, bool)
shown[8:24, 8:24] = False  # the hidden window


def source(hidden, number, other):
    """Which image the hidden window comes from: this one, or the other one that may be."""
    for name, which in (("the image itself", number), other):
        if np.array_equal(hidden, cv2.blur(images[which], (8, 8))[~shown]):
            return name
    return "elsewhere"


def hidden_from(flat, fresh=False):
    """How often the hidden window comes from where."""
    masker = shap.maskers.Image("blur(8,8)", SHAPE)
    memory, counts = np.empty(np.prod(SHAPE)), {}
    for number, image in enumerate(images):
        memory[:] = image.ravel()
        if fresh:
            masker.last_xid = None
        (masked,) = masker(shown.ravel(), memory if flat else image)
        other = ("the first image", 0) if flat else ("the image before", number - 1)
        name = source(masked.reshape(SHAPE)[~shown], number, other)
        counts[name] = counts.get(name, 0) + 1
    return counts


print(f"shap {shap.__version__}: where the hidden windows of {IMAGES} images come from")
images_one_by_one, same_memory = hidden_from(flat=False), hidden_from(flat=True)
print(f"  separate images: {images_one_by_one}")
print(f"  read into the same memory: {same_memory}")
fresh = [hidden_from(flat, fresh=True) for flat in (False, True)]
print(f"  last_xid = None before each image: {fresh}")
itself = {"the image itself": IMAGES}
if not (images_one_by_one.get("the image before", 0) > 0 and fresh == [itself, itself]
        and same_memory == {"the image itself": 1, "the first image": IMAGES - 1}):
    sys.exit("the behaviour has changed")
PYTHON
