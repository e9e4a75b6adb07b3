#!/bin/bash
# adversarial-robustness-toolbox 1.20.1 (with numpy 2.4.6, scikit-learn 1.9.1): ObjectSeeker's certify() never looks at
# what the detector finds in the masked copies. ObjectSeeker (arXiv 2202.01811) certifies a box if, wherever the patch
# is, some masked copy hides the patch and still shows the object. ART looks only at the corners of the boxes: a box is
# certified if some pixel of the image is out of its reach. So a detector that loses the object in every masked copy
# gets the same certificates as a detector that finds it in all of them, for patches of up to half of the image.
# PyTorchObjectSeeker inherits this certify().
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    adversarial-robustness-toolbox==1.20.1 numpy==2.4.6 scikit-learn==1.9.1 setuptools==84.2.1 packaging==26.4
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import art
import numpy as np
from art.estimators.certification.object_seeker.object_seeker import ObjectSeekerMixin

NOTHING = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "scores": np.zeros(0)}
OBJECT = {"boxes": np.array([[20.0, 20.0, 40.0, 40.0]]), "labels": np.array([1]), "scores": np.array([0.9])}


class Detector(ObjectSeekerMixin):
    """Finds one object in an image of 64 x 64, and in the masked copies what it is told."""

    def __init__(self, in_masked_copies):
        super().__init__()
        self.in_masked_copies = in_masked_copies

    def _image_dimensions(self):
        return 64, 64

    def _masked_predictions(self, x_i, batch_size=128, **kwargs):
        return OBJECT, self.in_masked_copies


images = np.zeros((1, 64, 64, 3), np.float32)  # images, height, width, channels
robust, fragile = Detector(OBJECT), Detector(NOTHING)
print(f"adversarial-robustness-toolbox {art.__version__}: one object of 20 x 20 in an image of 64 x 64; certified?")
same = True
for patch in (0.01, 0.1, 0.5):  # share of the image
    kept, lost = (bool(detector.certify(images, patch_size=patch)[0][0]) for detector in (robust, fragile))
    print(f"  patch of {patch:.0%}: {kept} if all masked copies show the object, {lost} if none does")
    same &= kept and lost
if not same:
    sys.exit("the behaviour has changed")
PYTHON
