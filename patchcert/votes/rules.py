"""The rules by which ablated copies vote."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class VoteRule(Protocol):
    """Turns softmax outputs (…, K) into votes (…, K) bool."""

    def __call__(self, probabilities: Tensor) -> Tensor: ...

    def bounds(self, probabilities: Tensor, numerical_margin: float) -> tuple[Tensor, Tensor]:
        """Votes cast for certain and votes possibly cast, (…, K) bool each.

        A vote is certain, or not possible, if it is further than `numerical_margin` (ν) from being decided otherwise:
        its probability from the threshold, or from that of the runner-up, who may gain what the first loses.
        """


@dataclass(frozen=True)
class ThresholdVote:
    """An ablated copy votes for every class whose probability is at least `threshold` (θ): none, one or several."""

    threshold: float

    def __call__(self, probabilities: Tensor) -> Tensor:
        return probabilities >= self.threshold

    def bounds(self, probabilities: Tensor, numerical_margin: float) -> tuple[Tensor, Tensor]:
        return probabilities >= self.threshold + numerical_margin, probabilities >= self.threshold - numerical_margin


@dataclass(frozen=True)
class TopOneVote:
    """An ablated copy votes for its most probable class alone, the lowest index among equals."""

    def __call__(self, probabilities: Tensor) -> Tensor:
        winner = probabilities.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(-1, winner, True)

    def bounds(self, probabilities: Tensor, numerical_margin: float) -> tuple[Tensor, Tensor]:
        possible = probabilities.amax(dim=-1, keepdim=True) - probabilities <= numerical_margin
        return possible & (possible.sum(dim=-1, keepdim=True) == 1), possible


@dataclass(frozen=True)
class Ballot:
    """How votes are counted: by `rule`, those within `numerical_margin` (ν) as the adversary's."""

    rule: VoteRule
    numerical_margin: float = 0.0

    def bounds(self, probabilities: Tensor) -> Tensor:
        """(B, …, K) bool: certain votes first, possible ones last; with ν = 0 they are the same, and B is 1."""
        if self.numerical_margin == 0:
            return self.rule(probabilities)[None]
        return torch.stack(self.rule.bounds(probabilities, self.numerical_margin))

    def as_json(self) -> dict:
        return {"threshold": getattr(self.rule, "threshold", None), "numerical_margin": self.numerical_margin}
