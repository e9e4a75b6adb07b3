"""Certificates of a defence that may answer "attacked" instead of a class: the alarm.

No patch can make such a defence give a wrong class without an alarm, where it is certified. Two rules say when it
raises one. In both, some masked answer is one that no patch can change, since the mask hides the patch.

The strict rule (Minority Reports, McCoyd et al., 2020; PatchCleanser's first round): the output is the class that all
masked images give, else the alarm. If they all give y for the clean image, the one that hides the patch still gives y.

By confidence: the output is the class y₀ that the network gives for the whole image, unless some masked image gives
another class with a confidence above τ. If all masked images give y with a confidence above τ, a patch that makes
another class of y₀ meets the one that hides it, which contradicts. Larger τ means fewer false alarms and fewer
certificates.

Where the scores of copies are added up, a masked answer is that of the copies which one place of the patch leaves.

Against two patches, the masked images are those with one mask or with two. Two of the masks, or one twice, hide both
patches. So some masked answer is one that the patches cannot change, and both rules and their proofs are the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from patchcert import distributed
from patchcert.errors import require_number
from patchcert.masking.answers import STEEPEST, UNASKED

ALARM = -1
"""The output instead of a class."""

TENSORS = ("agreed", "whole", "contradiction", "lead", "certain")
"""What is known of each image."""


@dataclass(frozen=True)
class Alarms:
    """What outputs and certificates by both rules follow from, for N images; all tensors are (N,).

    Attributes:
        agreed: int64, the class that all masked images give, or `ALARM` if they give several, or one was not asked for.
        whole: int64, y₀, the class of the whole image.
        contradiction: float32, the largest confidence of a masked image that gives another class than y₀; −1 if none.
        lead, certain: float32, the least of the masked images; see `Answers`. Float64 where scores were added up.
        steepest: by so much does a confidence change at most, for each unit of a lead.
    """

    agreed: Tensor
    whole: Tensor
    contradiction: Tensor
    lead: Tensor
    certain: Tensor
    steepest: float = STEEPEST

    @classmethod
    def of(cls, classes: Tensor, leads: Tensor, confidences: Tensor, certain: Tensor, whole: Tensor) -> Self:
        """From the answers to M masked images each, (N, M), and the classes of the whole images, (N,).

        An answer that is `UNASKED` contradicts nothing, and agrees with nothing.
        """
        asked = classes != UNASKED
        contradiction = confidences.where(asked & (classes != whole[:, None]), -1.0).amax(dim=1)
        agreed = _common(classes).where(asked.all(dim=1), ALARM)
        return cls(agreed, whole, contradiction, leads.amin(dim=1), certain.amin(dim=1))

    @classmethod
    def of_sums(cls, sums: Tensor, added: Tensor, whole: Tensor, temperature: float) -> Self:
        """From the scores (N, P, K) that each of P places leaves, and the classes of the whole images, (N,).

        Args:
            added: (N, P), by how much each lead must exceed the numerical margin; see `margins`.
            temperature: of confidences, softmax probabilities of so many times the sums.
        """
        highest = sums.topk(2, dim=2).values
        confidences = (temperature * sums).softmax(dim=2).amax(dim=2)
        steepest = temperature * STEEPEST
        leads = highest[..., 0] - highest[..., 1] - added
        found = cls.of(sums.argmax(dim=2), leads, confidences, confidences - steepest * added, whole)
        return replace(found, steepest=steepest)

    @classmethod
    def of_all(cls, parts: Sequence[Self]) -> Self:
        """Those of N images, from the same by some of the masked images each."""
        least = (torch.stack([getattr(part, name) for part in parts]).amin(dim=0) for name in ("lead", "certain"))
        agreed = _common(torch.stack([part.agreed for part in parts], dim=1))
        contradiction = torch.stack([part.contradiction for part in parts]).amax(dim=0)
        return cls(agreed, parts[0].whole, contradiction, *least, steepest=parts[0].steepest)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in TENSORS}
        return cls(**tensors, steepest=parts[0].steepest)

    def merged(self, count: int) -> Self:
        """Those of all `count` images, of which these are of this process's share."""
        return replace(self, **{name: distributed.merge(getattr(self, name), count) for name in TENSORS})

    def strict(self, numerical_margin: float) -> tuple[Tensor, Tensor]:
        """The outputs (N,) int64, of which some are `ALARM`, and which of them are certified, (N,) bool.

        Raises:
            ValueError: the numerical margin ν is not a number of at least 0.
        """
        require_number("numerical_margin", numerical_margin, 0, math.inf)
        return self.agreed, (self.agreed != ALARM) & (self.lead > numerical_margin)

    def by_confidence(self, threshold: float, numerical_margin: float) -> tuple[Tensor, Tensor]:
        """The same by confidence, τ = `threshold`.

        What rounding of logits by the numerical margin may change counts as the adversary's: which class leads in a
        masked image, and whether its confidence is above τ.

        Raises:
            ValueError: τ is not a number from 0 to 1, or ν not one of at least 0.
        """
        require_number("threshold", threshold, 0, 1)
        require_number("numerical_margin", numerical_margin, 0, math.inf)
        output = self.whole.where(self.contradiction <= threshold, ALARM)
        sure = (self.lead > numerical_margin) & (self.certain - self.steepest * numerical_margin > threshold)
        return output, (self.agreed == self.whole) & sure


def _common(classes: Tensor) -> Tensor:
    """(N,): the class that stands everywhere in a row of `classes` (N, M), else `ALARM`."""
    first = classes[:, 0]
    return first.where((classes == first[:, None]).all(dim=1), ALARM)
