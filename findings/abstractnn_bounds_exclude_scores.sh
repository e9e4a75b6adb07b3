#!/bin/bash
# abstractNN 0.1.5 (with onnx 1.23.2, numpy 2.4.6), which announces "mathematically proven bounds on network outputs":
# where a ReLU may be on or off, it continues with the straight line above the ReLU, as if the ReLU were that line. Its
# source speaks of a coarse relaxation, so one expects bounds that are too wide. They are too narrow: for |x|, written
# as relu(x) + relu(-x), with x from -1 to 1, both bounds are 1, although |0| is 0. So if class 0 has the score |x| and
# class 1 has the score 0.5, class 0 counts as proven. But x = 0 is class 1. With sigmoid and tanh it continues with the
# tangent in the middle, and this misses them, too. We tried 1,000 points for each of 200 small random networks of each
# kind. All networks with ReLU had scores outside of their bounds, and so had more than half of those with sigmoid or
# tanh. Linear networks had none.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    abstractNN==0.1.5 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 \
    pillow==13.0.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import onnx
from abstractnn import BoundPropagator, ONNXParser
from abstractnn.affine_engine import AffineExpressionEngine
from onnx import TensorProto, helper, numpy_helper

NETWORKS, POINTS, HIDDEN = 200, 1_000, 8
ACTIVATIONS = {
    "Identity": lambda values: values,
    "Relu": lambda values: np.maximum(values, 0),
    "Sigmoid": lambda values: 1 / (1 + np.exp(-values)),
    "Tanh": np.tanh,
}


def bounds(activation, first, second, bias, middle, radius):
    """Bounds of second @ activation(first @ x) + bias for each |x - middle| <= radius: lower ends, upper ends."""
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["hidden"], transB=1),
        helper.make_node(activation, ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "second", "bias"], ["scores"], transB=1),
    ]
    arrays = {"first": first, "second": second, "bias": bias}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, first.shape[1]])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, len(second)])]
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    path = f"{sys.argv[1]}/network.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "network", inputs, outputs, weights)), path)
    inputs = AffineExpressionEngine.create_input_expressions(middle, radius)
    found = BoundPropagator(enable_reporting=False).propagate(inputs, ONNXParser(path).parse(), (1, middle.size))
    return np.array([score.get_bounds() for score in found]).T


print(f"abstractNN {version('abstractNN')}")
first, second, bias = np.array([[1], [-1]]), np.array([[1, 1], [0, 0]]), np.array([0, 0.5])
lower, upper = bounds("Relu", first, second, bias, np.zeros(1), 1.0)
print(f"  bounds of |x| for x from -1 to 1: {lower[0]:g}, {upper[0]:g}; of the other class: {lower[1]:g}, {upper[1]:g}")
print("  scores at x = 0: 0 and 0.5")

random = np.random.default_rng(0)
wrong = dict.fromkeys(ACTIVATIONS, 0)
for _ in range(NETWORKS):
    first, second = random.standard_normal((HIDDEN, 4)), random.standard_normal((3, HIDDEN))
    first, second = first.astype(np.float32), second.astype(np.float32)
    middle = random.uniform(-1, 1, 4)
    points = middle + random.uniform(-1, 1, (POINTS, 4))
    for name, activation in ACTIVATIONS.items():
        scores = activation(points @ first.T) @ second.T
        lower_ends, upper_ends = bounds(name, first, second, np.zeros(3), middle, 1.0)
        wrong[name] += bool(((scores < lower_ends - 1e-3) | (scores > upper_ends + 1e-3)).any())
for name, count in wrong.items():
    print(f"  {name}: {count} of {NETWORKS} random networks have a score out of its bounds by 0.001 or more")
if not (lower[0] == 1 and wrong["Identity"] == 0 and min(wrong[name] for name in ("Relu", "Sigmoid", "Tanh")) > 0):
    sys.exit("the behaviour has changed")
PYTHON
