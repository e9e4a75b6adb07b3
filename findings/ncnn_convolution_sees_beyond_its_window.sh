#!/bin/bash
# ncnn 1.0.20261020: by default the output of a 3 x 3 convolution depends on pixels outside its 3 x 3 window. ncnn uses
# Winograd's algorithm, which computes tiles of several outputs from the pixels of the whole tile. Terms that cancel in
# exact arithmetic leave rounding errors behind. If columns 0 to 8 of the input change, outputs up to column 9 may
# change. But columns 10 and 11 change, too. Certificates of networks with a limited view (columns, BagNet) say that
# outputs out of a patch's reach stay the same. Here they do not, although the difference is only rounding. Without
# use_winograd_convolution they do.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    --no-deps ncnn==1.0.20261020 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib
import sys

import ncnn
import numpy as np

CHANNELS, SIZE, CHANGED = 16, 32, 9  # columns 0 to 8 change
folder = pathlib.Path(sys.argv[1])
random = np.random.default_rng(0)
weights = (random.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 12).astype(np.float32)
(folder / "net.param").write_text(
    "7767517\n2 2\nInput images 0 1 x\n"  # a number that all such files start with; 2 layers, 2 blobs
    f"Convolution convolution 1 1 x y 0={CHANNELS} 1=3 4=1 5=1 6={weights.size}\n"
)  # 0: outputs, 1: kernel, 4: padding, 5: a bias, 6: how many weights
(folder / "net.bin").write_bytes(np.uint32(0).tobytes() + weights.tobytes() + np.zeros(CHANNELS, np.float32).tobytes())


def convolved(image, winograd):
    net = ncnn.Net()
    net.opt.use_winograd_convolution = winograd
    net.load_param(str(folder / "net.param"))
    net.load_model(str(folder / "net.bin"))
    extractor = net.create_extractor()
    extractor.input("x", ncnn.Mat(image).clone())
    return np.array(extractor.extract("y")[1])


image = (random.random((CHANNELS, SIZE, SIZE)) * 255).astype(np.float32)  # channels, height, width
patched = image.copy()
patched[:, :, :CHANGED] = random.random((CHANNELS, SIZE, CHANGED)) * 255
print(f"ncnn {ncnn.__version__}: outputs where the input changes up to column {CHANGED - 1}; use_winograd_convolution")
last = {}
for winograd in (ncnn.Option().use_winograd_convolution, False):
    differences = np.abs(convolved(image, winograd) - convolved(patched, winograd)).max((0, 1))
    last[winograd] = np.flatnonzero(differences).max()
    beyond = differences[CHANGED + 1 :].max()
    print(f"  {winograd}: change up to column {last[winograd]}, expected {CHANGED}; beyond it by up to {beyond:.1e}")
if not (len(last) == 2 and last[True] > CHANGED and last[False] == CHANGED):
    sys.exit("the behaviour has changed")
PYTHON
