#!/bin/bash
# onnxruntime 1.32.0 (with onnx 1.23.2): a network that votes over copies, and shows another random band of the image in
# each copy, has one RandomUniformLike node for each copy, to draw the place. We expected independent numbers. On the
# CPU, the first numbers of all nodes are nearly the same: with 100 nodes, they differ by less than 0.001. The reason is
# that onnxruntime gives each node a simple generator (std::default_random_engine), whose seed is that of the process
# plus the index of the node. Nodes with seeds of their own, like 1, 2, 3, begin with nearly the same number, too (and
# the seeds 0 and 1 give exactly the same numbers). The second numbers of the nodes are not independent either, but
# equally spaced: each one is that of the node before plus the same constant. So in the first call of a session, all
# copies show the same band, and all votes are one vote. Below, an image has 32 places for a band, and shows the right
# class at 20 of them. In the first calls of 200 sessions, all 100 votes agree or nearly all do. So the lower bound of
# the winner's share is up to 0.93, and above the true share (0.625 or 0.375) in each session, although alpha is 0.001.
# numpy's bounds are right. The first numbers of RandomUniform are as close. One node that draws all places does not
# have this problem. There is no error and no warning. (onnxruntime's issue 27771 is about something else: new sessions
# of a process repeat the numbers of the first one.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check onnxruntime==1.32.0 \
    onnx==1.23.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from scipy.stats import beta

COPIES, PLACES, RIGHT, SESSIONS, ALPHA = 100, 32, 20, 200, 0.001
random = np.random.default_rng(0)
SEEDS = random.integers(1, 2**31, SESSIONS)
zero = np.zeros((1, 1), np.float32)


def network(name, seeds=None):
    nodes = []
    for copy in range(COPIES):
        options = {} if name.endswith("Like") else {"shape": [1, 1]}
        if seeds is not None:
            options["seed"] = float(seeds[copy])
        nodes.append(helper.make_node(name, ["image"] if name.endswith("Like") else [], [f"number {copy}"], **options))
    nodes.append(helper.make_node("Concat", ["image"] + [f"number {copy}" for copy in range(COPIES)], ["all"], axis=0))
    graph = helper.make_graph(
        nodes,
        "places",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("all", TensorProto.FLOAT, [1 + COPIES, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def calls(model, seed=None, number=2):
    if seed is not None:
        onnxruntime.set_seed(int(seed))  # as in a new process
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [session.run(None, {"image": zero})[0][1:, 0].astype(float) for call in range(number)]


print(f"onnxruntime {onnxruntime.__version__}: {COPIES} nodes draw a number from 0 to 1 each")
spreads = []
for name in ("RandomUniformLike", "RandomUniform"):
    for seeds in (None, 1 + np.arange(COPIES)):
        first, second = calls(network(name, seeds), 12345)
        steps = np.diff(second) % 1
        spreads.append((np.ptp(first), np.ptp(steps)))
        print(f"  {name}, {'no seeds' if seeds is None else 'seeds 1, 2, 3, ...'}: the first numbers are from"
              f" {first.min():.4f} to {first.max():.4f}, the second ones {second[:4].round(3).tolist()} ..., each"
              f" higher than the one before by {steps.min():.4f} to {steps.max():.4f} (modulo 1)")
zero_and_one = calls(network("RandomUniformLike", np.arange(COPIES) % 2), number=1)[0]
print(f"  seeds 0 and 1: {zero_and_one[:2].tolist()}")

model = network("RandomUniformLike")
labels = np.zeros(PLACES, int)
labels[random.choice(PLACES, RIGHT, replace=False)] = 1  # the class that a band at this place shows
draws = {
    "onnxruntime, first call": [calls(model, seed, 1)[0] for seed in SEEDS],
    "numpy": random.random((SESSIONS, COPIES)),
}
print(f"{SESSIONS} sessions with {COPIES} bands each at one of {PLACES} places; {RIGHT} of these show class 1")
counts = []
for name, numbers in draws.items():
    same = false = 0
    for places in np.floor(np.array(numbers) * PLACES).astype(int):
        ones = labels[places].sum()
        most, share = max((ones, RIGHT / PLACES), (COPIES - ones, 1 - RIGHT / PLACES))
        same += len(set(places.tolist())) == 1
        false += bool(beta.ppf(ALPHA / 2, most, COPIES - most + 1) > share)
    counts.append((same, false))
    print(f"  {name}: all bands are at the same place in {same} sessions; in {false} sessions the lower bound is above"
          " the true share")
if not (max(max(spread) for spread in spreads) < 0.001 and zero_and_one[0] == zero_and_one[1]
        and min(counts[0]) > 0.8 * SESSIONS and counts[1][0] == 0 and counts[1][1] <= 3):
    sys.exit("the behaviour has changed")
PYTHON
