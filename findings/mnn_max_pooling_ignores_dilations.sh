#!/bin/bash
# MNN 3.6.1 (with onnx 1.23.2 and numpy 2.4.6): a max pooling in ONNX can have dilations: with a window of 3 x 3 and a
# dilation of 2, it takes the largest of 9 pixels, and each is 2 rows or columns from the next. MNN's converter drops
# the dilations and reports success. The converted network pools 9 pixels that touch each other, so it returns other
# maxima, and more of them than the ONNX network. MNN respects the dilations of a convolution. Below, onnx's reference
# evaluator and numpy agree on the right result, and MNN's result is exactly that of dilation 1. Suppose that a defence
# uses the ONNX network to compute which outputs a patch can reach, or takes the largest score of a window. Then it is
# wrong about the converted network: outputs depend on pixels that they should not see, and not on some pixels that they
# should see.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    MNN==3.6.1 onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import MNN
import numpy as np
import onnx
from MNN import expr
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

SIDE, DILATION = 12, 2


def maxima(image, dilation):
    reach = 2 * dilation + 1
    return sliding_window_view(image, (reach, reach), (-2, -1))[..., ::dilation, ::dilation].max((-2, -1))


def by_mnn(model, image):
    onnx.save(model, "network.onnx")
    converter = Path(sys.executable).with_name("mnnconvert")
    done = subprocess.run(
        [sys.executable, converter, "-f", "ONNX", "--modelFile", "network.onnx", "--MNNModel", "network.mnn"],
        capture_output=True, text=True, check=True,
    )
    print("  converter:", next(line for line in done.stdout.splitlines() if "uccess" in line))
    network = MNN.nn.load_module_from_file("network.mnn", ["image"], ["scores"])
    result = network.forward([expr.const(image, list(image.shape), expr.NCHW)])[0]
    return np.array(expr.convert(result, expr.NCHW).read())


def network_of(operator, weights=()):
    node = helper.make_node(
        operator, ["image", *(["weights"] if len(weights) else [])], ["scores"],
        kernel_shape=[3, 3], strides=[1, 1], dilations=[DILATION, DILATION],
    )
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])
    left = SIDE - 2 * DILATION
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, left, left])
    initializers = [onnx.numpy_helper.from_array(weights, "weights")] if len(weights) else []
    graph = helper.make_graph([node], "network", [image], [scores], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


image = np.random.default_rng(0).random((1, 1, SIDE, SIDE), np.float32)
print(f"MNN {version('mnn')}, onnx {onnx.__version__}: 3 x 3 with dilation {DILATION}, {SIDE} x {SIDE} pixels")
model = network_of("MaxPool")
onnx.checker.check_model(model, full_check=True)
said = ReferenceEvaluator(model).run(None, {"image": image})[0]
converted = by_mnn(model, image)
agree = np.array_equal(said, maxima(image, DILATION))
print(f"  max pooling by onnx: {said.shape}, first row {said[0, 0, 0].round(3)}; as numpy: {agree}")
without = np.array_equal(converted, maxima(image, 1))
print(f"  max pooling by MNN: {converted.shape}, first row {converted[0, 0, 0].round(3)}; as of dilation 1: {without}")

model = network_of("Conv", np.ones((1, 1, 3, 3), np.float32))
heeded = np.allclose(by_mnn(model, image), ReferenceEvaluator(model).run(None, {"image": image})[0], atol=1e-4)
print(f"  a convolution with the same dilation: MNN agrees with onnx: {heeded}")
if not (agree and without and heeded):
    sys.exit("the behaviour has changed")
PYTHON
