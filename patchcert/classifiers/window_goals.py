"""What a defence by hidden windows is asked for: the right class, or that or an alarm; and what images say to that."""

from collections.abc import Sequence
from dataclasses import dataclass

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
        patches: against so many at once, 1 or 2; only an alarm is promised against two.
    """

    kind: str = RECOVER
    confidence: float | None = None
    patches: int = 1

    def as_json(self) -> dict[str, object]:
        return {"patches": self.patches, "goal": self.kind, "confidence": self.confidence}

    def rows(self, seen: "Seen", numerical_margin: float) -> dict[str, Tensor]:
        """(N,) by name: `predicted` (−1 is the alarm), `certified`, `passes` and more, from what was seen."""
        rows = {name: torch.tensor([getattr(verdict, name) for verdict in seen.verdicts]) for name in OF_VERDICTS}
        rows["passes"] += seen.whole is not None
        rows["dissenting"] = torch.tensor([len(verdict.dissenting) for verdict in seen.verdicts])
        if self.kind == RECOVER:
            return rows
        if self.patches == 2:  # every pair of windows was asked for unless some answers differ
            return rows | {"predicted": rows["predicted"].where(~rows["left_early"], ALARM)}
        assert seen.alarms is not None, "against one patch they are looked for"
        if self.confidence is None:
            output, certified = seen.alarms.strict(numerical_margin)
        else:
            output, certified = seen.alarms.by_confidence(self.confidence, numerical_margin)
        found = {"predicted": output.cpu(), "certified": certified.cpu()}
        return found | {name: rows[name] for name in ("passes", "dissenting")}


@dataclass(frozen=True)
class Seen:
    """What the network said of N images.

    Attributes:
        verdicts: of the two rounds.
        alarms: against one patch, where a goal needs them.
        whole: the answers about the whole images, (N,), where they were asked for.
    """

    verdicts: Sequence[WindowVerdict]
    alarms: Alarms | None = None
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
    pairs = any(goal.kind == RECOVER or goal.patches == 2 for goal in goals)
    verdicts = list(classifier.verdicts(images, numerical_margin, pairs, note, everything))
    alert = any(goal.kind == ALERT and goal.patches == 1 for goal in goals)
    if not (alert or note or everything):
        return Seen(verdicts)
    whole = classifier.of_whole(images)
    singles = [verdict.singles for verdict in verdicts]
    return Seen(verdicts, alarms_of(singles, whole.classes) if alert else None, whole)
