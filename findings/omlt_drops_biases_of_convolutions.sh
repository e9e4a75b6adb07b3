#!/bin/bash
# omlt 1.2.2 (with pyomo 6.10.1, highspy 1.16.0, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6) writes networks as
# problems for mixed-integer solvers, for verification among other things. Its reader of ONNX networks drops the biases
# of convolutions: it checks that there is one for each channel, and then does not use them. It refuses padding,
# dilations and groups as not supported, so we expected that it keeps biases or refuses them, too. It keeps the biases
# of fully connected layers. (A note inside the source and issue 129 say that convolutions have no biases.) Below, we
# try 50 random networks of a convolution, ReLU and a fully connected layer. HiGHS computes the largest score of class 1
# minus that of class 0 in a small box around an image. For 16 networks, onnxruntime computes a larger difference for
# the image itself than the "largest" one in its box. For 3 of these, HiGHS proves that class 1 is impossible in the
# box, and the image has class 1. Without biases there is no such case.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    omlt==1.2.2 pyomo==6.10.1 highspy==1.16.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import pyomo.environ as pyo
from omlt import OmltBlock
from omlt.io.onnx import load_onnx_neural_network
from omlt.neuralnet import ReluBigMFormulation
from onnx import TensorProto, helper

logging.getLogger("pyomo").setLevel(logging.ERROR)  # it warns of starting values outside of the box
SIDE, RADIUS, NETWORKS = 5, 0.02, 50


def network_of(random, biased):
    """A convolution of 2 x 2, ReLU and a fully connected layer for two classes, for OMLT and onnxruntime."""
    weights = {
        "kernel": random.normal(size=(2, 1, 2, 2)), "bias": random.normal(size=2),
        "layer": random.normal(size=(2, 2 * (SIDE - 1) ** 2)), "offset": random.normal(size=2),
    }
    shape = onnx.numpy_helper.from_array(np.array([-1, 2 * (SIDE - 1) ** 2]))
    nodes = [
        helper.make_node("Conv", ["image", "kernel", *(["bias"] if biased else [])], ["map"], name="convolution",
                         kernel_shape=[2, 2], strides=[1, 1], dilations=[1, 1], group=1, pads=[0, 0, 0, 0]),
        helper.make_node("Relu", ["map"], ["evidence"], name="relu"),
        helper.make_node("Constant", [], ["shape"], name="constant", value=shape),
        helper.make_node("Reshape", ["evidence", "shape"], ["flat"], name="reshape"),
        helper.make_node("Gemm", ["flat", "layer", "offset"], ["scores"], name="gemm", alpha=1.0, beta=1.0, transB=1),
    ]
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["images", 2])],
        [onnx.numpy_helper.from_array(values.astype(np.float32), name)
         for name, values in weights.items() if biased or name != "bias"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return model, lambda image: session.run(None, {"image": image})[0][0]


def largest_lead(model, image):
    """The largest score of class 1 minus that of class 0 in the box around the image, by OMLT and HiGHS."""
    bounds = {(0, row, column): (float(image[0, 0, row, column]) - RADIUS, float(image[0, 0, row, column]) + RADIUS)
              for row in range(SIDE) for column in range(SIDE)}
    problem = pyo.ConcreteModel()
    problem.network = OmltBlock()
    problem.network.build_formulation(ReluBigMFormulation(load_onnx_neural_network(model, input_bounds=bounds)))
    outputs = list(problem.network.outputs.values())
    problem.lead = pyo.Objective(expr=outputs[1] - outputs[0], sense=pyo.maximize)
    pyo.SolverFactory("appsi_highs").solve(problem)
    return pyo.value(problem.lead)


print(f"omlt {version('omlt')}, pyomo {version('pyomo')}, highspy {version('highspy')}")
above, disproved = {}, {}
for biased in (False, True):
    random = np.random.default_rng(0)
    above[biased] = disproved[biased] = 0
    for _ in range(NETWORKS):
        model, run = network_of(random, biased)
        image = random.uniform(-1, 1, (1, 1, SIDE, SIDE)).astype(np.float32)
        scores, largest = run(image), largest_lead(model, image)
        above[biased] += bool(scores[1] - scores[0] > largest + 1e-4)
        if scores[1] > scores[0] and largest < 0:
            if not disproved[biased]:
                print(f"  scores of an image by onnxruntime: {scores}")
                print(f"    the largest lead of class 1 in the box around it, by OMLT and HiGHS: {largest:.4f}")
            disproved[biased] += 1
    print(f"  {'with' if biased else 'without'} bias in the convolution: {above[biased]} of {NETWORKS} images exceed"
          f" the largest lead in their own box; {disproved[biased]} have class 1, which is proven impossible there")
if not (above[False] == disproved[False] == 0 and above[True] > 5 and disproved[True] > 0):
    sys.exit("the behaviour has changed")
PYTHON
