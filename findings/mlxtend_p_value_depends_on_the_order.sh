#!/bin/bash
# mlxtend 0.25.0 (with numpy 2.4.6, scipy 1.17.1): proportion_difference compares two accuracies, for example the
# certified accuracies of two defences. It returns z and "the p-value". Its guide tests the null hypothesis that both
# proportions are the same, speaks of a two-tailed test, and rejects if z is greater than 1.96, or if the p-value is
# small. We expected the two-sided p-value, as mlxtend's mcnemar and its t-tests return it. But p is the share of the
# normal distribution below z. So it is 0.5 if both accuracies are the same, and nearly 1 if the first one is clearly
# better. With the arguments the other way round, it is small. Below, 1000 tests compare a defence that certifies 60 %
# of all images with one that certifies 50 %, on 1000 images each. If the better one comes first, p is below 0.05 in
# none of the tests, although z is greater than 1.96 in nearly all. If it comes second, p is half of the two-sided
# p-value. So in the guide's own example (0.84 and 0.92, 100 images each), it is 0.040, where the two-sided p-value is
# 0.080. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    mlxtend==0.25.0 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import mlxtend
import numpy as np
from mlxtend.evaluate import mcnemar, proportion_difference
from scipy.stats import norm

TESTS, IMAGES, BETTER, WORSE, LEVEL = 1000, 1000, 0.6, 0.5, 0.05


def two_sided(z):
    return 2 * norm.sf(abs(z))


print(f"mlxtend {mlxtend.__version__}: accuracies, images each, z and p of proportion_difference, two-sided p-value")
found = []
for first, second, number in ((0.84, 0.92, 100), (0.92, 0.84, 100), (0.9, 0.5, 100), (0.5, 0.9, 100), (0.7, 0.7, 100)):
    z, p = proportion_difference(first, second, number)
    found.append(p)
    print(f"  {first} and {second}, {number}: z = {z:.3f}, p = {p:.3g}; two-sided {two_sided(z):.3g}")
tables = [np.array([[50, 20], [5, 25]]), np.array([[50, 5], [20, 25]])]
exchanged = [float(mcnemar(table, exact=True)[1]) for table in tables]
print(f"  for comparison, p of mcnemar for two defences, and for the same ones exchanged: {exchanged}")

random = np.random.default_rng(0)
shares = {}
orders = {"better first": (BETTER, WORSE), "worse first": (WORSE, BETTER), "the same": (WORSE, WORSE)}
for name, chances in orders.items():
    accuracies = random.binomial(IMAGES, chances, (TESTS, 2)) / IMAGES
    results = np.array([proportion_difference(*pair, IMAGES) for pair in accuracies])
    shares[name] = [float(share) for share in (
        (results[:, 1] < LEVEL).mean(), (two_sided(results[:, 0]) < LEVEL).mean(), (results[:, 0] > 1.96).mean()
    )]
    print(f"  {name} ({chances[0]} and {chances[1]}): p is below {LEVEL} in {shares[name][0]:.1%} of {TESTS} tests, the"
          f" two-sided p-value in {shares[name][1]:.1%}; z is above 1.96 in {shares[name][2]:.1%}")
if not (np.allclose(found, [0.0397, 0.9603, 1, 0, 0.5], atol=1e-3) and exchanged[0] == exchanged[1]
        and shares["better first"][0] == 0
        and min(*shares["better first"][1:], shares["worse first"][0]) > 0.95):
    sys.exit("the behaviour has changed")
PYTHON
