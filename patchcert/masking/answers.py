"""What a network answers to masked images: its class, by how much, how confident it is."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from patchcert.arithmetic import RELATIVE_MARGINS, coarsest

STEEPEST = 1 / 4
"""By so much does a class's probability change at most, for each unit that its logit gains on all others."""

UNASKED = -1
"""In place of a class where the network was not asked."""


@dataclass(frozen=True)
class Answers:
    """To B masked images; all tensors are (B,).

    Attributes:
        classes: int64, the class of the largest logit, the lowest index among equals; `UNASKED` where there is none.
        gaps: float32, that logit less the next largest.
        confidences: float32, its softmax probability.
        shares: float32, the share of the largest magnitude among the logits by which a gap must exceed the numerical
            margin; see `margins`.
    """

    classes: Tensor
    gaps: Tensor
    confidences: Tensor
    shares: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Self:
        """Those that the `logits` (B, K) give, computed in the arithmetic that is set now.

        Raises:
            FloatingPointError: a logit is not finite.
        """
        logits = logits.float()
        if not logits.isfinite().all():
            raise FloatingPointError("the network's logits are not finite: no answer can be given")
        highest = logits.topk(2, dim=1).values
        share = RELATIVE_MARGINS[coarsest(logits.device)] * logits.abs().amax(dim=1)
        confidences = logits.softmax(dim=1).amax(dim=1)
        return cls(logits.argmax(dim=1), highest[:, 0] - highest[:, 1], confidences, share)

    @classmethod
    def none(cls, count: int) -> Self:
        """So many that nobody gave yet."""
        return cls(torch.full((count,), UNASKED), *(torch.zeros(count) for _ in range(3)))

    @property
    def leads(self) -> Tensor:
        """(B,) float32: the gaps less the shares."""
        return self.gaps - self.shares

    @property
    def certain(self) -> Tensor:
        """(B,) float32: the confidences that are left where the share is taken from the largest logit."""
        return self.confidences - self.shares * STEEPEST

    def __len__(self) -> int:
        return len(self.classes)

    def put(self, numbers: Tensor, answers: Self) -> None:
        """Write `answers` (n,) in place of those of these `numbers` (n,)."""
        for own, given in zip(vars(self).values(), vars(answers).values(), strict=True):
            own[numbers] = given

    def __getitem__(self, chosen: slice | Tensor) -> Self:
        return type(self)(*(tensor[chosen] for tensor in vars(self).values()))

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def cpu(self) -> Self:
        return type(self)(*(tensor.cpu() for tensor in vars(self).values()))


def dissenting(classes: Tensor) -> Tensor:
    """(M,) bool: which of the `classes` (M,) int64 differ from the most frequent one, the lowest among equals."""
    return classes != classes.bincount().argmax()
