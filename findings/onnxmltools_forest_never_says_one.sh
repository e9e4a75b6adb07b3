#!/bin/bash
# onnxmltools 1.16.0 (with lightgbm 4.7.0, onnxruntime 1.32.0, onnx 1.23.2, skl2onnx 1.20.0, scikit-learn 1.9.1, numpy
# 2.4.6): convert_lightgbm turns LightGBM's models into ONNX. With boosting_type="rf", LightGBM takes the mean of the
# trees, and for this the converter has a branch of its own. We expected the same classes. But this branch takes the
# probability of class 1 from the sum of the trees, divides it by 100 (whatever the number of trees), and calls the rest
# the probability of class 0. So for two classes the ONNX model says 0 for every point, with a probability of 99 % or
# more. For three classes it has two probabilities, and never says 2. Below, forests with 10 and with 100 trees are
# right for more than 90 % of the points in LightGBM. If the Booster in the model is converted instead, this branch is
# not taken. Then the classes agree, but the probabilities are those of the sum of the trees, almost 0 or 1. The same
# models with boosting_type="gbdt" agree. There is no error. With three classes, onnxruntime warns that the shape is not
# as declared. We found no issue about this.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    onnxmltools==1.16.0 lightgbm==4.7.0 onnxruntime==1.32.0 onnx==1.23.2 skl2onnx==1.20.0 scikit-learn==1.9.1 \
    numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import lightgbm
import numpy as np
import onnxruntime
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

POINTS, FEATURES = 1000, 5
random = np.random.default_rng(0)
data, points = (random.random((number, FEATURES)).astype(np.float32) for number in (600, POINTS))
lean = data[:, 0] + 0.5 * data[:, 1] ** 2 + 0.2 * random.normal(size=600)
sure = points[:, 0] + 0.5 * points[:, 1] ** 2


def converted(model):
    """The classes and probabilities of the ONNX model."""
    inputs = [("x", FloatTensorType([None, FEATURES]))]
    onnx = convert_lightgbm(model, initial_types=inputs, target_opset=15, zipmap=False).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings about declared shapes
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    classes, probabilities = session.run(None, {"x": points})
    return classes.ravel(), probabilities


print(f"onnxmltools {version('onnxmltools')}, lightgbm {lightgbm.__version__}, onnxruntime {onnxruntime.__version__}")
held = []
for kind, trees, limits in (("gbdt", 10, [0.7]), ("rf", 10, [0.7]), ("rf", 100, [0.7]), ("rf", 100, [0.4]),
                            ("gbdt", 10, [0.4, 0.9]), ("rf", 10, [0.4, 0.9])):
    labels, truth = np.digitize(lean, limits), np.digitize(sure, limits)
    options = {"bagging_freq": 1, "bagging_fraction": 0.5, "random_state": 0, "verbose": -1}
    model = lightgbm.LGBMClassifier(boosting_type=kind, n_estimators=trees, **options).fit(data, labels)
    expected, likely = model.predict(points), model.predict_proba(points)
    print(f"  {kind}, {trees} trees, {len(limits) + 1} classes: LightGBM is right for {(expected == truth).mean():.1%},"
          f" says each class {np.bincount(expected, minlength=len(limits) + 1).tolist()} times")
    for name, source in (("model", model), ("Booster", model.booster_)):
        said, probabilities = converted(source)
        counts = np.bincount(said, minlength=len(limits) + 1)
        same = probabilities.shape == likely.shape
        apart = np.abs(probabilities - likely).max() if same else np.inf
        print(f"    ONNX of the {name}: right for {(said == truth).mean():.1%}, says each class {counts.tolist()}"
              f" times; {probabilities.shape[1]} probabilities, "
              + (f"which differ by up to {apart:.2g} from LightGBM's" if same else "one too few"))
        if kind == "gbdt":
            held.append((said == expected).all() and apart < 1e-5)
        elif name == "Booster":
            held.append((said == expected).all() and apart > 0.3)
        else:
            held.append((said != expected).mean() > 0.2 and counts[-1] == 0 and apart > 0.8)
            held.append((expected == truth).mean() > 0.9)
if not all(held):
    sys.exit("the behaviour has changed")
PYTHON
