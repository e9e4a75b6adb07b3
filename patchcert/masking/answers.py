"""What a network answers to masked images: its class, by how much, how confident it is."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

EPSILONS = 32
"""Half units in the last place of the largest logit by which rounding may change a lead, beside the margin ν.

A float32 network's logits differed between batches by 9e-6 of 23, which is 7 such units; see docs/threat-model.md.
"""


@dataclass(frozen=True)
class Answers:
    """To B masked images; all tensors are (B,).

    Attributes:
        classes: int64, the class of the largest logit, the lowest index among equals.
        leads: float32, that logit over the next largest, less what rounding may make of them if they are huge.
        confidences: float32, its softmax probability.
    """

    classes: Tensor
    leads: Tensor
    confidences: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Self:
        """Those that the `logits` (B, K) give.

        Raises:
            FloatingPointError: a logit is not finite.
        """
        logits = logits.float()
        if not logits.isfinite().all():
            raise FloatingPointError("the network's logits are not finite: no answer can be given")
        highest = logits.topk(2, dim=1).values
        rounding = EPSILONS * torch.finfo(torch.float32).eps / 2 * logits.abs().amax(dim=1)
        confidences = logits.softmax(dim=1).amax(dim=1)
        return cls(logits.argmax(dim=1), highest[:, 0] - highest[:, 1] - rounding, confidences)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, chosen: slice | Tensor) -> Self:
        return type(self)(self.classes[chosen], self.leads[chosen], self.confidences[chosen])

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def cpu(self) -> Self:
        return type(self)(*(tensor.cpu() for tensor in vars(self).values()))
