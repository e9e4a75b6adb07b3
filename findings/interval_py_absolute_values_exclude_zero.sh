#!/bin/bash
# interval-py 1.0.5 (with numpy 2.4.6) computes with intervals: numbers, sin, cos, exp, and abs. We expected that abs(x)
# contains the absolute values of all numbers in x. That of [-3, 1] should be [0, 3]. interval-py says [1, 3], so it
# leaves out everything from 0 to 1. It takes the absolute values of both ends for the ends of the result. And abs of
# [-3, -1] is [3, 1], with the larger end first, so no number is between its ends. Of 2000 random intervals from -6 to
# 6, 73 % get a wrong abs. Powers, products, quotients, sin, cos and exp have no such error. Below, random linear
# networks have two classes, and a patch may show anything in two of six pixels. If the distance of the two scores is
# always more than 0, the class stays the same. abs says so for all 200 networks, but for 64 of them we know a patch
# that changes the class. With a correct abs, all proofs are right. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    interval-py==1.0.5 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import itertools
import math
import random
import sys
from importlib.metadata import version

import intervalpy
from intervalpy import Interval

INTERVALS, NETWORKS, PIXELS, PATCH, STEPS, TOLERANCE = 2000, 200, 6, 2, 21, 1e-9
random.seed(0)
print(f"interval-py {version('interval-py')}: abs of [-3, 1] is {abs(Interval([-3, 1]))},"
      f" abs of [-3, -1] is {abs(Interval([-3, -1]))}")
functions = {
    "abs": (abs, abs),
    "x ** 2": (lambda x: x**2, lambda x: x**2),
    "x * x": (lambda x: x * x, lambda x: x * x),
    "1 / (x + 7)": (lambda x: 1 / (x + 7), lambda x: 1 / (x + 7)),
    "sin": (intervalpy.sin, math.sin),
    "cos": (intervalpy.cos, math.cos),
    "exp": (intervalpy.exp, math.exp),
}
wrong = {}
for name, (of_interval, of_number) in functions.items():
    wrong[name] = 0
    for _ in range(INTERVALS):
        low, high = sorted(random.uniform(-6, 6) for _ in range(2))
        result = of_interval(Interval([low, high]))
        values = [of_number(low + (high - low) * step / (STEPS - 1)) for step in range(STEPS)]
        wrong[name] += min(values) < result[0] - TOLERANCE or max(values) > result[1] + TOLERANCE
    print(f"  {name}: {wrong[name]} of {INTERVALS} intervals do not contain all values")


def repaired(interval):
    """abs as it should be."""
    low, high = interval[0], interval[1]
    return Interval([0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high))])


def difference(weights, bias, image):
    """The score of class 0 minus that of class 1."""
    return sum((pixel * weight for pixel, weight in zip(image, weights, strict=True)), bias)


found = {"abs": [0, 0], "a correct abs": [0, 0]}
for _ in range(NETWORKS):
    weights, bias = [random.gauss(0, 1) for _ in range(PIXELS)], random.gauss(0, 1)
    rest = [random.random() for _ in range(PIXELS - PATCH)]
    real = [difference(weights, bias, [*patch, *rest]) for patch in itertools.product((0, 1), repeat=PATCH)]
    interval = difference(weights, bias, [*[Interval([0, 1])] * PATCH, *rest])
    for name, absolute in (("abs", abs), ("a correct abs", repaired)):
        distance = absolute(interval)
        proven = min(distance[0], distance[1]) > 0
        found[name][0] += proven
        found[name][1] += proven and min(real) < 0 < max(real)
for name, (proofs, false) in found.items():
    print(f"  with {name}: {proofs} of {NETWORKS} networks are proven to keep their class; {false} proofs are false")
if not (
    wrong.pop("abs") > INTERVALS / 2 and not any(wrong.values())
    and found["abs"][0] == NETWORKS and found["abs"][1] > 0 and found["a correct abs"][1] == 0
):
    sys.exit("the behaviour has changed")
PYTHON
