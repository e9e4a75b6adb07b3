#!/bin/bash
# binomial_cis 0.0.12 (with numpy 2.4.6, scipy 1.17.1, numba 0.68.1): its description says that its intervals "cover p
# with exactly the user-specified probability". We expected that binom_ci(k, n, alpha, "lb", randomized=False) returns
# the lower bound of Clopper and Pearson. Below, it returns a larger bound each time. Such a bound is wrong more often
# than alpha says. The library searches until the probability of error is right to 5 or 6 decimals, and it does so for
# each alpha. At alpha = 0.001 its bounds are wrong 1 % too often. Whoever wants 0.001 for 1,000 images together needs
# alpha = 10^-6. There its bounds are wrong up to 7 times as often as promised. For 10^-7 it returns the same bound as
# for 10^-6, which is wrong up to 75 times as often as promised. For 95 of 100 this bound is 0.781, and that of Clopper
# and Pearson is 0.749. Suppose that a certificate uses the bound, for example for a radius that grows with the share of
# a class. Then it certifies too much. scipy's binomtest(k, n, alternative="greater").proportion_ci() keeps the promise.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    binomial_cis==0.0.12 numpy==2.4.6 scipy==1.17.1 numba==0.68.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from binomial_cis import binom_ci
from scipy.stats import binom, binomtest

print(f"binomial_cis {version('binomial_cis')}, scipy {version('scipy')}: lower bounds for k of n")
times, of_scipy, bounds = {}, [], {}
for k, n in ((95, 100), (990, 1000), (100, 100)):
    for alpha in (1e-3, 1e-5, 1e-6, 1e-7):
        bound = float(binom_ci(k, n, alpha, "lb", verbose=False, randomized=False))
        exact = binomtest(k, n, alternative="greater").proportion_ci(1 - alpha).low
        # if p is this bound, k or more of n come out with this probability, and then the bound is p or above
        error, right = binom.sf(k - 1, n, bound), binom.sf(k - 1, n, exact)
        times[k, n, alpha], bounds[k, n, alpha] = error / alpha, bound
        of_scipy.append(right / alpha)
        print(f"  {k} of {n}, alpha {alpha}: {bound:.6f}, error {error / alpha:.4f} alpha;"
              f" scipy: {exact:.6f}, error {right / alpha:.4f} alpha")
same = all(bounds[k, n, 1e-6] == bounds[k, n, 1e-7] for k, n in ((95, 100), (990, 1000), (100, 100)))
print(f"  bounds for 1e-6 and 1e-7 are the same: {same}")
small = [value for (_, _, alpha), value in times.items() if alpha <= 1e-6]
if not (same and min(small) > 1.2 and max(small) > 10 and min(times.values()) > 1 and max(of_scipy) < 1.001):
    sys.exit("the behaviour has changed")
PYTHON
