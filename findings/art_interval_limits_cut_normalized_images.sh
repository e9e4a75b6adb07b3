#!/bin/bash
# adversarial-robustness-toolbox 1.20.1 (with torch 2.15.0): PyTorchIBPClassifier.predict_intervals(x, bounds, limits)
# normalizes the images first, if it was told to (preprocessing=(mean, deviation)), and then adds bounds and clips to
# limits. So bounds are in units of the deviation, and limits are normalized values. But clip_values, predict() and
# ART's attacks are about pixels. With preprocessing=(0.5, 0.25) a box of 0.1 holds changes of 0.025. Pixels lie between
# 0 and 1. With limits=[0, 1], every pixel below the mean becomes the mean. The box then does not contain the image
# itself, and its interval does not contain the logits that predict() gives for the clean image.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    adversarial-robustness-toolbox==1.20.1 torch==2.15.0 numpy==2.4.6 setuptools==84.2.1 packaging==26.4
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import art
import numpy as np
import torch
from art.estimators.certification.interval import PyTorchIBPClassifier
from torch import nn

warnings.filterwarnings("ignore", message="\nThis estimator does not support")
torch.manual_seed(0)
BOUND, DEVIATION = 0.1, 0.25


class Mean(nn.Module):
    """One class is the mean of the pixels, the other its negative: easy to follow by hand."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.linear.weight.data = torch.tensor([[0.25] * 4, [-0.25] * 4])
        self.linear.bias.data.zero_()

    def forward(self, images):
        return self.linear(images)


classifier = PyTorchIBPClassifier(
    model=Mean(), loss=nn.CrossEntropyLoss(), input_shape=(4,), nb_classes=2, clip_values=(0, 1),
    preprocessing=(0.5, DEVIATION), device_type="cpu",
)  # fmt: skip
images = np.full((1, 4), 0.25, np.float32)  # images, pixels
classifier.model.set_forward_mode("concrete")
clean = classifier.predict(images)[0, 0]
changed = classifier.predict(images + np.float32(BOUND))[0, 0]
classifier.model.set_forward_mode("abstract")
free = classifier.predict_intervals(images, bounds=BOUND)[0, :, 0]
limited = classifier.predict_intervals(images, bounds=BOUND, limits=[0, 1])[0, :, 0]
print(f"adversarial-robustness-toolbox {art.__version__}: pixels of 0.25, normalized by (0.5, {DEVIATION})")
print(f"  predict(): {clean:.3f}, and {changed:.3f} with {BOUND} added to each pixel")
print(f"  predict_intervals(bounds={BOUND}): from {free[0]:.3f} to {free[1]:.3f}")
print(f"  predict_intervals(bounds={BOUND}, limits=[0, 1]): from {limited[0]:.3f} to {limited[1]:.3f}")
if not (free[0] <= clean <= free[1] < changed - 0.1 and limited[0] > clean + 0.1):
    sys.exit("the behaviour has changed")
PYTHON
