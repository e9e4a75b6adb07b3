#!/bin/bash
# keras 3.15.1 (with jax 0.10.2): RandomErasing(factor=1.0) is the default, and the documentation says that it always
# erases. It leaves about half of the images unchanged. A single number is the upper end of a range: for each image a
# probability is drawn between 0 and it. factor=(1.0, 1.0) erases always. A network that was trained with it has seen
# half as many masks or patches as one thinks.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    keras==3.15.1 jax==0.10.2 numpy==2.4.6 scipy==1.17.1
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras
import numpy as np

images = np.full((400, 32, 32, 3), 100, np.float32)  # images, height, width, channels
print(f"keras {keras.__version__}, backend {keras.backend.backend()}")
erased = {}
for factor in (1.0, (1.0, 1.0)):
    layer = keras.layers.RandomErasing(factor=factor, scale=(0.25, 0.25), fill_value=0, seed=0)
    outputs = keras.ops.convert_to_numpy(layer(images, training=True))
    erased[factor] = (outputs != images).any((1, 2, 3)).mean()
    print(f"  factor={factor}: {erased[factor]:.1%} of {len(images)} images erased")
if not (0.4 < erased[1.0] < 0.6 and erased[1.0, 1.0] == 1):
    sys.exit("the behaviour has changed")
PYTHON
