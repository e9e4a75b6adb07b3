#!/bin/bash
# onnx 1.23.2 (with numpy 2.4.6): onnx.reference.ReferenceEvaluator is meant to define what an ONNX model computes. With
# stride 1 it reads the four pads of a MaxPool as above, below, left, right. ONNX's order is above, left, below, right.
# onnx.shape_inference reads them in this order, and so does the evaluator itself with stride 2. The order matters if
# the pads differ, as in a pooling of 2 x 2 that keeps the size of the image (small YOLO networks have one): outputs
# then have another shape and see other windows. AveragePool is right. There is no error and no warning. If you test
# against this reference which outputs a patch can reach, the right engine looks wrong.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

SIZE = 2  # of the windows, both ways
images = np.random.default_rng(0).random((1, 1, 9, 9), np.float32)  # images, channels, height, width


def evaluated(kind, pads, stride):
    """What the reference computes of one pooling, and the shape that onnx infers for it."""
    node = helper.make_node(kind, ["x"], ["y"], kernel_shape=[SIZE, SIZE], pads=pads, strides=[stride, stride])
    graph = helper.make_graph(
        [node],
        "pooling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, images.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    return ReferenceEvaluator(model).run(None, {"x": images})[0], tuple(dim.dim_value for dim in inferred)


def by_hand(kind, pads, stride):
    """The same from the definition; averages leave padding out."""
    above, left, below, right = pads
    padded = np.pad(images, ((0, 0), (0, 0), (above, below), (left, right)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIZE, SIZE), (2, 3))[:, :, ::stride, ::stride]
    return (np.nanmax if kind == "MaxPool" else np.nanmean)(windows, (4, 5))


print(f"onnx {onnx.__version__}: windows of {SIZE} x {SIZE} on an image of 9 x 9")
right = {}
for kind in ("MaxPool", "AveragePool"):
    for pads, stride in (([1, 1, 1, 1], 1), ([0, 0, 1, 1], 1), ([0, 0, 1, 1], 2)):
        found, inferred = evaluated(kind, pads, stride)
        expected = by_hand(kind, pads, stride)
        right[kind, tuple(pads), stride] = found.shape == expected.shape and np.allclose(found, expected, atol=1e-6)
        print(f"  {kind}, pads {pads}, stride {stride}: {found.shape}, inferred {inferred}, right: ", end="")
        print(right[kind, tuple(pads), stride])
wrong = [case for case, same in right.items() if not same]
if wrong != [("MaxPool", (0, 0, 1, 1), 1)]:
    sys.exit("the behaviour has changed")
PYTHON
