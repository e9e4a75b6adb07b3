#!/bin/bash
# onnxruntime 1.32.0 (with onnx 1.23.2, numpy 2.4.6): ReduceMax and ArgMax ignore a NaN, unless it is the first number.
# In numpy and PyTorch a NaN wins wherever it is. Suppose that one class of a network overflows. In PyTorch the largest
# score is then NaN. In the exported network, onnxruntime names the best of the other classes, unless the overflow is in
# class 0. So if you check that the largest score is finite, PyTorch finds every overflow, and onnxruntime finds it for
# one class only. onnx's own reference does the same as numpy.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

graph = helper.make_graph(
    [
        helper.make_node("ReduceMax", ["scores"], ["largest"], axes=[1], keepdims=0),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
    ],
    "answer",
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],  # images, classes
    [
        helper.make_tensor_value_info("largest", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("best", TensorProto.INT64, [1]),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
reference = ReferenceEvaluator(model)

print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}: scores 0 to 9, of which one is NaN")
same = True
for place in (0, 4, 9):
    scores = np.arange(10, dtype=np.float32)[None]
    scores[0, place] = np.nan
    answers = {}
    for name, by in (("onnxruntime", session), ("reference", reference)):
        largest, best = by.run(None, {"scores": scores})
        answers[name] = float(largest[0]), int(best[0])
    answers["numpy"] = float(scores.max()), int(scores.argmax())
    print(f"  NaN for class {place}, largest score and class:", answers)
    hidden = answers["onnxruntime"][0] == answers["onnxruntime"][1] == (8 if place == 9 else 9)
    seen = all(np.isnan(answers[name][0]) and answers[name][1] == place for name in ("reference", "numpy"))
    same &= seen and (hidden if place else np.isnan(answers["onnxruntime"][0]) and answers["onnxruntime"][1] == 0)
if not same:
    sys.exit("the behaviour has changed")
PYTHON
