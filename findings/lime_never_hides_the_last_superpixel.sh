#!/bin/bash
# lime 0.2.0.1 (with scikit-image 0.26.0, numpy 2.4.6) explains an image: it hides superpixels at random, and fits how
# much each of them counts for the answer. It offers scikit-image's segmentations by its own class
# SegmentationAlgorithm, for example SegmentationAlgorithm("slic"). We expected that each superpixel is hidden in about
# half of the copies. But lime takes the labels for 0, 1, ..., n - 1, and slic's labels are 1, 2, ..., n. So the
# superpixel n, which is at the lower right, is shown in all copies, and has no weight in the explanation. Number 0 has
# a weight, but no pixels. Below, a patch is at one of sixteen places, and the
# class depends on the patch alone. Lime's explanation has the patch's superpixel first at fifteen places. At the last
# place it does not contain it, and all weights are 0. A defence that hides what an explanation names misses such a
# patch. With start_label=0, the patch is found at each place. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check lime==0.2.0.1 \
    scikit-image==0.26.0 scikit-learn==1.8.0 matplotlib==3.10.7 numpy==2.4.6 scipy==1.17.1
TQDM_DISABLE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from lime.lime_image import LimeImageExplainer
from lime.wrappers.scikit_image import SegmentationAlgorithm

SIDE, TILE, COPIES = 32, 8, 400
print(f"lime {version('lime')}, scikit-image {version('scikit-image')}: where is the patch?")
colours = np.random.default_rng(0).permutation(np.linspace(0.2, 0.8, 16)).reshape(4, 4)
picture = np.repeat(np.kron(colours, np.ones((TILE, TILE)))[..., None], 3, axis=2)
found, hidden = {}, {}
for start in (None, 0):
    more = {} if start is None else {"start_label": start}
    segment = SegmentationAlgorithm("slic", n_segments=16, compactness=0.1, channel_axis=-1, **more)
    labels = segment(picture)
    found[start], hidden[start] = [], []
    for row, column in np.ndindex(4, 4):
        place = np.s_[TILE * row : TILE * (row + 1), TILE * column : TILE * (column + 1)]
        shown = []

        def probabilities(copies, place=place, shown=shown):
            visible = np.array([copy[place].mean() / picture[place].mean() for copy in copies])
            shown.extend(visible)
            return np.stack([1 - visible, visible], axis=1)

        explanation = LimeImageExplainer(verbose=False, random_state=0).explain_instance(
            picture, probabilities, labels=(1,), top_labels=None, hide_color=0, num_samples=COPIES,
            segmentation_fn=segment,
        )  # fmt: skip
        weights = dict(explanation.local_exp[1])
        own = np.unique(labels[place])
        assert len(own) == 1, own
        largest = max(weights, key=weights.get)
        found[start].append(largest == own[0] and weights[largest] > 0.1)
        hidden[start].append(1 - float(np.mean(shown)))
    print(f"  labels {labels.min()} to {labels.max()}: the patch has the largest weight at {sum(found[start])} of 16"
          f" places; at the last place it is hidden in {hidden[start][-1]:.0%} of the copies, and its weight is"
          f" {weights.get(own[0])}, the largest is {weights[largest]:.2f} (number {largest})")
if found[None] != [True] * 15 + [False] or hidden[None][-1] > 1e-6 or not all(found[0]):
    sys.exit("the behaviour has changed")
PYTHON
