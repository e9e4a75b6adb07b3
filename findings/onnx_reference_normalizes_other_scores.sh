#!/bin/bash
# onnx 1.23.2 (with onnxruntime 1.32.0 and numpy 2.4.6): before opset 13, Softmax and LogSoftmax with axis=1 flatten the
# scores of an image to one row, and normalize over the whole row. That is also what they do if no axis is given. onnx's
# reference evaluator computes them as from opset 13 on: along axis 1 only, or, if no axis is given, along the last one.
# It gives no warning. onnxruntime and numpy follow the specification. onnx's own version converter follows it, too:
# after it has converted the network to opset 17, the reference evaluator computes the right result. For scores of shape
# (images, classes) there is no difference. For scores of shape (images, classes, rows, columns), as in a defence with
# one vote per window, there is one. If you compare an exported network with the reference, you compare it with another
# network.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, version_converter
from onnx.reference import ReferenceEvaluator

SHAPE = (1, 4, 7, 8)  # images, classes, rows, columns


def specified(operator, scores):
    row = np.exp(scores.reshape(len(scores), -1))
    result = (row / row.sum(1, keepdims=True)).reshape(scores.shape)
    return np.log(result) if operator == "LogSoftmax" else result


scores = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}: scores of shape {SHAPE}, opset 11")
found = []
for operator in ("Softmax", "LogSoftmax"):
    for attributes in ({"axis": 1}, {}):
        node = helper.make_node(operator, ["scores"], ["result"], **attributes)
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("scores", "result")]
        graph = helper.make_graph([node], "network", values[:1], values[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        feeds = {"scores": scores}
        results = {
            "onnxruntime": onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0],
            "reference, opset 17": ReferenceEvaluator(version_converter.convert_version(model, 17)).run(None, feeds)[0],
            "reference, opset 11": ReferenceEvaluator(model).run(None, feeds)[0],
        }
        print(f"  {operator} {attributes or 'without axis'}: differs from the specification by at most")
        for name, result in results.items():
            difference = np.abs(result - specified(operator, scores)).max()
            print(f"    {name}: {difference:.3g}")
            found.append((difference > 0.1) == (name == "reference, opset 11"))
if not all(found):
    sys.exit("the behaviour has changed")
PYTHON
