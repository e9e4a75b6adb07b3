#!/bin/bash
# opencv-python-headless 5.0.0.93 (with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6): an ONNX network can name its
# padding: auto_pad is "SAME_UPPER" or "SAME_LOWER". Then kernel and stride decide how many zeros there are. Half of
# them go to each end, and an odd zero goes to the end ("UPPER") or the beginning ("LOWER"). cv2.dnn puts half of kernel
# - 1 at the beginning, for each stride and for both names. The shapes are right. Take a convolution of 3 x 3 with
# stride 2 and "SAME_UPPER", TensorFlow's usual padding. For an even number of pixels it needs one zero, at the end.
# OpenCV puts it at the beginning. So all windows lie one pixel further up and left, and nearly all outputs differ. With
# a stride of 4 both names give wrong results, and "SAME_LOWER" also does with kernels of even size. All is right with
# stride 1 and odd kernels, and if the padding is given as numbers. There is no error and no warning. Suppose that a
# defence uses the network to compute which outputs a patch can reach. Then it is wrong about OpenCV's network: the
# pixel in row 2 and column 2 should reach 4 outputs, and it reaches 1. The pixel in row 3 and column 3 should reach 1,
# and it reaches 4.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

SIDE = 224


def both(kernel, stride, image, **padding):
    """The map of a convolution with random weights, by OpenCV and by onnxruntime."""
    weights = np.random.default_rng(0).normal(size=(1, 1, kernel, kernel)).astype(np.float32)
    node = helper.make_node("Conv", ["image", "weights"], ["map"],
                            kernel_shape=[kernel, kernel], strides=[stride, stride], **padding)
    side = -(-image.shape[-1] // stride)
    graph = helper.make_graph(
        [node], "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, side, side])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    written = model.SerializeToString()
    network = cv2.dnn.readNetFromONNX(np.frombuffer(written, np.uint8))
    network.setInput(image)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return network.forward(), session.run(None, {"image": image})[0]


print(f"OpenCV {cv2.__version__}, onnxruntime {onnxruntime.__version__}: convolutions of {SIDE} x {SIDE} pixels")
image = np.random.default_rng(1).normal(size=(1, 1, SIDE, SIDE)).astype(np.float32)
shares = {}
for kernel, stride, padding in (
    (3, 2, {"auto_pad": "SAME_UPPER"}), (5, 2, {"auto_pad": "SAME_UPPER"}), (3, 4, {"auto_pad": "SAME_UPPER"}),
    (3, 4, {"auto_pad": "SAME_LOWER"}), (2, 1, {"auto_pad": "SAME_LOWER"}),
    (3, 1, {"auto_pad": "SAME_UPPER"}), (3, 1, {"auto_pad": "SAME_LOWER"}), (3, 2, {"pads": [0, 0, 1, 1]}),
):
    by_opencv, expected = both(kernel, stride, image, **padding)
    share = np.mean(np.abs(by_opencv - expected) > 1e-3) if by_opencv.shape == expected.shape else np.nan
    shares[kernel, stride, str(*padding.values())] = share
    name = " ".join(f"{key}={value}" for key, value in padding.items())
    print(f"  {kernel} x {kernel}, stride {stride}, {name}: {share:.1%} of the outputs differ")

reached = {}
for place in (2, 3):
    pixel = np.zeros((1, 1, SIDE, SIDE), np.float32)
    pixel[..., place, place] = 1
    reached[place] = [np.argwhere(scores[0, 0]).tolist() for scores in both(3, 2, pixel, auto_pad="SAME_UPPER")]
    print(f"  3 x 3, stride 2, SAME_UPPER: outputs that see the pixel in row {place} and column {place}:"
          f" OpenCV {reached[place][0]}, onnxruntime {reached[place][1]}")
differ, agree = list(shares.values())[:5], list(shares.values())[5:]
counts = {place: [len(outputs) for outputs in both_ways] for place, both_ways in reached.items()}
if not (min(differ) > 0.9 and max(agree) == 0 and counts == {2: [1, 4], 3: [4, 1]}):
    sys.exit("the behaviour has changed")
PYTHON
