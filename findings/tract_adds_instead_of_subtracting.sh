#!/bin/bash
# tract 0.23.9 (with onnx 1.23.2, numpy 2.4.6), runs ONNX networks. If a constant with one number for each channel
# stands before the minus, as in `prototype - Conv(x)`, tract adds: it returns prototype + Conv(x), without an error or
# a warning. For `constant / Conv(x)` it returns infinity. This holds for kernels of more than one pixel, in one and two
# dimensions, with and without bias. It is right for 1 x 1 kernels, for a single number before the minus (unless there
# is only one channel), for `Conv(x) - constant`, and with a ReLU in between. onnx's reference evaluator and onnxruntime
# subtract. So a network that was certified and then exported is another one in tract: with the 3 x 3 kernel below it
# chooses the other class. After an export, compare scores before anything else.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    tract==0.23.9 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import onnx
import tract
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

IMAGE = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)  # image, channel, row, column


def scores(operation, kernel, shape, constant_first=True):
    """Mean of each of two channels of `constant operation Conv(x)`, by onnx's reference and by tract."""
    operands = ["constant", "features"] if constant_first else ["features", "constant"]
    nodes = [
        helper.make_node("Conv", ["x", "weights"], ["features"]),
        helper.make_node(operation, operands, ["difference"]),
        helper.make_node("GlobalAveragePool", ["difference"], ["scores"]),
    ]
    weights = np.stack([np.full((1, kernel, kernel), value, np.float32) for value in (1, 2)])  # 2 channels out, 1 in
    constant = np.broadcast_to(np.array([100, 120], np.float32).reshape(2, 1, 1), shape) if shape else np.float32(100)
    constants = [numpy_helper.from_array(np.array(weights), "weights"), numpy_helper.from_array(constant, "constant")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE.shape)]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2, 1, 1])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path = f"{sys.argv[1]}/network.onnx"
    onnx.save(model, path)
    expected = ReferenceEvaluator(model).run(None, {"x": IMAGE})[0]
    got = tract.onnx().load(path).into_model().into_runnable().run([IMAGE])[0].to_numpy()
    return expected.ravel().tolist(), got.ravel().tolist()


print(f"tract {version('tract')}, onnx {onnx.__version__}: scores of two classes")
cases = {
    "constant for each channel - 2 x 2 convolution": ("Sub", 2, (2, 1, 1)),
    "constant for each channel - 3 x 3 convolution": ("Sub", 3, (2, 1, 1)),
    "constant for each channel / 2 x 2 convolution": ("Div", 2, (2, 1, 1)),
    "constant for each channel - 1 x 1 convolution": ("Sub", 1, (2, 1, 1)),
    "one number - 2 x 2 convolution": ("Sub", 2, ()),
    "2 x 2 convolution - constant for each channel": ("Sub", 2, (2, 1, 1), False),
}
right = {}
for name, case in cases.items():
    expected, got = scores(*case)
    right[name] = np.allclose(expected, got)
    print(f"  {name}: onnx {expected}, tract {got}")
if list(right.values()) != [False, False, False, True, True, True]:
    sys.exit("the behaviour has changed")
PYTHON
