#!/bin/bash
# onnxslim 0.1.98 and onnx-graphsurgeon 0.6.1 (with onnx 1.23.2, onnxruntime 1.32.0) compute parts of an ONNX network in
# advance that do not depend on its inputs. We expected that this leaves out nodes that draw random numbers, which
# onnx's own table (node_determinism) calls non-deterministic. But RandomNormal and RandomUniform have no inputs, and
# Bernoulli may have constant ones. onnxslim's slim() and onnx-graphsurgeon's fold_constants() run these nodes once, and
# write the numbers that they drew into the network. From then on, each call adds the same noise, or hides the same
# pixels. slim() also removes a Dropout whose training_mode is true, which draws in each call. Below, a linear network
# adds noise, and 100 calls vote. All votes agree, so randomized smoothing certifies the largest radius that 100 votes
# allow, and this is larger than the true distance to another answer for every image. Everybody who has the file knows
# the noise. onnxsim and onnxoptimizer keep such nodes. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check onnx==1.23.2 \
    onnxruntime==1.32.0 onnxsim==0.8.1 onnxslim==0.1.98 onnxoptimizer==0.4.2 onnx-graphsurgeon==0.6.1 numpy==2.4.6 \
    scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from collections import Counter
from importlib.metadata import version

import numpy as np
import onnx
import onnx_graphsurgeon
import onnxoptimizer
import onnxruntime
import onnxsim
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import beta, norm

CALLS, IMAGES, PIXELS, SIGMA, ALPHA = 100, 200, 64, 0.25, 0.001
onnxruntime.set_seed(0)
random = np.random.default_rng(0)
direction = random.normal(size=PIXELS)
direction /= np.linalg.norm(direction)
weights = np.stack([np.zeros(PIXELS), direction], 1).astype(np.float32)  # class 1 if direction @ image > 0
constants = {
    "weights": weights,
    "half": np.full((1, PIXELS), 0.5, np.float32),
    "ratio": np.array(0.5, np.float32),
    "yes": np.array(True),
}
starts = {
    "RandomNormal": [
        helper.make_node("RandomNormal", [], ["noise"], shape=[1, PIXELS], scale=SIGMA),
        helper.make_node("Add", ["image", "noise"], ["changed"]),
    ],
    "Bernoulli": [
        helper.make_node("Bernoulli", ["half"], ["mask"]),
        helper.make_node("Mul", ["image", "mask"], ["changed"]),
    ],
    "Dropout": [helper.make_node("Dropout", ["image", "ratio", "yes"], ["changed"])],
}


def network(start):
    nodes = starts[start] + [helper.make_node("MatMul", ["changed", "weights"], ["scores"])]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "noisy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, PIXELS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def folded(model):
    graph = onnx_graphsurgeon.import_onnx(model)
    return onnx_graphsurgeon.export_onnx(graph.fold_constants().cleanup())


def program(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # onnxruntime says that it does not fold Bernoulli
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0][0]


tools = {
    "as written": lambda model: model,
    f"onnxslim {version('onnxslim')}": onnxslim.slim,
    f"onnx-graphsurgeon {version('onnx-graphsurgeon')}": folded,
    f"onnxsim {version('onnxsim')}": lambda model: onnxsim.simplify(model)[0],
    f"onnxoptimizer {version('onnxoptimizer')}": onnxoptimizer.optimize,
}
images = random.normal(size=(IMAGES, PIXELS))
distances = random.uniform(0.01, 1.4, IMAGES) * SIGMA
images += np.outer(distances * random.choice([-1, 1], IMAGES) - images @ direction, direction)
images = images.astype(np.float32)
frozen, false = {}, {}
for name, tool in tools.items():
    parts = []
    for start in starts:
        model = tool(network(start))
        run = program(model)
        frozen[name, start] = len({run(images[:1]).tobytes() for call in range(CALLS)}) == 1
        kinds = "+".join(Counter(node.op_type for node in model.graph.node))
        scores = "the same scores" if frozen[name, start] else "other scores"
        parts.append(f"{start} becomes {kinds}, {scores} each time")
    print(f"{name}: {'; '.join(parts)}")
    run = program(tool(network("RandomNormal")))
    agree = wrong = 0
    for image, distance in zip(images, distances):
        ones = int(sum(run(image[None]).argmax() for call in range(CALLS)))
        most = max(ones, CALLS - ones)
        least = beta.ppf(ALPHA / 2, most, CALLS - most + 1)  # by Clopper and Pearson, for either class
        agree += most == CALLS
        wrong += SIGMA * norm.ppf(least) > distance
    false[name] = wrong
    print(f"  {CALLS} calls for each of {IMAGES} images: all votes agree for {agree} images, {wrong} radii are larger"
          " than the true distance")
written, slim, graphsurgeon, *others = tools
if not (all(frozen[slim, start] for start in starts)
        and frozen[graphsurgeon, "RandomNormal"] and frozen[graphsurgeon, "Bernoulli"]
        and not any(frozen[name, start] for name in (written, *others) for start in starts)
        and false[slim] == false[graphsurgeon] == IMAGES and max(false[name] for name in (written, *others)) <= 3):
    sys.exit("the behaviour has changed")
PYTHON
