"""What users write, for `make typecheck`: mypy looks at it, nobody runs it."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from patchcert import (
    Area,
    Attacked,
    Band,
    Certification,
    HiddenWindows,
    MaskedClassifier,
    Patch,
    PlainNetwork,
    Share,
    SmoothedClassifier,
    WindowMaskedClassifier,
    attack,
    certify,
    encode,
    interval_bounds,
    load,
)

network = nn.Sequential(nn.Flatten(), nn.Linear(2 * 28 * 28, 10))
images, labels = torch.rand(3, 1, 28, 28), torch.zeros(3, dtype=torch.int64)
ablation = Band(28, 28, 4)

smoothed = SmoothedClassifier(network, ablation, threshold=0.3)
votes: Tensor = smoothed(images)
result: Certification = certify(smoothed, images, labels, patches=[Patch(5, 5), Patch(2, 8)], certificate="exact")
accuracies: tuple[float, ...] = result.certified_accuracy
certified: Tensor = result.answers[0].certified
record: dict[str, object] = result.to_dict()

masked = MaskedClassifier(network, ablation, Patch(5, 5))
raised: Certification = certify(MaskedClassifier(network, ablation, Area(9)), images, goal="alert", confidence=0.5)
passes: Tensor | None = raised.passes
of_area: Certification = certify(smoothed, images, patches=[Area(9), Patch(3), Share(2.5)])
of_share: Certification = certify(MaskedClassifier(network, ablation, Share(2)), images, patches=Share(2))
of_arrays: Certification = certify(masked, np.zeros((3, 1, 28, 28), np.uint8), np.zeros(3, np.int64))
without_labels: Certification = certify(smoothed, images, patches=Patch(5))
ordinary = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
of_intervals: Certification = interval_bounds(ordinary, images, labels, Patch(2, 2))
of_one_percent: Certification = interval_bounds(ordinary, images, labels, Share(1))
plain = PlainNetwork(ordinary, mean=0.5, std=(0.2, 0.2, 0.2), hidden=0.5, size=(28, 28))
logits: Tensor = plain(images, torch.zeros(3, 28, 28, dtype=torch.bool))
classes: int = plain.classes(images)
windows = WindowMaskedClassifier(plain, HiddenWindows.for_patch(28, 28, Share(3), 3))
alarms: Certification = certify(windows, images, labels, goal=["recover", "alert"], confidence=["strict", 0.5])
answers: Tensor = windows.predict(images)
answers_and_where: tuple[Tensor, Tensor] = windows.predict(images, where=True)
masked_answers: Tensor = masked.predict(images, 32)
masked_and_where: tuple[Tensor, Tensor] = masked.predict(images, where=True)
of_batches: Certification = certify(smoothed, [(images, labels)], patches=Patch(5))
of_loader: Certification = certify(smoothed, DataLoader(TensorDataset(images, labels)), patches=Patch(5))
attacked: Attacked = attack(plain, images, labels, Patch(5), places=[(0, 0)])
attacked = attack(plain, images, labels, Share(2))
flipped: Tensor = attacked.flipped
copies: Tensor = encode(images) * ablation.masks()[:1]

shipped: SmoothedClassifier = load("mnist-bands", Share(0.5))
facts: str = load("mnist-bands").describe()

certify(network, images, labels)  # type: ignore[arg-type]
SmoothedClassifier(network, ablation, threshold="0.3")  # type: ignore[arg-type]
Patch("5")  # type: ignore[arg-type]
PlainNetwork(ordinary, mean=["0.5"])  # type: ignore[list-item]
