#!/bin/bash
# monai 1.6.1 (with torch 2.15.0): RandCoarseDropout and RandCoarseShuffle return an image with holes. They also write
# the holes into the image that they are given: a tensor, a numpy array or an entry of a dictionary. We expected that
# they work on a copy. MONAI's RandGaussianNoise does so, and so does RandCoarseDropout itself when it hides everything
# except the holes (dropout_holes=False). Images that are kept in memory lose more in each epoch. One hole of 8 x 8 is a
# sixteenth of 32 x 32 pixels; after 30 epochs three quarters of the image are erased. If you measure clean accuracy on
# these images afterwards, you measure it on erased images. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    monai==1.6.1 torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import monai
import numpy as np
import torch
from monai.transforms import RandCoarseDropout, RandCoarseDropoutd, RandCoarseShuffle, RandGaussianNoise

EPOCHS = 30
HOLE = {"holes": 1, "spatial_size": 8, "prob": 1.0}
transforms = {
    "RandCoarseDropout": RandCoarseDropout(fill_value=0, **HOLE),
    "RandCoarseDropout(dropout_holes=False)": RandCoarseDropout(fill_value=0, dropout_holes=False, **HOLE),
    "RandCoarseShuffle": RandCoarseShuffle(**HOLE),
    "RandGaussianNoise": RandGaussianNoise(prob=1.0),
}
in_dictionary = RandCoarseDropoutd("image", fill_value=0, **HOLE)
print(f"monai {monai.__version__}, torch {torch.__version__}: how much of the stored image {EPOCHS} epochs change")
clean = np.random.default_rng(0).random((1, 32, 32), np.float32)  # channels, height, width
changed = {}
for kind, stored in (("tensor", torch.from_numpy(clean.copy())), ("array", clean.copy())):
    for name, transform in transforms.items():
        transform.set_random_state(0)
        image = stored.clone() if kind == "tensor" else stored.copy()
        for _ in range(EPOCHS):
            transform(image)
        changed[kind, name] = float((np.asarray(image) != clean).mean())
        print(f"  {kind}, {name}: {changed[kind, name]:.1%}")
data = {"image": torch.from_numpy(clean.copy())}
in_dictionary.set_random_state(0)
for _ in range(EPOCHS):
    in_dictionary(data)
changed["dictionary", "RandCoarseDropoutd"] = float((data["image"].numpy() != clean).mean())
print(f"  dictionary, RandCoarseDropoutd: {changed['dictionary', 'RandCoarseDropoutd']:.1%}")
written = {name for (_, name), share in changed.items() if share > 0.5}
kept = {name for (_, name), share in changed.items() if share == 0}
if not (
    written == {"RandCoarseDropout", "RandCoarseDropoutd", "RandCoarseShuffle"}
    and kept == {"RandCoarseDropout(dropout_holes=False)", "RandGaussianNoise"}
):
    sys.exit("the behaviour has changed")
PYTHON
