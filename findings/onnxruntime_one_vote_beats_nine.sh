#!/bin/bash
# onnxruntime 1.32.0 (with onnx 1.23.2, catboost 1.2.10, scikit-learn 1.9.1, numpy 2.4.6) runs forests with ONNX's
# operator TreeEnsembleClassifier. It returns the scores of all classes, and the class with the largest score. Below, a
# forest of ten trees has two classes, and each tree votes for one of them. We expected class 0 if it has nine votes of
# ten. onnxruntime answers 1, although the scores that it returns with this answer are 9 and 1. With two classes, it
# does not compare the scores, but answers 1 if the score of class 1 is above 0. So one vote beats nine, and a patch
# that changes one tree seems to win. onnx's reference evaluator answers 0. If there is a third class without votes,
# onnxruntime answers 0, too. skl2onnx and CatBoost write forests for which the rule is right: in skl2onnx's, all trees
# count for one class only, and in CatBoost's, both classes get opposite scores. And if the two classes have the numbers
# 3 and 7, onnxruntime returns 0 and 1, which are no classes of the forest. CatBoost's ONNX networks get these answers
# as well: with the classes 3 and 7, none is right. There is no error and no warning. (onnxruntime's issue 28557 is
# about wrong classes of forests in version 1.26.0. It is closed.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    onnxruntime==1.32.0 onnx==1.23.2 catboost==1.2.10 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from catboost import CatBoostClassifier
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits

TREES = 10


def forest(labels):
    """Tree number i votes for the second class if pixel number i is above one half, and else for the first class."""
    nodes, votes = [], []
    for tree in range(TREES):
        nodes += [(tree, 0, tree, "BRANCH_LEQ", 0.5, 1, 2), *((tree, leaf, 0, "LEAF", 0.0, 0, 0) for leaf in (1, 2))]
        votes += [(tree, leaf, label, float(leaf == label + 1)) for leaf in (1, 2) for label in range(len(labels))]
    names = ["treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids"]
    attributes = {f"nodes_{name}": list(column) for name, column in zip(names, zip(*nodes))}
    attributes |= {
        f"class_{name}": list(column) for name, column in zip(["treeids", "nodeids", "ids", "weights"], zip(*votes))
    }
    attributes["classlabels_strings" if isinstance(labels[0], str) else "classlabels_int64s"] = labels
    outputs = ["label", "scores"]
    node = helper.make_node("TreeEnsembleClassifier", ["images"], outputs, domain="ai.onnx.ml", **attributes)
    kind = TensorProto.STRING if isinstance(labels[0], str) else TensorProto.INT64
    graph = helper.make_graph(
        [node], "forest", [helper.make_tensor_value_info("images", TensorProto.FLOAT, [None, TREES])],
        [helper.make_tensor_value_info("label", kind, [None]),
         helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, len(labels)])],
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    network = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(network, full_check=True)
    return network


images = np.tril(np.ones((TREES + 1, TREES), np.float32), -1)
print(f"onnxruntime {onnxruntime.__version__}: answers of {TREES} trees if 0, 1, ..., {TREES} of them vote for the"
      " second class")
answers = {}
for labels in ([0, 1], ["a", "b"], [3, 7], [0, 1, 2]):
    network = forest(labels)
    got, scores = onnxruntime.InferenceSession(network.SerializeToString()).run(None, {"images": images})
    expected, reference = ReferenceEvaluator(network).run(None, {"images": images})
    answers[str(labels)] = list(got), list(expected), np.array_equal(scores, reference)
    print(f"  classes {labels}: onnxruntime {' '.join(map(str, got))}, onnx's reference {' '.join(map(str, expected))};"
          f" scores for one vote {scores[1].tolist()}, the same in both: {np.array_equal(scores, reference)}")

images, digits = load_digits(return_X_y=True)
images = images.astype(np.float32)
known, new = np.arange(len(images)) % 2 == 0, np.arange(len(images)) % 2 == 1
right = {}
for labels in (0, 1), (3, 7), (-1, 1):
    truth = np.where(digits < 5, *labels)
    model = CatBoostClassifier(iterations=20, depth=4, thread_count=1, verbose=False).fit(images[known], truth[known])
    model.save_model("forest.onnx", format="onnx")
    got, scores = onnxruntime.InferenceSession("forest.onnx").run(None, {"features": images[new]})
    best = np.array([max(row, key=row.get) for row in scores])
    right[labels] = [float(np.mean(some == truth[new])) for some in (model.predict(images[new]), got, best)]
    print(f"  CatBoost's ONNX network with classes {labels}: CatBoost {right[labels][0]:.1%} right, onnxruntime's"
          f" answers {right[labels][1]:.1%} ({sorted(set(got.tolist()))}), its largest scores {right[labels][2]:.1%}")
half = TREES // 2 + 1
if not (
    answers["[0, 1]"] == ([0] + [1] * TREES, [0] * half + [1] * (TREES + 1 - half), True)
    and answers["['a', 'b']"][0] == ["a"] + ["b"] * TREES
    and answers["[3, 7]"][0] == answers["[0, 1]"][0]
    and answers["[0, 1, 2]"][0] == answers["[0, 1, 2]"][1] == answers["[0, 1]"][1]
    and right[3, 7][1] == 0 and all(model == best > 0.8 for model, _, best in right.values())
    and right[0, 1][0] == right[0, 1][1]
):
    sys.exit("the behaviour has changed")
PYTHON
