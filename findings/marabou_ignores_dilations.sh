#!/bin/bash
# maraboupy 2.0.0 (with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6) is the Python interface of the verifier Marabou.
# Its reader of ONNX networks ignores the dilations of a convolution or of a max pooling, and the padding of a max
# pooling. We expected an error, as the reader raises one for operators that it does not know. Often the shapes do not
# fit afterwards, and then there is an error. With strides, or if the padding makes up for the dilation, the shapes fit.
# Then Marabou reads and verifies another network of the same shape, without an error or a warning. Below, the network
# is a convolution of 3 x 3 with dilation 2 and stride 4, and a fully connected layer. We ask whether class 1 wins for
# any image in a small box. The network is linear, so one corner of the box is the best for class 1. For 15 of 100
# boxes, onnxruntime says that class 1 wins in this corner, and Marabou says "unsat", which is a proof that there is no
# such image. With dilation 1 they agree. (Issue 614 of Marabou also reports the padding of a max pooling.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    maraboupy==2.0.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import os
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from maraboupy import Marabou
from maraboupy.MarabouUtils import Equation
from onnx import TensorProto, helper

SIDE, RADIUS, IMAGES = 10, 0.05, 100
PATH = "network.onnx"
sys.stdout = open(os.dup(1), "w")  # Marabou turns descriptor 1 to its log, and leaves it so after "unsat"


def network_of(nodes, shape, weights, last):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, last)
    initializers = [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "network", [image], [scores], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, PATH)
    return onnxruntime.InferenceSession(PATH, providers=["CPUExecutionProvider"])


def by_marabou(image):
    return np.array(Marabou.read_onnx(PATH).evaluateWithMarabou([image], filename="log.txt")[0])


def verdict(image):
    """What Marabou says: may the score of class 1 reach that of class 0 in the box around the image?"""
    network = Marabou.read_onnx(PATH)
    for variable, pixel in zip(network.inputVars[0].ravel(), image.ravel(), strict=True):
        network.setLowerBound(variable, float(pixel) - RADIUS)
        network.setUpperBound(variable, float(pixel) + RADIUS)
    first, second = network.outputVars[0].ravel()
    network.addInequality([first, second], [1.0, -1.0], 0.0)  # first - second <= 0
    return network.solve(verbose=False, filename="log.txt")[0]


print(f"maraboupy {version('maraboupy')}, onnxruntime {onnxruntime.__version__}")
random = np.random.default_rng(0)
kernel = random.normal(size=(1, 1, 3, 3)).astype(np.float32)
layer = random.normal(size=(2, 4)).astype(np.float32)
wrong, right = [], []
for dilation, stride in ((2, 4), (1, 4)):
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["map"], kernel_shape=[3, 3],
                         dilations=[dilation, dilation], strides=[stride, stride]),
        helper.make_node("Flatten", ["map"], ["flat"]),
        helper.make_node("Gemm", ["flat", "layer"], ["scores"], transB=1),
    ]
    session = network_of(nodes, [1, 1, SIDE, SIDE], {"kernel": kernel, "layer": layer}, [1, 2])
    run = lambda image: session.run(None, {"image": image})[0][0]
    # the network is linear: the scores of one pixel at a time say which corner of the box is best for class 1
    pixels = np.eye(SIDE * SIDE, dtype=np.float32).reshape(-1, 1, 1, SIDE, SIDE)
    helps = np.array([run(pixel)[1] - run(pixel)[0] for pixel in pixels]).reshape(1, 1, SIDE, SIDE)
    proven_wrongly = 0
    agree = True
    for _ in range(IMAGES):
        image = random.uniform(-1, 1, (1, 1, SIDE, SIDE)).astype(np.float32)
        corner = (image + RADIUS * np.sign(helps)).astype(np.float32)
        exists = bool(run(corner)[1] > run(corner)[0])
        said = verdict(image)
        agree &= (said == "sat") == exists
        if exists and said == "unsat":
            if not proven_wrongly:
                print(f"  dilation {dilation}: onnxruntime's scores of an image of the box: {run(corner)}")
                print(f"    Marabou's scores of the same image: {by_marabou(corner).ravel().astype(np.float32)}")
                print(f"    Marabou, asked whether class 1 can win in the box: {said}")
            proven_wrongly += 1
    print(f"  dilation {dilation}: {proven_wrongly} of {IMAGES} boxes proven safe, though one of their images is not")
    (wrong if dilation == 2 else right).append(proven_wrongly > 0 if dilation == 2 else agree)

image = random.normal(size=(1, 1, 9, 9)).astype(np.float32)
for name, dilations, pads in (("dilation 2 and padding 1", [2, 2], [1, 1, 1, 1]), ("neither", [1, 1], [0, 0, 0, 0])):
    pooling = helper.make_node("MaxPool", ["image"], ["scores"], kernel_shape=[3, 3], dilations=dilations, pads=pads)
    session = network_of([pooling], [1, 1, 9, 9], {}, [1, 1, 7, 7])
    expected, said = session.run(None, {"image": image})[0], by_marabou(image)
    same = said.shape == expected.shape and np.allclose(said, expected, atol=1e-4)
    print(f"  a max pooling of 3 x 3 with {name}: shape {said.shape}, as onnxruntime: {same}")
    (right if name == "neither" else wrong).append(same if name == "neither" else not same)
if not (all(wrong) and all(right)):
    sys.exit("the behaviour has changed")
PYTHON
