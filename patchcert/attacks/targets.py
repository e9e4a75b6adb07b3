"""Which images are attacked, and what is known of them beforehand."""

from dataclasses import dataclass

import torch
from torch import Tensor

from patchcert.classifiers import weak_spots
from patchcert.classifiers.masked import MaskedClassifier
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.data.dataset import Dataset
from patchcert.networks import require_labels
from patchcert.patch import Patch
from patchcert.votes.certificate import Question


@dataclass(frozen=True)
class Targets:
    """N correctly classified images and what is known of them beforehand; axis 0 of every tensor is the image.

    Attributes:
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) int64.
        indices: (N,) int64, places in the data set's own order; with the seed they fix an image's randomness.
        outputs: (N, A, K), the logits of every copy of the clean image.
        certified: (N,) bool, images of which a certificate says that the attack cannot flip them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    outputs: Tensor
    certified: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Clean:
    """What N images are before the attack, also those that are classified wrongly.

    Attributes:
        images, labels, indices, outputs: as in `Targets`.
        predicted: (N,) int64.
        certified: (N,) bool for each question that was asked.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    outputs: Tensor
    predicted: Tensor
    certified: list[Tensor]

    def targets(self) -> Targets:
        """The correctly classified images."""
        right = self.predicted == self.labels
        certified = torch.zeros_like(right)
        for answers in self.certified:
            certified |= answers
        return Targets(
            self.images[right],
            self.labels[right],
            self.indices[right.to(self.indices.device)],
            self.outputs[right],
            certified[right],
        )


@torch.no_grad()
def look_at(classifier: SmoothedClassifier, dataset: Dataset, questions: list[Question], batch_size: int) -> Clean:
    """Classify the images of `dataset` and answer `questions` about them, in one pass over the network.

    Args:
        batch_size: ablated copies per call of the network, unless one image alone has more.
    """
    images = torch.cat([batch for batch, _ in dataset.batches(batch_size)])
    parts = list(classifier.logits_and_magnitudes(images, batch_size))
    outputs = torch.cat([logits for logits, _ in parts])
    require_labels(outputs.shape[2], dataset.labels)
    predicted = torch.cat([classifier.decide(classifier.ballots(logits)) for logits, _ in parts])
    answers = zip(*(classifier.verdicts(*part, questions) for part in parts), strict=True)
    certified = [torch.cat([verdicts.certified for verdicts in answer]) for answer in answers]
    return Clean(images, dataset.labels, dataset.indices, outputs, predicted, certified)


def leads_by_place(classifier: SmoothedClassifier, patch: Patch, predicted: Tensor, outputs: Tensor) -> Tensor:
    """(N, rows, columns): what is left of the lead of the `predicted` (N,) with the patch at each place.

    See `classifiers.weak_spots`.

    Args:
        outputs: (N, A, K), the logits of every copy.
    """
    if isinstance(classifier, MaskedClassifier):
        scores, masking = classifier.ballots(outputs), classifier.masking.to(outputs.device)
        return weak_spots.of_scores(classifier.ablation, masking, patch, 1, predicted, scores)
    every = torch.arange(classifier.ablation.count, device=outputs.device)
    question = Question(patch, classifier.rule, "exact")
    return weak_spots.of_votes(classifier.ablation, question, [(every, outputs.softmax(dim=-1))])
