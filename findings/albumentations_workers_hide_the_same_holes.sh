#!/bin/bash
# albumentations 2.0.8 (with torch 2.15.0): if a DataLoader has workers, CoarseDropout hides the same places in all of
# them, and the same again in each epoch. The pipeline has random numbers of its own. Each worker gets a copy of their
# state. In each epoch, new workers start from the state of the main process, and this state never changes. The seeds
# that torch gives its workers do not reach it, whether Compose has a seed or not. Below, 64 images are loaded 10 times,
# with a hole of 8 x 8 in 224 x 224 pixels. 1 worker hides 64 places in all, and 2 workers hide 32. One expects about
# 640, as without workers, or with torchvision's RandomErasing. A network that is trained with it sees few masks: the
# more workers, the fewer masks. With persistent_workers=True epochs differ, but workers do not.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    albumentations==2.0.8 albucore==0.0.24 opencv-python-headless==5.0.0.93 scipy==1.17.1 \
    torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import albumentations
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import RandomErasing

IMAGES, EPOCHS = 64, 10
HOLE = {"num_holes_range": (1, 1), "hole_height_range": (8, 8), "hole_width_range": (8, 8), "fill": 0, "p": 1}


class Places(Dataset):
    """For each image the place, upper row and left column, of the hole that `transform` makes."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return IMAGES

    def __getitem__(self, _):
        rows, columns = np.nonzero(self.transform(np.full((224, 224, 3), 100, np.uint8)))
        return rows.min(), columns.min()


def holes_of_albumentations(seed):
    transform = albumentations.Compose([albumentations.CoarseDropout(**HOLE)], seed=seed)
    return lambda image: (transform(image=image)["image"] != image).any(2)


def holes_of_torchvision(image):
    erase = RandomErasing(p=1, scale=(64 / 224**2, 64 / 224**2), ratio=(1, 1))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    return (erase(tensor) != tensor).any(0).numpy()


def places(transform, **options):
    """How many different places `EPOCHS` epochs of `IMAGES` images have."""
    loader = DataLoader(Places(transform), batch_size=8, **options)
    batches = [torch.stack(batch, 1) for _ in range(EPOCHS) for batch in loader]
    return len(torch.cat(batches).unique(dim=0))


torch.manual_seed(0)
print(f"albumentations {albumentations.__version__}, torch {torch.__version__}: {IMAGES} images, {EPOCHS} epochs")
found = {
    "torchvision, 2 workers": places(holes_of_torchvision, num_workers=2),
    "no workers": places(holes_of_albumentations(None)),
    "2 workers": places(holes_of_albumentations(None), num_workers=2),
    "2 workers, Compose(seed=0)": places(holes_of_albumentations(0), num_workers=2),
    "1 worker": places(holes_of_albumentations(None), num_workers=1),
    "2 workers, persistent": places(holes_of_albumentations(None), num_workers=2, persistent_workers=True),
}
for name, number in found.items():
    print(f"  {name}: {number} places")
few = (found["2 workers"], found["2 workers, Compose(seed=0)"], found["1 worker"])
if not (few == (32, 32, 64) and min(found["torchvision, 2 workers"], found["no workers"]) > 600):
    sys.exit("the behaviour has changed")
PYTHON
