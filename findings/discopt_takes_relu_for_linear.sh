#!/bin/bash
# discopt 0.8.0 (with pounce-solver 0.13.0, jax 0.10.2, numpy 2.4.6, scipy 1.17.1) finds global optima. Its
# gap_certified says that the gap between the optimum and the bound is mathematically certified. It can also contain
# trained networks, and its formulation "reduced_space" writes a ReLU as a maximum: z == maximum(x, 0). We expected
# bounds that hold for all inputs. But discopt takes the maximum of linear terms for linear itself (in
# _classify_nary_max). So it takes the whole problem for convex, and certifies the first local optimum. With z ==
# maximum(x, 0) and x from -1 to 1, it certifies that x - 1.5 z is at least -0.5. At x = -1, it is -1. Below, 60 small
# random networks with two pixels and two classes are asked for the smallest difference of the two scores over all
# images. For 12 of them, the certified bound is above a difference that the network really has, and for some of these
# the bound is above 0: then discopt proves that no image changes the class, although we know one that does. With the
# formulation "relu_bigm", which uses binary variables, all bounds hold. There is no error and no warning. Version 0.9.0
# needs Python 3.12. We did not run it, but the function is still the same in its source.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    discopt==0.8.0 pounce-solver==0.13.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 scipy==1.17.1
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import discopt.modeling as dm
import numpy as np
from discopt.nn.network import Activation, DenseLayer, NetworkDefinition
from discopt.nn.predictor import add_predictor

NETWORKS, PIXELS, HIDDEN, STEPS, TOLERANCE = 60, 2, 3, 201, 1e-4
random = np.random.default_rng(0)
steps = np.linspace(0, 1, STEPS)
images = np.stack(np.meshgrid(*[steps] * PIXELS), -1).reshape(-1, PIXELS)

print(f"discopt {version('discopt')}")
model = dm.Model("relu")
x = model.continuous("x", lb=-1.0, ub=1.0)
z = model.continuous("z", lb=0.0, ub=1.0)
model.subject_to(z == dm.maximum(x, 0))
model.minimize(x - 1.5 * z)
small = model.solve()
print(f"  smallest x - 1.5 max(x, 0) from -1 to 1: {small.status}, bound {small.bound:.4f}, certified:"
      f" {small.gap_certified}, taken for convex: {small.convex_fast_path}; at x = -1 it is -1")

found = {"reduced_space": [], "relu_bigm": []}
for _ in range(NETWORKS):
    first = DenseLayer(random.normal(size=(PIXELS, HIDDEN)) * 2, random.normal(size=HIDDEN), Activation.RELU)
    second = DenseLayer(random.normal(size=(HIDDEN, 2)), random.normal(size=2), Activation.LINEAR)
    hidden = np.maximum(images @ first.weights + first.biases, 0)
    scores = hidden @ second.weights + second.biases
    differences = scores[:, 0] - scores[:, 1]
    for method, results in found.items():
        network = NetworkDefinition([first, second], input_bounds=(np.zeros(PIXELS), np.ones(PIXELS)))
        model = dm.Model("network")
        inputs = model.continuous("image", shape=(PIXELS,), lb=0.0, ub=1.0)
        outputs, _ = add_predictor(model, inputs, network, method=method)
        model.minimize(outputs[0] - outputs[1])
        result = model.solve(time_limit=60)
        results.append((result.bound, differences.min(), result.status == "optimal" and result.gap_certified))
wrong, proofs = {}, {}
for method, results in found.items():
    false = [result for result in results if result[0] > result[1] + TOLERANCE and result[2]]
    wrong[method] = len(false)
    proofs[method] = [result for result in false if result[0] > TOLERANCE and result[1] < -TOLERANCE]
    print(f"  {method}: {sum(certified for _, _, certified in results)} of {NETWORKS} bounds are certified,"
          f" {len(false)} of them are false; {len(proofs[method])} prove what is false: that class 0 always wins")
    for bound, least, _ in proofs[method]:
        print(f"    certified: the difference of the scores is at least {bound:.4f}; for one image it is {least:.4f}")
if not (
    small.gap_certified and small.bound > -0.51 and wrong["reduced_space"] >= 5 and len(proofs["reduced_space"]) >= 1
    and wrong["relu_bigm"] == 0
):
    sys.exit("the behaviour has changed")
PYTHON
