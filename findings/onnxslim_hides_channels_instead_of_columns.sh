#!/bin/bash
# onnxslim 0.1.98 (with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6), should make ONNX networks smaller without
# changing what they compute. Suppose that a convolution is followed by a product with a constant, and the constant has
# as many numbers as the convolution has channels. Then onnxslim multiplies each channel by one of the numbers, whatever
# axis the constant lies on. A mask that hides a band of columns (its shape is that of a row of the map) or of rows then
# hides channels, if the width or height of the map equals the number of channels. The patch stays visible in the other
# channels. The network has the same shapes as before and onnxslim says nothing. For a sum with such a constant onnxslim
# does look at the axis. If the number of columns differs from the number of channels, the mask is kept. To avoid it:
# slim(model, skip_fusion_patterns=["FusionConvMul"]).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import onnxslim
from onnx import TensorProto, helper, numpy_helper

CHANNELS, HEIGHT, BAND = 8, 6, slice(2, 5)


def network(width, mask):
    """A convolution without padding, its map times the mask."""
    nodes = [
        helper.make_node("Conv", ["x", "weights"], ["features"]),
        helper.make_node("Mul", ["features", "mask"], ["masked"]),
    ]
    weights = np.random.default_rng(0).standard_normal((CHANNELS, 3, 3, 3), dtype=np.float32)
    constants = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(mask, "mask")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, HEIGHT + 2, width + 2])]
    outputs = [helper.make_tensor_value_info("masked", TensorProto.FLOAT, [1, CHANNELS, HEIGHT, width])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def shown(model, width):
    """The values of the band that are not 0, and the channels that are 0 everywhere."""
    image = np.random.default_rng(1).random((1, 3, HEIGHT + 2, width + 2), dtype=np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    masked = session.run(None, {"x": image})[0][0]  # channel, row, column
    return int((masked[..., BAND] != 0).sum()), int((masked == 0).all((1, 2)).sum())


print(f"onnxslim {onnxslim.__version__}: a map of {CHANNELS} channels, columns {BAND.start} to {BAND.stop - 1} hidden")
found = {}
for width in (CHANNELS, CHANNELS + 1):
    mask = np.ones(width, np.float32)  # one number for each column
    mask[BAND] = 0
    model = network(width, mask)
    found[width] = shown(model, width), shown(onnxslim.slim(model), width)
    for name, (values, channels) in zip(("as it is", "slimmed"), found[width], strict=True):
        print(f"  {width} columns, {name}: {values} values of the band shown, {channels} channels hidden")
    kept = shown(onnxslim.slim(model, skip_fusion_patterns=["FusionConvMul"]), width)
    print(f"  {width} columns, slimmed without FusionConvMul: {kept[0]} values shown, {kept[1]} channels hidden")
before, after = found[CHANNELS]
if not (before == (0, 0) and after[0] > 0 and after[1] == 3 and found[CHANNELS + 1] == ((0, 0), (0, 0))):
    sys.exit("the behaviour has changed")
PYTHON
