"""What a defence by hidden windows is asked for: the right class, or that or an alarm; and what images say to that."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.masking.alarms import ALARM, Alarms
from patchcert.masking.questions import WindowVerdict

RECOVER, ALERT = "recover", "alert"

OF_VERDICTS = ("predicted", "certified", "lead", "left_early", "within_margin", "passes")


@dataclass(frozen=True)
class Goal:
    """What the defence promises.

    Attributes:
        kind: the right class (`RECOVER`), or that class or an alarm (`ALERT`).
        confidence: τ of alarms by confidence; None for the strict rule.
        patches: against so many at once, 1 or 2; only an alarm is promised against two.
    """

    kind: str = RECOVER
    confidence: float | None = None
    patches: int = 1

    def as_json(self) -> dict[str, object]:
        return {"patches": self.patches, "goal": self.kind, "confidence": self.confidence}

    def rows(
        self, verdicts: Sequence[WindowVerdict], alarms: Alarms | None, numerical_margin: float
    ) -> dict[str, Tensor]:
        """(N,) by name: `predicted` (−1 is the alarm), `certified`, `passes` and more, from what `look` found."""
        rows = {name: torch.tensor([getattr(verdict, name) for verdict in verdicts]) for name in OF_VERDICTS}
        rows["dissenting"] = torch.tensor([len(verdict.dissenting) for verdict in verdicts])
        if self.kind == RECOVER:
            return rows
        if self.patches == 2:  # every pair of windows was asked for unless some answers differ
            return rows | {"predicted": rows["predicted"].where(~rows["left_early"], ALARM)}
        assert alarms is not None, "against one patch they are looked for"
        if self.confidence is None:
            output, certified = alarms.strict(numerical_margin)
        else:
            output, certified = alarms.by_confidence(self.confidence, numerical_margin)
        passes = rows["passes"] + 1  # of the whole image
        found = {"predicted": output.cpu(), "certified": certified.cpu()}
        return found | {"passes": passes, "dissenting": rows["dissenting"]}


def look(
    classifier: WindowMaskedClassifier, images: Tensor, goals: Sequence[Goal], numerical_margin: float
) -> tuple[list[WindowVerdict], Alarms | None]:
    """What the two rounds and, where a goal needs them, alarms against one patch say of `images` (N, C, H, W)."""
    pairs = any(goal.kind == RECOVER or goal.patches == 2 for goal in goals)
    verdicts = list(classifier.verdicts(images, numerical_margin, certify=pairs))
    if not any(goal.kind == ALERT and goal.patches == 1 for goal in goals):
        return verdicts, None
    return verdicts, classifier.alarms(images, [verdict.singles for verdict in verdicts])
