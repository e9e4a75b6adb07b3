"""What a network answers to masked images: its class, by how much, how confident it is."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from patchcert.arithmetic import coarsest
from patchcert.masking.margins import RELATIVE_MARGINS

STEEPEST = 1 / 4
"""By so much does a class's probability change at most, for each unit that its logit gains on all others."""


@dataclass(frozen=True)
class Answers:
    """To B masked images; all tensors are (B,).

    Attributes:
        classes: int64, the class of the largest logit, the lowest index among equals.
        leads: float32, that logit over the next largest, less the share of the largest magnitude by which a lead must
            exceed the numerical margin; see `margins`.
        confidences: float32, its softmax probability.
        certain: float32, the confidence that is left where the same share is taken from that logit.
    """

    classes: Tensor
    leads: Tensor
    confidences: Tensor
    certain: Tensor

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
        leads = highest[:, 0] - highest[:, 1] - share
        return cls(logits.argmax(dim=1), leads, confidences, confidences - share * STEEPEST)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, chosen: slice | Tensor) -> Self:
        return type(self)(*(tensor[chosen] for tensor in vars(self).values()))

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def cpu(self) -> Self:
        return type(self)(*(tensor.cpu() for tensor in vars(self).values()))
