"""What a defence by hidden windows is asked for: the right class, or that or an alarm; and what images say to that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from patchcert.classifiers.window_masked import WindowMaskedClassifier, alarms_of
from patchcert.masking.alarms import ALARM, Alarms
from patchcert.masking.answers import Answers
from patchcert.masking.questions import WindowVerdict

RECOVER, ALERT = "recover", "alert"

OF_VERDICTS = ("predicted", "certified", "lead", "left_early", "within_margin", "passes")


@dataclass(frozen=True)
class Goal:
    """What the defence promises.

    Attributes:
        kind: the right class (`RECOVER`), or that class or an alarm (`ALERT`).
        confidence: τ of alarms by confidence; None for the strict rule.
        patches: against so many at once, 1 or 2.
    """

    kind: str = RECOVER
    confidence: float | None = None
    patches: int = 1

    @property
    def needs_pairs(self) -> bool:
        """Whether pairs of masks are asked for, until one of them decides."""
        return self.kind == RECOVER or self.patches == 2

    @property
    def needs_everything(self) -> bool:
        """Whether every pair of masks is asked for: any of them may contradict by its confidence."""
        return self.patches == 2 and self.confidence is not None

    @property
    def by_alarms(self) -> bool:
        """Whether it follows from `Alarms`. The strict rule for two patches follows from whether all pairs agree."""
        return self.kind == ALERT and (self.patches == 1 or self.needs_everything)

    def of_alarms(self, alarms: Alarms, numerical_margin: float) -> tuple[Tensor, Tensor]:
        """The outputs (N,) int64, and which of them are certified, (N,) bool."""
        if self.confidence is None:
            return alarms.strict(numerical_margin)
        return alarms.by_confidence(self.confidence, numerical_margin)

    def as_json(self) -> dict[str, object]:
        return {"patches": self.patches, "goal": self.kind, "confidence": self.confidence}

    def rows(self, seen: "Seen", numerical_margin: float) -> dict[str, Tensor]:
        """(N,) by name: `predicted` (−1 is the alarm), `certified`, `passes` and more, from what was seen.

        And `dissenting`, (N, M) bool, the windows that dissent.
        """
        rows = {name: torch.tensor([getattr(verdict, name) for verdict in seen.verdicts]) for name in OF_VERDICTS}
        rows["passes"] += seen.whole is not None
        rows["dissenting"] = torch.stack([verdict.dissenting for verdict in seen.verdicts])
        if self.kind == RECOVER:
            return rows
        if not self.by_alarms:  # every pair of windows was asked for unless some answers differ
            return rows | {"predicted": rows["predicted"].where(~rows["left_early"], ALARM)}
        output, certified = self.of_alarms(seen.alarms[self.patches], numerical_margin)
        found = {"predicted": output.cpu(), "certified": certified.cpu()}
        return found | {name: rows[name] for name in ("passes", "dissenting")}


@dataclass(frozen=True)
class Seen:
    """What the network said of N images.

    Attributes:
        verdicts: of the two rounds.
        alarms: by the number of patches at once, those that goals need.
        whole: the answers about the whole images, (N,), where they were asked for.
    """

    verdicts: Sequence[WindowVerdict]
    alarms: Mapping[int, Alarms] = field(default_factory=dict)
    whole: Answers | None = None


def look(
    classifier: WindowMaskedClassifier,
    images: Tensor,
    goals: Sequence[Goal],
    numerical_margin: float,
    note: bool = False,
    everything: bool = False,
) -> Seen:
    """What is to be seen of `images` (N, C, H, W), as far as goals need it.

    Args:
        note, everything: see `WindowMaskedClassifier.verdicts`; the whole images are then asked about, too.
    """
    pairs = any(goal.needs_pairs for goal in goals)
    everything = everything or any(goal.needs_everything for goal in goals)
    verdicts = list(classifier.verdicts(images, numerical_margin, pairs, note, everything))
    by_alarms = {goal.patches for goal in goals if goal.by_alarms}
    if not (by_alarms or note or everything):
        return Seen(verdicts)
    whole = classifier.of_whole(images)
    masked = {patches: [_masked(verdict, patches) for verdict in verdicts] for patches in by_alarms}
    alarms = {patches: alarms_of(answers, whole.classes) for patches, answers in masked.items()}
    return Seen(verdicts, alarms, whole)


def _masked(verdict: WindowVerdict, patches: int) -> Answers:
    """The answers without one window; against two patches also those without two."""
    if patches == 1:
        return verdict.singles
    assert verdict.answers is not None, "everything was asked for"
    return verdict.answers
