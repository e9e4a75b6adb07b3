#!/bin/bash
# MNN 3.6.1 (with onnx 1.23.2 and numpy 2.4.6): ONNX's ArgMax and ArgMin have an option select_last_index. If it is 1
# and several values are equally large (small), the last one counts. MNN's converter drops the option and reports
# success. The converted network chooses the first one. onnx's reference evaluator and numpy agree on the last one. A
# vote over masked images must decide ties the same way everywhere, because a certificate relies on it. Here the
# converted network names another class than the certified ONNX network whenever votes tie. Only ties differ.
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
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

IMAGES, CLASSES = 1000, 10

votes = np.random.default_rng(0).integers(0, 6, (IMAGES, CLASSES)).astype(np.float32)
print(f"MNN {version('mnn')}, onnx {onnx.__version__}: votes for {CLASSES} classes, {IMAGES} images")
found = []
for operator, wanted in (("ArgMax", votes), ("ArgMin", -votes)):
    node = helper.make_node(operator, ["votes"], ["winner"], axis=1, keepdims=0, select_last_index=1)
    graph = helper.make_graph(
        [node], "network",
        [helper.make_tensor_value_info("votes", TensorProto.FLOAT, [IMAGES, CLASSES])],
        [helper.make_tensor_value_info("winner", TensorProto.INT64, [IMAGES])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    said = ReferenceEvaluator(model).run(None, {"votes": votes})[0]
    onnx.save(model, "network.onnx")
    converter = Path(sys.executable).with_name("mnnconvert")
    done = subprocess.run(
        [sys.executable, converter, "-f", "ONNX", "--modelFile", "network.onnx", "--MNNModel", "network.mnn"],
        capture_output=True, text=True, check=True,
    )
    message = next(line for line in done.stdout.splitlines() if "uccess" in line)
    network = MNN.nn.load_module_from_file("network.mnn", ["votes"], ["winner"])
    converted = np.array(network.forward([expr.const(votes, list(votes.shape), expr.NCHW)])[0].read())

    tied = (wanted == wanted.max(1, keepdims=True)).sum(1) > 1
    last = np.array_equal(said, CLASSES - 1 - wanted[:, ::-1].argmax(1))
    first = np.array_equal(converted, wanted.argmax(1))
    print(f"  {operator} with select_last_index=1; converter: {message}")
    print(f"    onnx names the last one: {last}; MNN names the first one: {first}")
    print(f"    {tied.sum()} images have ties; MNN differs on {(said != converted).sum()} images")
    print(f"    first votes {votes[tied][0].astype(int)}: onnx {said[tied][0]}, MNN {converted[tied][0]}")
    found.append(last and first and ((said != converted) == tied).all())
if not all(found):
    sys.exit("the behaviour has changed")
PYTHON
