#!/bin/bash
# onnxruntime 1.32.0 (with onnx 1.23.2): ONNX has the operator Bernoulli, which draws a random mask. Its documentation
# says that it "is non-deterministic". A network that hides pixels at random and votes has one such node for each of its
# masks. We expected that each node draws its own mask. With default settings, onnxruntime makes one node of all nodes
# that draw with the same probabilities and have no seed, so all masks are one mask, and all votes are one vote. This
# begins with ORT_ENABLE_BASIC. Without optimizations, each node draws its own mask. RandomUniformLike, RandomNormalLike
# and Dropout keep all their nodes. Below, 100 masks hide each pixel with a probability of 0.5, which does not depend on
# which of both values hides. All votes agree for each image. The lower bound of the share of masks that vote for an
# answer is then 0.93, although alpha is 0.001 and the true share is smaller for nearly all images. A certificate from
# such a bound is false. Each call draws another mask, so for many images the answer changes from call to call. There is
# no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check onnxruntime==1.32.0 \
    onnx==1.23.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - "$folder/optimized.onnx" <<'PYTHON'
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import beta

MASKS, IMAGES, PIXELS, KEPT, ALPHA, CALLS = 100, 200, 64, 0.5, 0.001, 20
onnxruntime.set_seed(0)
random = np.random.default_rng(0)
weights = random.normal(size=(PIXELS, 2)).astype(np.float32)
nodes = []
for mask in range(MASKS):
    nodes += [
        helper.make_node("Bernoulli", ["kept"], [f"mask {mask}"]),
        helper.make_node("Mul", ["image", f"mask {mask}"], [f"masked {mask}"]),
        helper.make_node("MatMul", [f"masked {mask}", "weights"], [f"scores {mask}"]),
    ]
nodes.append(helper.make_node("Concat", [f"scores {mask}" for mask in range(MASKS)], ["scores"], axis=0))
graph = helper.make_graph(
    nodes,
    "votes",
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, PIXELS]) for name in ("image", "kept")],
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [MASKS, 2])],
    [numpy_helper.from_array(weights, "weights")],
)
network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(network, full_check=True)
kept = np.full((1, PIXELS), KEPT, np.float32)
images = random.uniform(-1, 1, (IMAGES, PIXELS)).astype(np.float32)
drawn = (random.random((20000, PIXELS)) < KEPT) * 1.0
differences = (drawn * (weights[:, 1] - weights[:, 0])) @ images.T
shares = (differences > 0).mean(0)  # of class 1, by numpy

print(f"onnxruntime {onnxruntime.__version__}: {MASKS} random masks for each of {IMAGES} images, {CALLS} calls")
found = {}
for name in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, name)
    options.optimized_model_filepath = sys.argv[1]
    options.log_severity_level = 3  # it is no news that the written file is for this machine
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    drawing = Counter(node.op_type for node in onnx.load(sys.argv[1]).graph.node)["RandomUniformLike"]
    agree = false = 0
    answers = []
    for image, share in zip(images, shares):
        inputs = {"image": image[None], "kept": kept}
        ones = [int(session.run(None, inputs)[0].argmax(1).sum()) for call in range(CALLS)]
        answers.append([one > MASKS / 2 for one in ones])
        agree += ones[0] in (0, MASKS)
        most, true = max((ones[0], share), (MASKS - ones[0], 1 - share))
        false += beta.ppf(ALPHA / 2, most, MASKS - most + 1) > true
    often = np.mean(answers, 1)
    unsteady = int((np.minimum(often, 1 - often) >= 0.25).sum())
    found[name] = agree, false
    print(f"  {name}{' (the default)' if name == 'ORT_ENABLE_ALL' else ''}: {drawing} nodes draw numbers;"
          f" all votes agree for {agree} images; lower bound above the true share: {false}; answers that change in at"
          f" least a quarter of the calls: {unsteady}")
if max(found["ORT_DISABLE_ALL"]) > 0.05 * IMAGES or min(*found["ORT_ENABLE_BASIC"], *found["ORT_ENABLE_ALL"]) < 150:
    sys.exit("the behaviour has changed")
PYTHON
