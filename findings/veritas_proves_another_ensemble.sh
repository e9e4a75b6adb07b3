#!/bin/bash
# Veritas 0.3.1 (dtai-veritas, with xgboost 3.2.0, lightgbm 4.7.0, scikit-learn 1.8.0) proves what ensembles of trees
# answer for all inputs in a box. Its get_addtree makes an ensemble of a model of XGBoost, LightGBM or scikit-learn, and
# raises an error for a model that it cannot convert. We expected that the ensemble computes what the model computes.
# Three kinds of models lose something. If XGBoost stopped early, the model answers by the trees up to its best round,
# and Veritas takes all trees. LightGBM's linear_tree=True puts a linear function into each leaf, and Veritas takes the
# leaf's constant. scikit-learn's GradientBoostingClassifier adds its trees to a first model, init=, and Veritas leaves
# this model out. Below, the images are the digits of scikit-learn, and a patch may have any values in a window of 3 x 3
# pixels. We count the images for which the ensemble and the model agree, and Veritas proves that no patch changes the
# answer. Random patches change the model's answer for 6 of 77 such images (stopped early), 12 of 104 (linear trees) and
# 13 of 29 (init). With plain models of all three libraries they change none. There is no error and no warning. (For
# XGBoost, get_addtree prints a check of the base score. It says the same of plain models.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check dtai-veritas==0.3.1 \
    xgboost==3.2.0 lightgbm==4.7.0 scikit-learn==1.8.0 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import veritas
from lightgbm import LGBMClassifier
from sklearn.datasets import load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from veritas import Config, HeuristicType, Interval
from xgboost import XGBClassifier

IMAGES, PATCHES = 150, 2000
images, digits = load_digits(return_X_y=True)
images, odd = (images / 16).astype(np.float32), digits % 2
known, new = slice(0, 1200), slice(1200, 1200 + IMAGES)
random = np.random.default_rng(0)
window = (8 * np.arange(3, 6)[:, None] + np.arange(3, 6)).flatten()
patches = random.choice(np.array([0, 0.25, 0.5, 0.75, 1], np.float32), (PATCHES, len(window)))
stops = {"n_estimators": 300, "learning_rate": 1, "early_stopping_rounds": 20}
few, quiet = {"n_estimators": 10}, {"n_estimators": 10, "verbose": -1}
after = {"eval_set": [(images[new], odd[new])], "verbose": False}
MODELS = {
    "XGBoost": (XGBClassifier(**few), {}),
    "XGBoost, stopped early": (XGBClassifier(**stops), after),
    "LightGBM": (LGBMClassifier(**quiet), {}),
    "LightGBM, linear_tree": (LGBMClassifier(**quiet, linear_tree=True), {}),
    "scikit-learn": (GradientBoostingClassifier(**few, random_state=0), {}),
    "scikit-learn, init": (
        GradientBoostingClassifier(**few, init=LogisticRegression(max_iter=1000), random_state=0), {}
    ),
}  # fmt: skip


def proven(ensemble, image, answer):
    """Whether Veritas proves that the ensemble's output keeps its sign for all patches."""
    box = [Interval(float(pixel), float(np.nextafter(pixel, np.float32(2)))) for pixel in image]
    for pixel in window:
        box[pixel] = Interval(0, 1.001)
    config = Config(HeuristicType.MIN_OUTPUT if answer else HeuristicType.MAX_OUTPUT)
    config.stop_when_optimal = True
    search = config.get_search(ensemble, box)
    search.steps(2000)
    if not search.is_optimal() or not search.num_solutions():
        return False
    output = search.get_solution(0).output
    return output > 0 if answer else output < 0


print(f"Veritas {version('dtai-veritas')}, xgboost {version('xgboost')}, lightgbm {version('lightgbm')}, scikit-learn"
      f" {version('scikit-learn')}: {IMAGES} images, any patch of 3 x 3 pixels at one place")
found = {}
for name, (model, more) in MODELS.items():
    model.fit(images[known], odd[known], **more)
    ensemble = veritas.get_addtree(model, silent=True)
    answers = model.predict(images[new])
    agrees = (ensemble.eval(images[new])[:, 0] > 0) == answers
    proofs = refuted = 0
    for image, answer, same in zip(images[new], answers, agrees, strict=True):
        if not same or not proven(ensemble, image, answer):
            continue
        attacked = np.repeat(image[None], PATCHES, axis=0)
        attacked[:, window] = patches
        proofs, refuted = proofs + 1, refuted + bool((model.predict(attacked) != answer).any())
    found[name] = refuted
    print(f"  {name}: same answer for {agrees.mean():.0%} of the images; of {proofs} proofs {refuted} are refuted")
plain = [found[name] for name in ("XGBoost", "LightGBM", "scikit-learn")]
lost = [refuted for name, refuted in found.items() if "," in name]
if any(plain) or not all(lost):
    sys.exit("the behaviour has changed")
PYTHON
