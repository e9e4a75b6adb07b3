#!/bin/bash
# onnxoptimizer 0.4.2 (with onnx 1.23.2, onnxruntime 1.32.0 and numpy 2.4.6): by its default passes, optimize() moves a
# layer that pads with zeros into the pooling after it. Two results of this are other networks. First, max pooling pads
# with minus infinity, not with zeros: where all of a window's values are negative, the maximum was 0 at the border, and
# is negative afterwards. Second, an average pooling with count_include_pad=0 and padding of its own counted the zeros
# of the layer before it, but not its own padding. Afterwards it counts both. Nothing warns. Below, onnx's reference
# evaluator and onnxruntime (without optimisations of its own) agree on both networks before and on both afterwards.
# Padding that moves into a convolution keeps the results, for a convolution does pad with zeros. Suppose that the scores
# of masked copies were certified with the network as it was written. The optimised network gives other scores, and so
# other answers, and what was certified does not hold for it. (Pull request 318 of onnx/optimizer is about max pooling.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    onnxoptimizer==0.4.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

SIDE = 4
ROUND = [0, 0, 1, 1, 0, 0, 1, 1]  # one row or column on each side


def network_of(operator, **attributes):
    weights = ["weights"] if operator == "Conv" else []
    nodes = [
        helper.make_node("Pad", ["image", "around", "zero"], ["padded"]),
        helper.make_node(operator, ["padded", *weights], ["scores"], kernel_shape=[3, 3], **attributes),
    ]
    side = SIDE + 2 * ("pads" in attributes)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, side, side])
    values = {"around": np.array(ROUND), "zero": np.float32(0), "weights": np.ones((1, 1, 3, 3), np.float32)}
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "network", [image], [scores], stored[: 2 + len(weights)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def scores_of(model, image):
    """By onnxruntime, if onnx's reference evaluator agrees."""
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), plain, providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": image})[0]
    assert np.allclose(found, ReferenceEvaluator(model).run(None, {"image": image})[0], atol=1e-6)
    return found[0, 0]


image = -1 - np.random.default_rng(0).random((1, 1, SIDE, SIDE), np.float32)
print(f"onnxoptimizer {onnxoptimizer.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
moved = []
for name, model in {
    "max pooling": network_of("MaxPool"),
    "average pooling, count_include_pad=0": network_of("AveragePool", pads=[1, 1, 1, 1], count_include_pad=0),
    "convolution": network_of("Conv"),
}.items():
    optimised = onnxoptimizer.optimize(model)
    before, after = scores_of(model, image), scores_of(optimised, image)
    moved.append(not np.allclose(before, after, atol=1e-5))
    print(f"{name}, now {', '.join(node.op_type for node in optimised.graph.node)}: other scores: {moved[-1]}")
    print(f"  first row before {before[0].round(3)}")
    print(f"  first row after  {after[0].round(3)}")
if moved != [True, True, False]:
    sys.exit("the behaviour has changed")
PYTHON
