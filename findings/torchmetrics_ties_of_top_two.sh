#!/bin/bash
# torchmetrics 1.9.0 and timm 1.0.31 (with torch 2.15.0): scores may tie, and votes of image copies often do. Then the
# two best classes need not contain the best one. argmax takes the first class of a tie. torch.topk takes other classes,
# and different ones for each k. torchmetrics' MulticlassAccuracy uses argmax for top_k=1 and topk for more. So top-2
# accuracy can be 0 % although top-1 accuracy is 100 %, on the same scores. timm's accuracy uses topk also for top-1: it
# can be 0 % although argmax is always right. A certificate for the class that argmax names is compared with an accuracy
# that counts another one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torchmetrics==1.9.0 timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import timm
import torch
import torchmetrics
from timm.utils import accuracy
from torchmetrics.classification import MulticlassAccuracy

votes = torch.tensor([[7.0, 7, 7, 2, 2]]).repeat(20, 1)  # images, classes: three classes tie
labels = torch.zeros(20, dtype=torch.long)  # the first of them is right
right = {k: MulticlassAccuracy(5, average="micro", top_k=k)(votes, labels).item() for k in (1, 2, 3)}
of_timm = accuracy(votes, labels, topk=(1,))[0].item() / 100
print(f"torch {torch.__version__}: 20 images with votes {votes[0].tolist()}, the first class is right")
for k in (1, 2, 3):
    print(f"  argmax {votes[0].argmax()}, topk({k}) {votes[0].topk(k).indices.tolist()}")
print(f"  torchmetrics {torchmetrics.__version__}: top-1 {right[1]:.0%}, top-2 {right[2]:.0%}, top-3 {right[3]:.0%}")
print(f"  timm {timm.__version__}: top-1 {of_timm:.0%}")
if not (right == {1: 1.0, 2: 0.0, 3: 1.0} and of_timm == 0):
    sys.exit("the behaviour has changed")
PYTHON
