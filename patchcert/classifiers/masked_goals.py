"""What double masking of scores answers to each goal, recovery or alarms, from as few copies as it takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from patchcert.ablations.windows import WindowPairs
from patchcert.classifiers.in_order import CopiesInOrder
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.rounds import Wanted
from patchcert.classifiers.window_goals import RECOVER, Goal
from patchcert.engines.asking import Engine
from patchcert.engines.joint import JointNetwork
from patchcert.engines.pairs import COPIES_AT_ONCE
from patchcert.masking.alarms import Alarms
from patchcert.masking.answers import Answers
from patchcert.masking.double_masking import DoubleMasking, MaskedVerdicts
from patchcert.masking.margins import Margin
from patchcert.masking.score_alarms import of_scores, require_few_places

IMAGES_AT_ONCE = 64
"""Whose questions share batches. Of each, all logits are kept until it is decided."""


def asks_in_order(classifier: SmoothedClassifier) -> bool:
    """Whether the network can be asked about its copies one by one, in the order in which it is over soonest."""
    if isinstance(classifier.network, JointNetwork):
        return True
    return isinstance(classifier.ablation, WindowPairs) and classifier.engine_name == "dense"


def in_order_of(classifier: SmoothedClassifier, batch_size: int) -> CopiesInOrder | None:
    """What asks a classifier about its copies in order, for predictions and for certificates; None if it cannot be.

    Args:
        batch_size: of a `MaskedLook`.
    """
    if not asks_in_order(classifier):
        return None
    joint = isinstance(classifier.network, JointNetwork)
    return CopiesInOrder(classifier, max(batch_size, COPIES_AT_ONCE) if joint else batch_size)


def wanted_for(goals: Sequence[Goal], whole: bool = False, everything: bool = False) -> Wanted:
    """What has to be asked to answer all of `goals`; besides, if told so, the `whole` images, or `everything`."""
    of_pairs = any(goal.needs_everything for goal in goals)
    return Wanted(
        recovery=any(goal.kind == RECOVER for goal in goals),
        pairs=any(goal.needs_pairs for goal in goals),
        whole=whole or any(goal.by_alarms for goal in goals),
        everything=everything or of_pairs,
        at_once=2 if of_pairs else 1,
    )


@dataclass(frozen=True)
class MaskedFound:
    """What one masking says of N images; `alarms` where they were asked for."""

    verdicts: MaskedVerdicts
    alarms: Alarms | None

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        verdicts = type(parts[0].verdicts).concatenate([part.verdicts for part in parts])
        alarms = [part.alarms for part in parts if part.alarms]
        return cls(verdicts, Alarms.concatenate(alarms) if alarms else None)

    def merged(self, count: int) -> Self:
        """That of all `count` images, of which this is of this process's share."""
        return type(self)(self.verdicts.merged(count), self.alarms and self.alarms.merged(count))

    def rows(self, goal: Goal, numerical_margin: float) -> dict[str, Tensor]:
        """(N,) by name: `predicted` (−1 is the alarm), `certified`, `lead`, and `passes` where they are counted.

        There also `dissenting`, (N, k²) bool.
        """
        rows = vars(self.verdicts)
        if goal.kind == RECOVER:
            return rows
        if not goal.by_alarms:
            return rows | {"predicted": self.verdicts.unanimous()}
        assert self.alarms is not None, "they were asked for"
        output, certified = goal.of_alarms(self.alarms, numerical_margin)
        shared = {name: rows[name] for name in ("passes", "dissenting") if name in rows}
        return {"predicted": output, "certified": certified, "lead": self.alarms.lead} | shared


class MaskedLook:
    """Asks a classifier about images, in order where it can be asked so.

    Args:
        classifier: whose copies' logits are the scores.
        maskings: what each patch leaves of them.
        batch_size: copies per call of the network; images, of a network that answers for all copies of an image.
        engine: its own, if it has been made already.

    Raises:
        UsageError: see `score_alarms.require_few_places`.
    """

    def __init__(
        self,
        classifier: SmoothedClassifier,
        maskings: Sequence[DoubleMasking],
        margin: Margin,
        wanted: Wanted,
        batch_size: int,
        engine: Engine | None = None,
    ):
        self.classifier, self.maskings, self.margin, self.wanted = classifier, maskings, margin, wanted
        self.batch_size, self.engine, self.in_order = batch_size, engine, in_order_of(classifier, batch_size)
        if wanted.at_once == 2:
            for masking in maskings:
                require_few_places(masking)

    @torch.no_grad()
    def __call__(self, images: Tensor, noted: list[Answers] | None = None) -> list[MaskedFound]:
        """What each of the maskings says of `images` (N, C, H, W).

        Args:
            noted: see `CopiesInOrder.look`.
        """
        parts = self._in_order(images, noted) if self.in_order else self._from_all_copies(images)
        return [MaskedFound.concatenate(of_one) for of_one in zip(*parts, strict=True)]

    def _in_order(self, images: Tensor, noted: list[Answers] | None) -> Iterator[list[MaskedFound]]:
        """The same of some images after the other."""
        assert self.in_order is not None, "the caller has looked"
        for part in images.split(IMAGES_AT_ONCE):
            found = self.in_order.look(part, self.maskings, self.margin, self.wanted, noted)
            yield [MaskedFound(*one) for one in found]

    def _from_all_copies(self, images: Tensor) -> Iterator[list[MaskedFound]]:
        """The same of some images after the other."""
        for scores, magnitudes in self.classifier.logits_and_magnitudes(images, self.batch_size, self.engine):
            yield self._from_scores(scores, magnitudes)

    def _from_scores(self, scores: Tensor, magnitudes: Tensor) -> list[MaskedFound]:
        """The same of images by the scores (N, A, K) of all copies, and their magnitudes (N, A)."""
        verdicts = [masking.verdicts(scores, self.margin, magnitudes) for masking in self.maskings]
        if not self.wanted.whole:
            return [MaskedFound(of_one, None) for of_one in verdicts]
        whole = scores.double().sum(dim=1).argmax(dim=1)
        return [
            MaskedFound(of_one, of_scores(masking, scores, self.margin, magnitudes, whole, self.wanted.at_once))
            for masking, of_one in zip(self.maskings, verdicts, strict=True)
        ]
