#!/bin/bash
# z3-solver 5.4.1.0 (with numpy 2.4.6): z3 computes with exact fractions. But in pixel * weight and in RealVal(weight) a
# numpy.float32 becomes the fraction of its shortest decimal form: 0.1 becomes 1/10, although the float32 that is
# printed as 0.1 is larger. In weight * pixel, numpy converts it first, and then it keeps its value, up to 17 digits. So
# the order of the factors decides which network z3 is asked about. Below, ten float32 weights add up to more than 1. If
# the pixel is named first, z3 proves that white pixels cannot reach more than 1. If the weight is named first, it finds
# the counterexample. A float16 weight of 0.1 is off by one part in 4,000. To avoid it, pass float(weight).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    z3-solver==5.4.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from fractions import Fraction

import numpy as np
import z3

weights = np.full(10, 0.1, np.float32)
pixels = z3.RealVector("pixel", 10)
ways = {
    "pixel * weight": [pixel * weight for pixel, weight in zip(pixels, weights, strict=True)],
    "weight * pixel": [weight * pixel for pixel, weight in zip(pixels, weights, strict=True)],
    "pixel * float(weight)": [pixel * float(weight) for pixel, weight in zip(pixels, weights, strict=True)],
}
exact = sum(Fraction(float(weight)) for weight in weights)
print(f"z3 {z3.get_version_string()}, numpy {np.__version__}: ten weights of {weights[0]!r} add up to {exact}")
found = {}
for way, products in ways.items():
    solver = z3.Solver()
    solver.add([z3.And(pixel >= 0, pixel <= 1) for pixel in pixels])
    solver.add(z3.Sum(products) > 1)
    found[way] = str(solver.check())
    print(f"  {way}, say {products[0]}: pixels in [0, 1] for which the sum is above 1: {found[way]}")
print(f"  RealVal of a float16 weight of 0.1: {z3.RealVal(np.float16(0.1))}; it is {Fraction(float(np.float16(0.1)))}")
if not (exact > 1 and list(found.values()) == ["unsat", "sat", "sat"]):
    sys.exit("the behaviour has changed")
PYTHON
