#!/bin/bash
# codac 2.1.2 (with numpy 2.4.6), a library for guaranteed interval arithmetic: `import codac` sets the processor's
# rounding mode to "up" and does not restore it. One expects that an import does not change the numbers of other
# libraries. But from then on plain Python and numpy round up, too: ten times 0.1 adds up to more than 1, and half of
# the scores of a float32 layer differ from those before the import, all upwards. A rounding mode belongs to one thread.
# Threads that already run continue to round to nearest, so the same image gets other scores in another thread. And in
# these threads codac's own products are no longer intervals: all of 1,000 products are single numbers, and none is the
# exact product. A certificate computed before the import may not hold for what runs after it, and bounds that are
# computed in such a thread prove nothing. To avoid it, import codac before any thread starts, and use it in a process
# of its own.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    codac==2.1.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.metadata import version

import numpy as np

PAIRS = 1_000

generator = np.random.default_rng(0)
images = generator.random((1000, 256), dtype=np.float32)  # image, pixel
weights = generator.standard_normal((256, 10), dtype=np.float32)  # pixel, class
pairs = generator.random((PAIRS, 2)).tolist()


def ten_tenths():
    total = 0.0
    for _ in range(10):
        total += 0.1
    return total


def products_that_miss():
    """How many products of two numbers, as intervals, do not contain the exact product; how many are one number."""
    missed = points = 0
    for first, second in pairs:
        interval = codac.Interval(first) * codac.Interval(second)
        missed += not Fraction(interval.lb()) <= Fraction(first) * Fraction(second) <= Fraction(interval.ub())
        points += interval.lb() == interval.ub()
    return missed, points


with ThreadPoolExecutor(1) as pool:
    pool.submit(ten_tenths).result()  # starts the thread
    tenths, scores = ten_tenths(), images @ weights

    import codac

    tenths_after, scores_after = ten_tenths(), images @ weights
    tenths_thread = pool.submit(ten_tenths).result()
    misses, misses_thread = products_that_miss(), pool.submit(products_that_miss).result()

changed, lower = (scores_after != scores).mean(), (scores_after < scores).sum()
print(f"codac {version('codac')}, numpy {np.__version__}: what `import codac` changes")
print(f"  ten times 0.1: {tenths} before, {tenths_after} after, {tenths_thread} after, in a thread from before")
print(f"  scores of a layer: {changed:.0%} are others after the import, {lower} of them lower than before")
print(f"  {PAIRS} products of codac: {misses[0]} miss the exact product, {misses[1]} are one number")
print(f"  the same in a thread from before: {misses_thread[0]} miss it, {misses_thread[1]} are one number")
if not (
    tenths == tenths_thread < 1 < tenths_after
    and changed > 0.2
    and lower == 0
    and misses[0] == 0
    and misses_thread[0] > PAIRS / 2
    and misses_thread[1] == PAIRS
):
    sys.exit("the behaviour has changed")
PYTHON
