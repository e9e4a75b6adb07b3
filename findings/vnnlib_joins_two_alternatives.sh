#!/bin/bash
# vnnlib 1.0.2 (with numpy 2.4.6, scipy 1.17.1) reads the properties that networks are to be verified against. A
# property describes counterexamples. All its assertions must hold, and an assertion may name alternatives (or).
# compat.transform turns a property into cases for verifiers: a box of images and alternatives of linear conditions on
# the scores. We expected cases that mean the same as the property. Below, a patch may hide one of four pixels, so the
# images are in one of four boxes, and a counterexample is an image with a higher score for class 1 or class 2 than for
# class 0. The property says this with two assertions, each with alternatives. vnnlib joins them to one list of
# alternatives: the cases are the images of each box with no condition at all, and all images with a higher score for
# another class. So each image counts as a counterexample, and a verifier that is given these cases finds one for each
# network. If all alternatives are multiplied out in a single assertion, the cases are right. And "==" becomes "<=":
# pixels that a property fixes with == may have all smaller values too. With >= and <= they stay fixed. Here 50 linear
# networks are verified exactly, by linear programming. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    vnnlib==1.0.2 numpy==2.4.6 scipy==1.17.1
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version
from itertools import product

import numpy as np
import vnnlib
import vnnlib.compat
from scipy.optimize import linprog

NETWORKS, PIXELS, CLASSES = 50, 4, 3
HEADER = f"""(vnnlib-version <2.0>)
(declare-network N
    (declare-input X float32 [{PIXELS}])
    (declare-output Y float32 [{CLASSES}])
)
"""


def fixed(pixel, value, equal):
    value = f"{value:.3f}"
    return f"(== X[{pixel}] {value})" if equal else f"(>= X[{pixel}] {value}) (<= X[{pixel}] {value})"


def properties(image):
    """The same property, written in three ways."""
    box = "".join(f"(assert (>= X[{pixel}] 0.0))\n(assert (<= X[{pixel}] 1.0))\n" for pixel in range(PIXELS))
    places = [
        {equal: " ".join(fixed(pixel, image[pixel], equal) for pixel in range(PIXELS) if pixel != place)
         for equal in (False, True)}
        for place in range(PIXELS)
    ]
    others = [f"(>= Y[{other}] Y[0])" for other in range(1, CLASSES)]
    two = f"(assert (or {' '.join(f'(and {place[False]})' for place in places)}))\n(assert (or {' '.join(others)}))\n"
    one, equal = [
        f"(assert (or {' '.join(f'(and {place[equal]} {other})' for place, other in product(places, others))}))\n"
        for equal in (False, True)
    ]
    return {"two assertions": HEADER + box + two, "multiplied out": HEADER + box + one, "with ==": HEADER + box + equal}


def counterexample(weights, biases, cases):
    """An image of the cases, found by linear programming, or None."""
    for case in cases:
        for polytope in case.output_constraints:
            matrix = np.asarray(polytope.coeff_matrix, float).reshape(-1, CLASSES)
            limits = np.asarray(polytope.rhs, float) - matrix @ biases
            answer = linprog(
                np.zeros(PIXELS), matrix @ weights if len(matrix) else None, limits if len(matrix) else None,
                bounds=case.input_box,
            )
            if answer.status == 0:
                return answer.x
    return None


def can_be_changed(weights, biases, image):
    """Whether a patch changes the class. The scores are linear, so the patch's pixel may be 0 or 1."""
    for place, value in product(range(PIXELS), (0, 1)):
        changed = image.copy()
        changed[place] = value
        scores = weights @ changed + biases
        if scores[1:].max() >= scores[0]:
            return True
    return False


random = np.random.default_rng(0)
found, valid, robust = {}, {}, 0
print(f"vnnlib {version('vnnlib')}: the cases of a property that is written in three ways")
for number in range(NETWORKS):
    weights, image = random.normal(size=(CLASSES, PIXELS)), random.integers(0, 1001, PIXELS) / 1000
    biases = -weights @ image + [1.5, 0, 0]
    truth = can_be_changed(weights, biases, image)
    robust += not truth
    for name, text in properties(image).items():
        cases = vnnlib.compat.transform(vnnlib.parse_query_string(text))
        if number == 0:
            conditions = [[len(polytope.rhs) for polytope in case.output_constraints] for case in cases]
            print(f"  {name}: {len(cases)} cases, conditions on the scores {conditions}; first box"
                  f" {[tuple(round(end, 3) + 0 for end in ends) for ends in cases[0].input_box]}")
        example = counterexample(weights, biases, cases)
        found.setdefault(name, []).append((example is not None, truth))
        if example is not None:
            scores = weights @ example + biases
            good = (np.abs(example - image) > 1e-6).sum() <= 1 and scores[1:].max() >= scores[0] - 1e-6
            valid.setdefault(name, []).append(bool(good))
print(f"{robust} of {NETWORKS} networks keep their class, whatever a patch shows")
results = {}
for name, pairs in found.items():
    proven, wrong = sum(not got for got, _ in pairs), sum(got != truth for got, truth in pairs)
    results[name] = proven, wrong, valid[name].count(False)
    print(f"  {name}: the cases prove it for {results[name][0]}, the answer is wrong for {results[name][1]};"
          f" {results[name][2]} of {len(valid[name])} counterexamples are none")
if not (
    0 < robust < NETWORKS and results["multiplied out"] == (robust, 0, 0)
    and results["two assertions"][:2] == (0, robust) and results["with =="][1] > 0 and results["with =="][0] < robust
):
    sys.exit("the behaviour has changed")
PYTHON
