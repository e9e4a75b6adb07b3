#!/bin/bash
# onnx 1.23.2 (with onnxruntime 1.32.0, numpy 2.4.6): the operator LRN divides each value by a norm of the channels next
# to its own, as in AlexNet and GoogLeNet. onnx's reference evaluator does so only in the first N channels, where N is
# the number of images in the batch. Its loop runs over the images, not over the channels. In all other channels it
# takes 0 for the sum of squares, so with a bias of 1 they stay as they were. So the scores of an image depend on how
# many other images are in the batch. We expected the same scores each time, as with onnxruntime. Below, a network has
# the constants of AlexNet and 64 channels. Alone, a third of the images get another answer than in a batch of 64, where
# all channels are normalized. So masked copies in one batch get other votes than one by one. There is no error and no
# warning. (onnx's issue 7805 reports the loop. It is closed, but this version still has it.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

CHANNELS, CLASSES, SIDE, IMAGES = 64, 10, 8, 64
random = np.random.default_rng(0)


nodes = [
    helper.make_node("Conv", ["image", "filters"], ["convolved"]),
    helper.make_node("Relu", ["convolved"], ["positive"]),
    helper.make_node("LRN", ["positive"], ["normalized"], size=5, alpha=1e-4, beta=0.75, bias=1.0),
    helper.make_node("Flatten", ["normalized"], ["flat"]),
    helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
]
constants = {
    "filters": random.normal(size=(CHANNELS, 3, 3, 3)),
    "weights": random.normal(size=(CHANNELS * (SIDE - 2) ** 2, CLASSES)),
}
graph = helper.make_graph(
    nodes,
    "network",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
    [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
evaluator = ReferenceEvaluator(model)
network = {
    f"onnx's reference evaluator {onnx.__version__}": lambda batch: evaluator.run(None, {"image": batch})[0],
    f"onnxruntime {onnxruntime.__version__}": lambda batch: session.run(None, {"image": batch})[0],
}
images = random.uniform(-128, 128, (IMAGES, 3, SIDE, SIDE)).astype(np.float32)
print("answers for the same images, alone, in batches of 8, and in one batch of 64:")
answers, changes = {}, {}
for name, program in network.items():
    for size in (1, 8, IMAGES):
        batches = np.split(images, IMAGES // size)
        answers[name, size] = np.concatenate([program(batch) for batch in batches]).argmax(1)
    changes[name] = [int((answers[name, size] != answers[name, IMAGES]).sum()) for size in (1, 8)]
    print(f"  {name}: {changes[name][0]} of {IMAGES} answers are others alone, {changes[name][1]} in batches of 8")
reference, runtime = network
same = int((answers[reference, IMAGES] == answers[runtime, IMAGES]).sum())
print(f"  in one batch of {IMAGES} images and {CHANNELS} channels, both give the same answer for {same} images")

if not (min(changes[reference]) > 0.2 * IMAGES and changes[runtime] == [0, 0] and same == IMAGES):
    sys.exit("the behaviour has changed")
PYTHON
