"""Which images are attacked, and what is known of them beforehand."""

from dataclasses import dataclass

import torch
from torch import Tensor

from patchcert.attacks.classifier import Classifier
from patchcert.data.dataset import Dataset
from patchcert.smoothing.certificate import Certifier, Question, Verdicts, predict


@dataclass(frozen=True)
class Targets:
    """N correctly classified images and what is known of them beforehand; axis 0 of every tensor is the image.

    Attributes:
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) int64.
        indices: (N,) int64, places in the data set's own order; with the seed they fix an image's randomness.
        probabilities: (N, A, K), the softmax of every copy of the clean image.
        certified: (N,) bool, images of which a certificate says that the attack cannot flip them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    probabilities: Tensor
    certified: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Clean:
    """What N images are before the attack: `probabilities` (N, A, K), predictions and answers to some questions.

    Attributes:
        images, labels, indices, probabilities: as in `Targets`, also of images that are classified wrongly.
        predicted: (N,) int64.
        verdicts: one for each question.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    probabilities: Tensor
    predicted: Tensor
    verdicts: list[Verdicts]

    def targets(self) -> Targets:
        """The correctly classified images."""
        right = self.predicted == self.labels
        certified = torch.zeros_like(right)
        for verdicts in self.verdicts:
            certified |= verdicts.certified
        return Targets(
            self.images[right],
            self.labels[right],
            self.indices[right.to(self.indices.device)],
            self.probabilities[right],
            certified[right],
        )


def look_at(classifier: Classifier, dataset: Dataset, questions: list[Question], batch_size: int) -> Clean:
    """Classify the images of `dataset` and answer `questions` about them, in one pass over the network.

    Args:
        batch_size: ablated copies per call of the network, unless one image alone has more.
    """
    certifier = Certifier(classifier.ablation, questions)
    every_copy = torch.arange(classifier.ablation.count, device=dataset.labels.device)
    images = torch.cat([batch for batch, _ in dataset.batches(batch_size)])
    parts = list(classifier.probabilities(images, batch_size))
    answers = zip(*(certifier([(every_copy, part)]) for part in parts), strict=True)
    verdicts = [Verdicts.concatenate(answer) for answer in answers]
    p = torch.cat(parts)
    return Clean(images, dataset.labels, dataset.indices, p, predict(classifier.rule(p).sum(dim=1)), verdicts)
