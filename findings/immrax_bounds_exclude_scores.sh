#!/bin/bash
# immrax 0.3.8 (with jax 0.10.2, equinox 0.13.8, numpy 2.4.6) promises "guaranteed reachable set over-approximation
# using interval analysis". Its natif makes a function of intervals from a function in JAX. We expected that the output
# interval contains the outputs for all inputs in the input intervals. Where immrax does not know an operation, it says
# so. But if an interval begins below 0, its square root and its logarithm both begin and end at -infinity. A sum of
# squares begins there if it is written as x * x, or if it is in jnp.linalg.norm: [-1, 2] times [-1, 2] begins at -2. So
# if a vector is divided by its norm, and 0 is inside the interval of some value, both bounds of each result can be 0.
# And comparisons with jnp.where are computed at the lower ends, then at the upper ends, and these are taken for the
# bounds. So the absolute value jnp.where(x < 0, -x, x) of [-3, 1] becomes [-1, 1]. Below, a system accepts an image if
# the cosine between the image and a prototype is above 0.5. A patch may have any values in a window of 5 x 5 of the 8 x
# 8 pixels, which are from -1 to 1. From immrax's bounds one proves that no patch leads to an accepted image, although
# most patches do. With jnp.sqrt(jnp.sum(x**2)) as norm, all bounds hold. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check immrax==0.3.8 \
    jax==0.10.2 jaxlib==0.10.2 equinox==0.13.8 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
from immrax import interval, natif

IMAGES, SIDE, WINDOW, SAMPLES, ACCEPTED, SLACK = 40, 8, 5, 2000, 0.5, 1e-4
random = np.random.default_rng(0)


def single(values):
    return jnp.array(values, dtype=jnp.float32)


def ends(box):
    return [np.round(np.array(end, float), 3).tolist() for end in (box.lower, box.upper)]


print(f"immrax {version('immrax')}, jax {jax.__version__}")
shown = {
    "jnp.where(x < 0, -x, x)": (lambda x: jnp.where(x < 0, -x, x), [-3], [1]),
    "jnp.where(x < 0.5, 1.0, 0.0)": (lambda x: jnp.where(x < 0.5, 1.0, 0.0), [0], [1]),
    "jnp.sqrt(x)": (jnp.sqrt, [-1], [4]),
    "jnp.log(x)": (jnp.log, [-1], [4]),
    "x / jnp.linalg.norm(x)": (lambda x: x / jnp.linalg.norm(x), [-1, 1], [2, 3]),
}
returned = {}
for name, (function, lower, upper) in shown.items():
    box = natif(function)(interval(single(lower), single(upper)))
    points = random.uniform(lower, upper, (SAMPLES, len(lower)))
    values = np.array(jax.vmap(function)(single(points)))
    returned[name] = ends(box)
    print(f"  {name} from {lower} to {upper}: immrax {returned[name]}, values that occur"
          f" {[np.round(bound(values, axis=0), 3).tolist() for bound in (np.nanmin, np.nanmax)]}")

norms = {"jnp.linalg.norm": jnp.linalg.norm, "jnp.sqrt(jnp.sum(x**2))": lambda x: jnp.sqrt(jnp.sum(x**2))}
counts = {name: {"excluded": 0, "proofs": 0, "false": 0} for name in norms}
accepted = []
for image in range(IMAGES):
    prototype = random.uniform(-1, 1, (SIDE, SIDE))
    lower, upper = prototype.copy(), prototype.copy()
    row, column = random.integers(SIDE - WINDOW + 1, size=2)
    lower[row : row + WINDOW, column : column + WINDOW] = -1
    upper[row : row + WINDOW, column : column + WINDOW] = 1
    prototype, lower, upper = (array.ravel() for array in (prototype / np.linalg.norm(prototype), lower, upper))
    patched = single(random.uniform(lower, upper, (SAMPLES, SIDE * SIDE)))
    for name, norm in norms.items():

        def cosine(image):
            return single(prototype) @ (image / norm(image))

        bounds = natif(cosine)(interval(single(lower), single(upper)))
        values = np.array(jax.vmap(cosine)(patched))
        counts[name]["excluded"] += bool(values.min() < bounds.lower - SLACK or values.max() > bounds.upper + SLACK)
        counts[name]["proofs"] += bool(bounds.upper < ACCEPTED)
        counts[name]["false"] += bool(bounds.upper < ACCEPTED and values.max() > ACCEPTED)
        accepted.append((values > ACCEPTED).mean())
print(f"  {IMAGES} images with random patches: {np.mean(accepted):.1%} have a cosine above {ACCEPTED}; number of images"
      " with bounds that exclude a cosine, with a proof that no patch is accepted, and with a false proof:")
for name, numbers in counts.items():
    print(f"    norm {name}: {numbers}")
infinite = float("-inf")
wrong, right = counts.values()
if not (returned["jnp.where(x < 0, -x, x)"] == [[-1], [1]] and returned["jnp.where(x < 0.5, 1.0, 0.0)"] == [[1], [0]]
        and returned["jnp.sqrt(x)"] == returned["jnp.log(x)"] == [[infinite], [infinite]]
        and returned["x / jnp.linalg.norm(x)"] == [[0, 0], [0, 0]]
        and min(wrong["excluded"], wrong["false"]) > 0.5 * IMAGES and right["excluded"] == right["false"] == 0):
    sys.exit("the behaviour has changed")
PYTHON
