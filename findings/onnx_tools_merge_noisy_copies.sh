#!/bin/bash
# onnxsim 0.8.1, onnxslim 0.1.98, onnxoptimizer 0.4.2 and OpenVINO 2026.4.1 (with onnx 1.23.2, onnxruntime 1.32.0) make
# ONNX networks smaller or faster. Nodes that compute the same from the same input become one node. We expected that
# this leaves out nodes that draw random numbers: onnx's own table (node_determinism) calls RandomNormalLike
# non-deterministic, and onnxruntime draws new numbers in each of its nodes. But all four tools merge them. A network
# that adds noise to its input 100 times then has only one noisy copy, and everything after it becomes one as well. All
# 100 votes are the same vote. Randomized smoothing takes them for 100 independent votes, and certifies the largest
# radius that 100 votes allow, for every image. Below, the network is linear, so the true distance to another answer of
# the smoothed classifier is known. For every image, the certified radius is larger than this distance. With the network
# as it was written, no radius is too large. There is no error and no warning, and onnxsim says that its check was
# passed. RandomUniformLike is merged in the same way. onnxruntime merges nodes too, but not these two kinds (its pull
# request 3047 asks about them).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check onnx==1.23.2 \
    onnxruntime==1.32.0 onnxsim==0.8.1 onnxslim==0.1.98 onnxoptimizer==0.4.2 openvino==2026.4.1 numpy==2.4.6 \
    scipy==1.17.1
"$folder/venv/bin/python" -W ignore - "$folder/network.onnx" <<'PYTHON'
import sys
from collections import Counter
from importlib.metadata import version

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
import onnxsim
import onnxslim
import openvino
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import beta, norm

COPIES, IMAGES, PIXELS, SIGMA, ALPHA = 100, 200, 64, 0.25, 0.001
random = np.random.default_rng(0)
onnxruntime.set_seed(0)
direction = random.normal(size=PIXELS)
direction /= np.linalg.norm(direction)
weights = np.stack([np.zeros(PIXELS), direction], 1).astype(np.float32)  # class 1 if direction @ image > 0
nodes = []
for copy in range(COPIES):
    nodes += [
        helper.make_node("RandomNormalLike", ["image"], [f"noise {copy}"], scale=SIGMA),
        helper.make_node("Add", ["image", f"noise {copy}"], [f"noisy {copy}"]),
        helper.make_node("MatMul", [f"noisy {copy}", "weights"], [f"scores {copy}"]),
    ]
nodes.append(helper.make_node("Concat", [f"scores {copy}" for copy in range(COPIES)], ["scores"], axis=0))
graph = helper.make_graph(
    nodes,
    "votes",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, PIXELS])],
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [COPIES, 2])],
    [numpy_helper.from_array(weights, "weights")],
)
network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(network, full_check=True)
onnx.save(network, sys.argv[1])


def in_onnxruntime(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


def in_openvino():
    compiled = openvino.compile_model(openvino.Core().read_model(sys.argv[1]), "CPU")
    return lambda image: compiled([image])[0]


def left(model):
    return dict(Counter(node.op_type for node in model.graph.node))


simplified, checked = onnxsim.simplify(network)
slim, optimized = onnxslim.slim(network), onnxoptimizer.optimize(network)
print(f"onnx says about RandomNormalLike: {onnx.defs.get_schema('RandomNormalLike').node_determinism}")
for name, model in (("as written", network), ("onnxsim", simplified), ("onnxslim", slim), ("onnxoptimizer", optimized)):
    print(f"  nodes, {name}: {left(model)}")
print(f"  onnxsim: check passed: {checked}")
programs = {
    f"onnxruntime {version('onnxruntime')}": in_onnxruntime(network),
    f"onnxsim {version('onnxsim')}": in_onnxruntime(simplified),
    f"onnxslim {version('onnxslim')}": in_onnxruntime(slim),
    f"onnxoptimizer {version('onnxoptimizer')}": in_onnxruntime(optimized),
    f"OpenVINO {version('openvino')}": in_openvino(),
}
images = random.normal(size=(IMAGES, PIXELS))
distances = random.uniform(0.01, 1.4, IMAGES) * SIGMA
images += np.outer(distances * random.choice([-1, 1], IMAGES) - images @ direction, direction)
print(f"{COPIES} noisy copies (sigma {SIGMA}) of each of {IMAGES} images, radii with alpha = {ALPHA}:")
false = {}
for name, program in programs.items():
    agree = wrong = 0
    radii = []
    for image, distance in zip(images.astype(np.float32), distances):
        votes = program(image[None]).argmax(1)
        most = max(votes.sum(), COPIES - votes.sum())
        least = beta.ppf(ALPHA / 2, most, COPIES - most + 1)  # by Clopper and Pearson, for either class
        radius = SIGMA * norm.ppf(least)
        agree += most == COPIES
        wrong += radius > distance
        radii.append(max(radius, 0))
    false[name] = int(wrong)
    print(f"  {name}: all votes agree for {agree} images, mean radius {np.mean(radii):.3f} (mean distance"
          f" {distances.mean():.3f}), {wrong} radii are larger than the true distance")
written, *others = false.values()
if written > 3 or others != [IMAGES] * 4:
    sys.exit("the behaviour has changed")
PYTHON
