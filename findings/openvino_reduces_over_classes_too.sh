#!/bin/bash
# openvino 2026.4.1 (with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6): in ONNX, ReduceLogSumExp, ReduceLogSum and
# ReduceL1 have axes over which they reduce. In opsets 13 to 17, OpenVINO ignores these axes, and reduces over all axes:
# over rows, columns, classes and images. We expected the result of onnxruntime, or an error. In opsets 11 and 18, and
# for the maximum, the sum, the mean and the L2 norm, the results are right. A smooth maximum over all windows
# (logsumexp) is one way to turn a map of evidence for each class into scores. Below, the network is a convolution, such
# a smooth maximum over rows and columns with keepdims, and ArgMax over the classes. OpenVINO gives all classes the same
# score, so it answers class 0 for each of 100 images. If one subtracts logsumexp over the classes from the scores, to
# have logarithms of probabilities, the shapes fit, too, and the probabilities of an image no longer add up to 1. There
# is no error and no warning. (Issue 38238 of OpenVINO reports the axes.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

CLASSES, IMAGES, AXES_AS_INPUT = 4, 100, 18  # from opset 18 on, the axes are an input of the node
random = np.random.default_rng(0)


def outputs(nodes, arrays, image_shape, names, opset, images):
    """What onnxruntime and OpenVINO compute for each image: lists with the outputs of these names."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *image_shape])]
    kinds = {"class": TensorProto.INT64}
    results = [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in names]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "network", inputs, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU")
    expected = [session.run(None, {"x": image[None]}) for image in images]
    found = [[np.array(value) for value in compiled([image[None]]).values()] for image in images]
    return expected, found


def reduction(kind, source, target, axes, opset):
    if opset < AXES_AS_INPUT:
        return helper.make_node(kind, [source], [target], axes=axes, keepdims=1), {}
    return helper.make_node(kind, [source, "axes"], [target], keepdims=1), {"axes": np.array(axes)}


print(f"openvino {version('openvino')}, onnxruntime {onnxruntime.__version__}")
maps = random.random((1, CLASSES, 3, 3), dtype=np.float32) + 0.1
wrong = set()
for kind in ("ReduceLogSumExp", "ReduceLogSum", "ReduceL1", "ReduceMax", "ReduceMean", "ReduceL2"):
    for opset in (11, 13, 17, 18):
        node, arrays = reduction(kind, "x", "y", [2, 3], opset)
        [[expected]], [[found]] = outputs([node], arrays, (CLASSES, 3, 3), ["y"], opset, maps)
        if expected.shape != found.shape or not np.allclose(expected, found, rtol=1e-3):
            wrong.add((kind, opset))
            print(f"  {kind}, opset {opset}: shape {expected.shape}, in OpenVINO {found.shape}")

weights = {"w": random.normal(size=(CLASSES, 3, 5, 5)).astype(np.float32)}
images = random.standard_normal((IMAGES, 3, 16, 16), dtype=np.float32)
same, sums = {}, {}
for opset in (17, 18):
    smooth, arrays = reduction("ReduceLogSumExp", "evidence", "scores", [2, 3], opset)
    conv = helper.make_node("Conv", ["x", "w"], ["evidence"])
    largest = helper.make_node("ArgMax", ["scores"], ["class"], axis=1)
    nodes, arrays = [conv, smooth, largest], {**weights, **arrays}
    expected, found = outputs(nodes, arrays, (3, 16, 16), ["class"], opset, images)
    classes = [np.bincount(np.ravel(answers), minlength=CLASSES).tolist() for answers in (expected, found)]
    same[opset] = np.array_equal(np.ravel(expected), np.ravel(found))
    print(f"  opset {opset}: of {IMAGES} images, each class gets {classes[0]}, in OpenVINO {classes[1]}")
    scale, arrays = reduction("ReduceLogSumExp", "x", "scale", [1], opset)
    minus = helper.make_node("Sub", ["x", "scale"], ["logarithms"])
    _, [[logarithms]] = outputs([scale, minus], arrays, (CLASSES, 3, 3), ["logarithms"], opset, maps)
    sums[opset] = np.exp(logarithms).sum(1)
    print(f"  opset {opset}: in OpenVINO, probabilities add up to {sums[opset].min():.2f} to {sums[opset].max():.2f}")
ignored = {(kind, opset) for kind in ("ReduceLogSumExp", "ReduceLogSum", "ReduceL1") for opset in (13, 17)}
if not (wrong == ignored and same == {17: False, 18: True} and sums[17].max() < 0.5 and np.allclose(sums[18], 1)):
    sys.exit("the behaviour has changed")
PYTHON
