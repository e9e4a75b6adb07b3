#!/bin/bash
# monai 1.6.1 (with torch 2.15.0, numpy 2.4.6): the documentation says that VoteEnsemble "will vote to select the most
# common data between items", for data in One-Hot format and for class numbers. Class numbers give this result. With
# One-Hot data, VoteEnsemble decides each channel by itself: the channel is 1 if more than half of the items say 1. If
# the most common class has half of the votes or less, all channels are 0, and no class is named. Suppose that of 5
# votes, 2 are for class 3, and one each for classes 0, 1 and 2. Then class numbers give 3, and One-Hot data give
# nothing. argmax, which turns One-Hot data into a class number, then returns class 0. Below, 25 copies of each of 1,000
# images vote at random for 10 classes. By class numbers, each class wins for about one image in ten. In One-Hot format
# no class wins for any image, and argmax returns class 0 for all. So in a defence that counts votes of masked copies,
# one class wins because there is no majority. A certificate that compares the two largest counts is about another
# decision.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    monai==1.6.1 torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import monai
import torch
from monai.transforms import VoteEnsemble

CLASSES, COPIES, IMAGES = 10, 25, 1000


def by_numbers(votes, classes):
    return VoteEnsemble(num_classes=classes)(votes[:, None])[0].long()  # copies, 1, images


def one_hot(votes, classes):
    return VoteEnsemble()(torch.nn.functional.one_hot(votes, classes).movedim(-1, 1))  # copies, classes, images


print(f"monai {monai.__version__}, torch {torch.__version__}")
few = torch.tensor([3, 0, 3, 1, 2])[:, None]
numbers, channels = by_numbers(few, 4), one_hot(few, 4)
print(f"  votes {few.flatten().tolist()}: by class numbers {numbers.tolist()}, in One-Hot format"
      f" {channels.flatten().tolist()}, argmax of it {channels.argmax(0).tolist()}")
most = torch.tensor([3, 3, 3, 1, 2])[:, None]
print(f"  votes {most.flatten().tolist()}: by class numbers {by_numbers(most, 4).tolist()}, in One-Hot format"
      f" {one_hot(most, 4).flatten().tolist()}")
votes = torch.randint(CLASSES, (COPIES, IMAGES), generator=torch.Generator().manual_seed(0))
counts = torch.nn.functional.one_hot(votes, CLASSES).sum(0)  # images, classes
right = torch.equal(by_numbers(votes, CLASSES), counts.argmax(1))
decided = one_hot(votes, CLASSES)
nothing = (decided.sum(0) == 0).float().mean().item()
print(f"  {COPIES} random votes for {CLASSES} classes, {IMAGES} images: class numbers give the most common: {right}")
class_0 = (decided.argmax(0) == 0).float().mean().item()
print(f"    One-Hot format: no class for {nothing:.1%} of the images, and argmax says class 0 for {class_0:.1%}")
if not (right and nothing > 0.9 and numbers.tolist() == [3] and channels.sum() == 0
        and one_hot(most, 4).argmax(0).tolist() == [3]):
    sys.exit("the behaviour has changed")
PYTHON
