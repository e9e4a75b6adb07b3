#!/bin/bash
# skl2onnx 1.20.0 (with scikit-learn 1.8.0, onnx 1.23.2, onnxruntime 1.32.0) converts scikit-learn's classifiers into
# ONNX networks. If a BaggingClassifier has estimators without probabilities, like LinearSVC, RidgeClassifier or
# Perceptron, each estimator has one vote for each image. We expected that the network counts the votes of all
# estimators for an image. It counts the votes of an estimator for all images: the first label says which class the
# first estimator chooses for most of the images of the batch. So the network returns as many labels as there are
# estimators, whatever the number of images. If both numbers are the same, nobody sees this from the shape. Below, a
# defence against poisoned images trains 15 estimators on parts of the data and votes, as in deep partition aggregation.
# Its network is called with batches of 15 images. About 56 % of its labels are right instead of 94 %, and more than 170
# of 1500 differ from scikit-learn's although all estimators agree. With one image, the network returns the 15 votes,
# and its first label is the vote of the first estimator. One poisoned part decides then. There is no error and no
# warning. With estimators that have probabilities, like decision trees, the labels are scikit-learn's. (skl2onnx's
# issue 365 was about the scores for such estimators.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check skl2onnx==1.20.0 \
    scikit-learn==1.8.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import Perceptron, RidgeClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

ESTIMATORS, TRAINED, TESTED, PIXELS = 15, 600, 1500, 16
random = np.random.default_rng(0)
images = random.normal(size=(TRAINED + TESTED, PIXELS)).astype(np.float32)
truth = (images @ random.normal(size=PIXELS) > 0).astype(int)
known, new = images[:TRAINED], images[TRAINED:]
print(f"skl2onnx {version('skl2onnx')}, scikit-learn {version('scikit-learn')}: {ESTIMATORS} estimators vote")
found = {}
for estimator in (LinearSVC(), RidgeClassifier(), Perceptron(), DecisionTreeClassifier()):
    name = type(estimator).__name__
    model = BaggingClassifier(estimator, ESTIMATORS, max_samples=TRAINED // ESTIMATORS, bootstrap=False, random_state=0)
    model.fit(known, truth[:TRAINED])
    expected = model.predict(new)
    votes = np.array([part.predict(new) for part in model.estimators_])
    session = onnxruntime.InferenceSession(to_onnx(model, known[:1]).SerializeToString())
    shapes, labels = {}, []
    for size in (1, 2, 40):
        shapes[size] = session.run(["output_label"], {"X": new[:size]})[0].shape
    for batch in np.split(new, TESTED // ESTIMATORS):
        labels.append(session.run(["output_label"], {"X": batch})[0])
    labels = np.concatenate(labels)
    single = [session.run(["output_label"], {"X": image[None]})[0] for image in new]
    firsts = np.array([returned[0] for returned in single])
    parts = np.split(votes, TESTED // ESTIMATORS, 1)
    of_estimators = np.concatenate([2 * part.sum(1) > ESTIMATORS for part in parts])
    unanimous = np.isin(votes.sum(0), (0, ESTIMATORS))
    right = [float((answers == truth[TRAINED:]).mean()) for answers in (expected, labels, firsts)]
    found[name] = {
        "swapped": np.array_equal(labels, of_estimators),
        "right": np.array_equal(labels, expected),
        "first": np.array_equal(firsts, votes[0]),
        "unanimous": int((labels != expected)[unanimous].sum()),
    }
    print(f"  {name}: shapes of the labels of 1, 2 and 40 images: {shapes}")
    print(f"    right answers: scikit-learn {right[0]:.1%}, ONNX in batches of {ESTIMATORS} {right[1]:.1%}, first label"
          f" of ONNX with single images {right[2]:.1%}")
    print(f"    {found[name]['unanimous']} labels in batches differ although all estimators agree; batches are counted"
          f" per estimator: {found[name]['swapped']}; the first label is the first estimator's vote:"
          f" {found[name]['first']}")
tree = found.pop("DecisionTreeClassifier")
if not (tree["right"] and all(one["swapped"] and one["first"] and one["unanimous"] > 100 for one in found.values())):
    sys.exit("the behaviour has changed")
PYTHON
