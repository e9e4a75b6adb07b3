#!/bin/bash
# ncnn 1.0.20261020 (with numpy 2.4.6): networks of ncnn take images as ncnn.Mat, and ncnn.Mat(array) makes one of a
# numpy array. We expected the values of the array. But ncnn reads the memory from the array's first value on, in the
# order in which it lies there. So an image that was transposed from (rows, columns, channels) to (channels, rows,
# columns) keeps its shape, but its channels are mixed. And a window that was cut out of an image contains other pixels,
# most of them from outside the window. Below, a network takes the mean of each channel. For an image that is red all
# over, it says that all channels are equal. For a window of 8 x 8, it takes all three channels from the first one, and
# only a quarter of the first is from the window. If the array is first copied to one piece with
# numpy.ascontiguousarray, all is right. There is no error and no warning. (In issue 3082 of ncnn, which is open, a
# developer answers that users have to copy the array. We did not find this in the README or in the docstring.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    ncnn==1.0.20261020 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import ncnn
import numpy as np

folder = Path(sys.argv[1])
(folder / "net.param").write_text("7767517\n2 2\nInput in0 0 1 in0\nPooling pool 1 1 in0 out0 0=1 4=1\n")
(folder / "net.bin").write_bytes(b"")
network = ncnn.Net()
network.load_param(str(folder / "net.param"))
network.load_model(str(folder / "net.bin"))


def means(array):
    """The mean of each channel, as the network computes it."""
    extractor = network.create_extractor()
    extractor.input("in0", ncnn.Mat(array))
    return np.array(extractor.extract("out0")[1])


print(f"ncnn {ncnn.__version__}")
red = np.zeros((32, 32, 3), np.float32)
red[..., 0] = 1
places = np.arange(3 * 32 * 32, dtype=np.float32).reshape(3, 32, 32)  # each pixel has its own value
arrays = {
    "a red image, transposed": red.transpose(2, 0, 1),
    "a window of 8 x 8": places[:, 12:20, 12:20],
}
held = []
for name, array in arrays.items():
    seen, copied, expected = means(array), means(np.ascontiguousarray(array)), array.mean((1, 2))
    print(f"  {name}: means of the channels {expected.tolist()}, by ncnn {seen.tolist()}, copied first"
          f" {copied.tolist()}")
    held.append(np.allclose(copied, expected, rtol=1e-5) and not np.allclose(seen, expected, rtol=0.01))
window = arrays["a window of 8 x 8"]
inside = [float(np.isin(channel, right).mean()) for channel, right in zip(np.array(ncnn.Mat(window)), window)]
print(f"    of the pixels that ncnn takes for each channel, these shares are of this channel and window: {inside}")
held.append(inside == [0.25, 0, 0])
if not all(held):
    sys.exit("the behaviour has changed")
PYTHON
