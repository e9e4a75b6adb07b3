#!/bin/bash
# catboost 1.2.10 (with onnxruntime 1.32.0, onnx 1.23.2, scikit-learn 1.9.1, numpy 2.4.6) can save its classifiers as
# ONNX networks. We expected that onnxruntime then gives CatBoost's answers. With two classes and
# boost_from_average=True, a classifier begins with the frequencies of the classes (its bias). The network then has a
# start value for each class (base_values). onnx's reference evaluator computes CatBoost's probabilities from it. But
# onnxruntime uses the sum of the trees for the first class as that of the second class if both have one and there are
# two start values. So the trees count for the wrong class. If both classes are equally frequent, nearly all answers are
# the other class. Below, CatBoost is right for 94 % of the new digits, and onnxruntime for 6 %. If class 1 is one digit
# of ten, it is 98 % and 11 %. Then a column of pixels is hidden. In the first case, about as many answers change as in
# CatBoost, so such a test alone does not show what is wrong. Without the option, the answers are CatBoost's. There is
# no error and no warning. (A comment in onnxruntime's source says that the first start value is not used. onnxruntime's
# issue 1007 is about start values of two classes. It is closed.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    catboost==1.2.10 onnxruntime==1.32.0 onnx==1.23.2 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import catboost
import numpy as np
import onnx
import onnxruntime
from catboost import CatBoostClassifier
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits

images, digits = load_digits(return_X_y=True)
images = images.astype(np.float32)
known, new = np.arange(len(images)) % 2 == 0, np.arange(len(images)) % 2 == 1
hidden = images.copy()
hidden.reshape(-1, 8, 8)[:, :, 3] = 0
print(f"catboost {catboost.__version__}, onnxruntime {onnxruntime.__version__}: right answers for {new.sum()} new"
      " digits, probability of class 1 for one of them, and answers that change if a column is hidden")
right, close = {}, {}
for name, truth in {"digits from 5": digits > 4, "digit 3": digits == 3}.items():
    for start in (False, True):
        model = CatBoostClassifier(iterations=20, depth=4, boost_from_average=start, thread_count=1, verbose=False)
        model.fit(images[known], truth[known].astype(int))
        model.save_model("forest.onnx", format="onnx")
        network = onnx.load("forest.onnx")
        trees = network.graph.node[0]
        values = [list(attribute.floats) for attribute in trees.attribute if attribute.name == "base_values"]
        # onnx's reference evaluator does not know CatBoost's last node, which turns the probabilities into dictionaries
        del network.graph.node[1:], network.graph.output[:]
        network.graph.output.append(onnx.helper.make_tensor_value_info(trees.output[1], onnx.TensorProto.FLOAT, None))
        evaluator = ReferenceEvaluator(network)
        session = onnxruntime.InferenceSession("forest.onnx")

        def ask(some):
            labels, dictionaries = session.run(None, {"features": some})
            by_runtime = np.array([[row[0], row[1]] for row in dictionaries])
            by_reference = np.asarray(evaluator.run(None, {"features": some})[0])
            return {
                "CatBoost": (model.predict(some), model.predict_proba(some)),
                "onnx's reference": (by_reference.argmax(1), by_reference),
                "onnxruntime": (labels, by_runtime),
            }

        print(f"  {name}, boost_from_average={start}: base_values {values}")
        before, after = ask(images[new]), ask(hidden[new])
        for program, (labels, probabilities) in before.items():
            right[name, start, program] = float((labels == truth[new]).mean())
            close[name, start, program] = np.allclose(probabilities, before["CatBoost"][1], atol=1e-5)
            print(f"    {program}: {right[name, start, program]:.1%} right, probability {probabilities[0, 1]:.3f},"
                  f" changed {(labels != after[program][0]).mean():.1%}")
for (name, start, program), same in close.items():
    wrong = start and program == "onnxruntime"
    if same == wrong or (right[name, start, program] > 0.9) == wrong:
        sys.exit("the behaviour has changed")
PYTHON
