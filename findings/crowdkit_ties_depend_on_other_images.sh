#!/bin/bash
# crowd-kit 1.4.2 (with pandas 3.1.1, numpy 2.4.6): MajorityVote takes a table of votes for many tasks, for example
# images, and names the most common label of each. About ties, its documentation says that the label "will be the same
# for all tasks that have the same set of labels with the same number of votes". This holds in one table only.
# MajorityVote takes the label that comes first in the whole table, and this can be a vote for another image. So the
# same votes for the same image give class 0 in one table and class 1 in another table, which has other images or
# another order of rows. We expected a rule that depends on the votes alone, like that of numpy's argmax, which takes
# the smallest class. Below, 24 copies vote for each of 500 images, and 79 images have a tie. For 36 of these, the
# answer from one table with all images differs from the answer from a table with this image alone. Suppose that a
# certificate uses a rule for ties, or was checked image by image. Then it is about other decisions than those for the
# whole data set.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    crowd-kit==1.4.2 pandas==3.1.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
from crowdkit.aggregation import MajorityVote

IMAGES, COPIES = 500, 24


def decided(rows):
    return MajorityVote().fit_predict(pd.DataFrame(rows, columns=["task", "worker", "label"])).to_dict()


print(f"crowd-kit {version('crowd-kit')}, pandas {pd.__version__}")
tied = [("image", "first copy", 0), ("image", "second copy", 1)]
other = [("another image", "first copy", 1), ("another image", "second copy", 1)]
answers = {
    "by itself": decided(tied)["image"],
    "its rows the other way round": decided(tied[::-1])["image"],
    "after another image, which is voted 1": decided(other + tied)["image"],
}
for table, answer in answers.items():
    print(f"  an image with one vote for 0 and one for 1, {table}: {answer}")

votes = np.random.default_rng(0).integers(0, 2, (IMAGES, COPIES))
rows = [[(image, copy, votes[image, copy]) for copy in range(COPIES)] for image in range(IMAGES)]
together = decided([row for of_image in rows for row in of_image])
alone = {image: decided(of_image)[image] for image, of_image in enumerate(rows)}
ones = votes.sum(1)
ties = ones == COPIES // 2
differ = np.array([together[image] != alone[image] for image in range(IMAGES)])
right = all(together[image] == (ones[image] > COPIES // 2) for image in range(IMAGES) if not ties[image])
print(f"  {COPIES} votes for each of {IMAGES} images: {ties.sum()} ties, {differ.sum()} other decisions together than"
      f" one by one; without a tie all are the majority: {right}")
if not (list(answers.values()) == [0, 1, 1] and right and differ.sum() > 10 and ties[differ].all()):
    sys.exit("the behaviour has changed")
PYTHON
