"""Certificates of a defence that may answer "attacked" instead of a class: the alarm.

No patch can make such a defence give a wrong class without an alarm, where it is certified. Two rules say when it
raises one. In both, some masked answer is one that no patch can change, since the mask hides the patch.

The strict rule (Minority Reports, McCoyd et al., 2020; PatchCleanser's first round): the output is the class that all
masked images give, else the alarm. If they all give y for the clean image, the one that hides the patch still gives y.

By confidence: the output is the class y₀ that the network gives for the whole image, unless some masked image gives
another class with a confidence above τ. If all masked images give y with a confidence above τ, a patch that makes
another class of y₀ meets the one that hides it, which contradicts. Larger τ means fewer false alarms and fewer
certificates.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

ALARM = -1
"""The output instead of a class."""


@dataclass(frozen=True)
class Alarms:
    """What outputs and certificates by both rules follow from, for N clean images; all tensors are (N,).

    Attributes:
        whole: int64, y₀, the class of the whole image; or of the first masked one, where the whole was not asked for.
        lead: float64, the least lead of y₀ in a masked image; below 0, if some gives another class.
        contradiction: float64, the largest confidence of a masked image that gives another class than y₀; −1 if none.
        weakest: float64, the least confidence of the masked images, if all give y₀; else −1.
    """

    whole: Tensor
    lead: Tensor
    contradiction: Tensor
    weakest: Tensor

    @classmethod
    def of(cls, classes: Tensor, leads: Tensor, confidences: Tensor, whole: Tensor | None = None) -> Self:
        """From the answers to M masked images each, (N, M), and to the whole ones (N,)."""
        whole = classes[:, 0] if whole is None else whole
        others = classes != whole[:, None]
        lead = torch.where(others, -leads, leads).double().amin(dim=1)
        contradiction = confidences.where(others, -1.0).double().amax(dim=1)
        weakest = torch.where(others, -1.0, confidences).double().amin(dim=1)
        return cls(whole, lead, contradiction, weakest)

    def strict(self, numerical_margin: float) -> tuple[Tensor, Tensor]:
        """The outputs (N,) int64, of which some are `ALARM`, and which of them are certified, (N,) bool."""
        output = self.whole.where(self.contradiction < 0, ALARM)
        return output, (output != ALARM) & (self.lead > numerical_margin)

    def by_confidence(self, threshold: float, numerical_margin: float, rounding: float) -> tuple[Tensor, Tensor]:
        """The same by confidence, τ = `threshold`.

        Leads within the numerical margin, and confidences within `rounding` of τ, count as the adversary's: a masked
        image where two classes nearly tie may give the other one in another batch.
        """
        output = self.whole.where(self.contradiction <= threshold, ALARM)
        certain = (self.lead > numerical_margin) & (self.weakest > threshold + rounding)
        return output, (output != ALARM) & certain
