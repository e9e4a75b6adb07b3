#!/bin/bash
# scipy 1.17.1 (with numpy 2.4.6): scipy.optimize.milp is asked for the image for which a small ReLU network is most
# wrong. As in verifiers, each ReLU has a switch, and a constant M is larger than all values ("big M"). Here values are
# at most about 10, and for each network we know an image for which it is wrong. We expected the following of a
# needlessly large M: the solver's tolerances let it find too many images, so it certifies fewer networks than it could.
# But with M = 10^7 or 10^8, milp says "The problem is infeasible" for 13 of 100 networks. It says the same if no such
# image exists. So this is a certificate, and a wrong one. Up to M = 10^6 it finds an image for each network. Status and
# message are those of a true proof.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import scipy
from scipy.optimize import Bounds, LinearConstraint, milp

NETWORKS, PIXELS, NEURONS = 100, 4, 5
INFEASIBLE = 2  # the status of scipy.optimize.milp


def network_and_image(random):
    """A network with one hidden layer, and an image for which its output is above 0: it is wrong there."""
    while True:
        weights, biases = random.normal(size=(NEURONS, PIXELS)), random.normal(size=NEURONS)
        last = random.normal(size=NEURONS)
        images = random.random((1000, PIXELS))
        outputs = np.maximum(images @ weights.T + biases, 0) @ last
        if outputs.max() > 0.1:
            return weights, biases, last, images[outputs.argmax()]


def asked(weights, biases, last, large):
    """milp's answer to: which image has the largest output, and at least 0.05? Unknowns: pixels, neurons, switches."""
    one, none = np.eye(NEURONS), np.zeros((NEURONS, NEURONS))
    above = LinearConstraint(np.hstack([-weights, one, none]), biases, np.inf)  # neuron >= what goes in
    at_most = LinearConstraint(np.hstack([-weights, one, large * one]), -np.inf, biases + large)  # <= it, if on
    off = LinearConstraint(np.hstack([0 * weights, one, -large * one]), -np.inf, 0)  # <= 0, if off
    output = np.concatenate([np.zeros(PIXELS), last, np.zeros(NEURONS)])
    wrong = LinearConstraint(output, 0.05, np.inf)
    upper = np.concatenate([np.ones(PIXELS), np.full(NEURONS, np.inf), np.ones(NEURONS)])
    switches = np.concatenate([np.zeros(PIXELS + NEURONS), np.ones(NEURONS)])
    return milp(-output, constraints=[above, at_most, off, wrong], bounds=Bounds(0, upper), integrality=switches)


random = np.random.default_rng(0)
networks = [network_and_image(random) for _ in range(NETWORKS)]
largest = max(np.abs(weights).sum(1).max() + np.abs(biases).max() for weights, biases, _, _ in networks)
outputs = [np.maximum(weights @ image + biases, 0) @ last for weights, biases, last, image in networks]
print(f"scipy {scipy.__version__}: {NETWORKS} networks, each wrong for an image that is known")
print(f"  no value is above {largest:.2f}; outputs are {min(outputs):.2f} and more there, wrong from 0.05 on")
proofs = {}
for power in (2, 4, 6, 7, 8):
    answers = [asked(weights, biases, last, 10.0**power) for weights, biases, last, _ in networks]
    proofs[power] = sum(answer.status == INFEASIBLE for answer in answers)
    messages = {answer.message for answer in answers if answer.status == INFEASIBLE}
    print(f"  M = 10^{power}: for {proofs[power]} there is said to be none.", *sorted(messages))
if not (min(outputs) > 0.05 and proofs[2] == proofs[4] == proofs[6] == 0 < min(proofs[7], proofs[8])):
    sys.exit("the behaviour has changed")
PYTHON
