#!/bin/bash
# adversarial-robustness-toolbox 1.20.1 (with scikit-learn 1.9.1, numpy 2.4.6): for ensembles of trees,
# RobustnessVerificationTreeModelsCliqueMethod computes how far features may move without a change of class. Such bounds
# may be too small. Here they are too large. If a random forest or extra trees have two classes, ART proves nothing for
# class 0, and everything for class 1: no change in [0, 1] changes these answers, it says. It adds up the probabilities
# of both classes, and this sum is always above 0, the limit between the classes. For 19 of the 22 points of class 1
# below, we found a point of class 0 at a distance of 0.3 or less. Gradient boosting starts with a score for each class,
# which depends on how common the class is. ART leaves this score out, and so it verifies another model. With three
# classes, 3 of its 25 proofs at a distance of 0.05 are false. (With two classes of which one is rare, we saw false
# proofs with XGBoost 3.2.0, too, but none if base_score was 0.5.) A forest with three classes had none. There is no
# error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    adversarial-robustness-toolbox==1.20.1 numpy==2.4.6 scikit-learn==1.9.1 setuptools==84.2.1 packaging==26.4
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from art.estimators.classification import SklearnClassifier
from art.metrics import RobustnessVerificationTreeModelsCliqueMethod
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, RandomForestClassifier

POINTS, FEATURES, TRIES = 60, 4, 2000
random = np.random.default_rng(0)
data, points = random.random((500, FEATURES)), random.random((POINTS, FEATURES)).astype(np.float32)
lean = data[:, 0] + 0.5 * data[:, 1] + 0.2 * random.normal(size=500)
two, three = (lean > 0.75).astype(int), np.digitize(lean, [0.5, 0.9])


def verified(model, chosen, classes, distance, steps=1):
    """ART's mean distance, and the share that it does not prove at this distance."""
    method = RobustnessVerificationTreeModelsCliqueMethod(SklearnClassifier(model), verbose=False)
    return method.verify(chosen, classes, eps_init=distance, nb_search_steps=steps, max_clique=2, max_level=2)


def false_proofs(name, model, distance):
    """How many points ART proves, and how many of these have a point of another class within the distance."""
    classes = model.predict(points)
    proven = np.array([verified(model, points[[i]], classes[[i]], distance)[1] == 0 for i in range(POINTS)])
    changed = np.zeros(POINTS, bool)
    for i in np.flatnonzero(proven):
        near = points[i] + random.uniform(-distance, distance, (TRIES, FEATURES))
        changed[i] = (model.predict(near.clip(0, 1)) != classes[i]).any()
    counts = ", ".join(f"{proven[classes == label].sum()} of {(classes == label).sum()}" for label in model.classes_)
    print(f"  {name}, distance {distance}: of each class are proven {counts}; false proofs: {changed.sum()}")
    return int(changed.sum())


print(f"adversarial-robustness-toolbox {version('adversarial-robustness-toolbox')}")
trees = {"n_estimators": 10, "max_depth": 4, "random_state": 0}
forest = RandomForestClassifier(**trees).fit(data, two)
ones = points[forest.predict(points) == 1]
bound, error = verified(forest, ones, np.ones(len(ones)), 1.0, steps=10)
print(f"  random forest: {len(ones)} points of class 1 keep it up to a mean distance of {bound:g}; unproven: {error:g}")
false = {}
for name, model, labels, distance in (
    ("random forest, 2 classes", RandomForestClassifier(**trees), two, 0.3),
    ("extra trees, 2 classes", ExtraTreesClassifier(**trees), two, 0.3),
    ("random forest, 3 classes", RandomForestClassifier(**trees), three, 0.05),
    ("gradient boosting, 3 classes", GradientBoostingClassifier(**trees), three, 0.05),
):
    false[name] = false_proofs(name, model.fit(data, labels), distance)
if not (bound == 1 and error == 0 and [number > 0 for number in false.values()] == [True, True, False, True]):
    sys.exit("the behaviour has changed")
PYTHON
