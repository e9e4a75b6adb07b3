#!/bin/bash
# safetensors 0.8.0 (with numpy 2.4.6): safetensors.numpy.save_file writes the values of a transposed array in the order
# in which they lie in memory, beside the shape that they have after the transposition. The loaded array has the right
# shape and type, but its values are at other places. Images turned from height, width, channels to channels, height,
# width come back as stripes. Weights turned from TensorFlow's order come back as noise. There is no error and no
# warning. safetensors.torch refuses tensors that are not contiguous. safetensors 0.7.0 wrote such arrays correctly. To
# avoid it, call numpy.ascontiguousarray first.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

path = sys.argv[1] + "/images.safetensors"
image = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)  # height, width, channels
turned = image.transpose(2, 0, 1)  # channels, height, width
came_back = {}
print(f"safetensors {safetensors.__version__}, numpy {np.__version__}")
for name, array in (("as it is", image), ("transposed", turned), ("made contiguous", np.ascontiguousarray(turned))):
    save_file({"image": array}, path)
    loaded = load_file(path)["image"]
    came_back[name] = np.array_equal(loaded, array)
    share = (loaded == array).mean()
    print(f"  {name}: {array.shape} {array.dtype} comes back as {loaded.shape} {loaded.dtype}, {share:.1%} right")
if came_back != {"as it is": True, "transposed": False, "made contiguous": True}:
    sys.exit("the behaviour has changed")
PYTHON
