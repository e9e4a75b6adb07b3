"""What `certify` may ask each kind of classifier, and how it finds the answers about images."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from patchcert import distributed, networks, results
from patchcert.arithmetic import coarsest, processor
from patchcert.as_written import added_to, added_to_all, of_its_own
from patchcert.classifiers.masked import MaskedClassifier
from patchcert.classifiers.masked_goals import MaskedLook, wanted_for
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.probing import (
    Manner,
    class_count,
    manner_in_order,
    manner_of,
    manner_of_windows,
    note_numerical_margin,
    require_masks,
    require_parts,
    tried_hidden_pixels,
)
from patchcert.classifiers.window_goals import ALERT, RECOVER, Goal, look
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.data.given import require_classes
from patchcert.engines import asking
from patchcert.engines.plain import PlainNetwork
from patchcert.errors import UsageError, called, require_number, require_within
from patchcert.masking.double_masking import MaskedVerdicts
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.patch_sizes import Area, PatchSize, Share, in_pixels, shapes
from patchcert.votes.certificate import Certifier, Question

T = TypeVar("T")

SOON = 2.0
"""Seconds after which there is a progress bar."""

STRICT = "strict"

IMAGES_AT_ONCE = 16
"""Whose questions about hidden windows share batches."""


@dataclass(frozen=True)
class Asked:
    """What the arguments of `certify` ask for, each as it was given."""

    patches: PatchSize | Iterable[PatchSize] | None
    certificate: str | Iterable[str] | None
    goal: str | Iterable[str]
    confidence: str | float | Iterable[str | float]
    at_once: int | None
    numerical_margin: float | None
    batch_size: int

    def several_patches(self, height: int, width: int) -> list[Patch | Area]:
        """In images of height × width pixels."""
        kinds = (Patch, Share, Area)
        right = "expected a Patch(height, width), a Share(percent), an Area(pixels), or several"
        given: list[PatchSize] = several("patches", self.patches, kinds, right)
        return [in_pixels(size, height, width) for size in given]

    def several_certificates(self) -> list[str]:
        return several("certificate", self.certificate, str, "expected the name of one, or several")

    @property
    def given_margin(self) -> float:
        """ν, or 0 where it is not settled yet."""
        return float(self.numerical_margin or 0)


class OfVotes:
    """Asks a `SmoothedClassifier` for its votes.

    Attributes:
        size: (H, W) of the images.
        at_a_time: images to look at together.
        questions: one for each answer.

    Raises:
        ValueError: the classifier has no such certificate, or is not made for such patches.
    """

    def __init__(self, classifier: SmoothedClassifier, asked: Asked):
        if asked.numerical_margin is not None:
            require_number("numerical_margin", asked.numerical_margin, 0, math.inf)
        self.classifier, self.asked = classifier, asked
        self.goals = self._goals()
        self.size, self.at_a_time = (classifier.ablation.height, classifier.ablation.width), asked.batch_size
        self.questions = self._questions()
        self.device = device_of(classifier.network)

    def begin(self, images: Tensor, labels: Tensor) -> int:
        """Try the network on some of the images, and settle what depends on how it answers; returns K."""
        classes = class_count(self.classifier, images[:1])
        require_classes(labels, classes)
        with called(size_to_certify="patches"):
            patches = {patch for question in self.questions for patch in shapes(question.patch, *self.size)}
            require_masks(self.classifier.ablation, patches)
        self.engine = self.classifier.engine(images)
        self.manner = distributed.from_first(self._manner(images))
        of_scores = isinstance(self.classifier, MaskedClassifier) and self.classifier.scores
        margin = settled(self.asked, self.manner, of_scores, self.device)
        arithmetic = self.manner.arithmetic
        self.questions = [replace(asked, numerical_margin=margin, arithmetic=arithmetic) for asked in self.questions]
        self._prepare()
        return classes

    def look(self, images: Tensor) -> list[dict[str, Tensor]]:
        """For each question (N,) by name, of `images` (N, C, H, W), as many as go into a batch."""
        chunks = asking.softmax_chunks(self.engine, images, self.classifier.ablation, self.asked.batch_size)
        return [vars(verdicts) for verdicts in self.certifier(chunks)]

    def about(self) -> list[tuple[Patch | Area, dict[str, object]]]:
        """What each answer is about: the patch, and all that was asked, as `--output` has it."""
        return [(question.patch, question.as_json()) for question in self.questions]

    def config(self) -> dict[str, object]:
        """What answers, in JSON's types."""
        return {
            "network": networks.description(self.classifier.network),
            "ablation": self.classifier.ablation.description(),
            "engine": type(self.engine).__name__,
            "batch_size": self.asked.batch_size,
        }

    def arithmetic(self) -> dict[str, object]:
        """What was computed with."""
        engine = asking.name_of(self.engine)
        return results.computed_with(self.manner.arithmetic, engine, [processor(self.device)])

    def _goals(self) -> list[Goal]:
        """What can be promised: of votes the right class."""
        if self.asked.goal != RECOVER or self.asked.confidence != STRICT:
            recovers = self.asked.goal == RECOVER
            wrong = ("confidence", self.asked.confidence) if recovers else ("goal", self.asked.goal)
            raise UsageError(*wrong, "expected recover and strict; alarms are of hidden windows, or of scores")
        return [Goal()]

    def _questions(self) -> list[Question]:
        """Every combination of patch and certificate."""
        patches = self.asked.several_patches(*self.size) or [*self.classifier.usual_patches]
        kinds = self.asked.several_certificates()
        if not patches:
            raise UsageError("patches", self.asked.patches, "expected a Patch(height, width), or several")
        if self.asked.at_once is not None:
            require_within("at_once", self.asked.at_once, 1, 2, "patches at the same time")
        if not set(kinds) <= {"margin", "exact"}:
            right = "expected margin or exact; masking is a MaskedClassifier's"
            raise UsageError("certificate", ", ".join(kinds), right)
        rule, count, margin = self.classifier.rule, self.asked.at_once or 1, self.asked.given_margin
        return [Question(patch, rule, kind, count, margin) for patch in patches for kind in kinds or ["exact"]]

    def _manner(self, images: Tensor) -> Manner:
        """How the network answers about some of the images."""
        return manner_of(self.classifier, self.engine, images, self.asked.batch_size)

    def _prepare(self) -> None:
        with called(size_to_certify="patches", patches="at_once"):
            self.certifier = Certifier(self.classifier.ablation, self.questions)


class OfMasking(OfVotes):
    """Asks a `MaskedClassifier` for the scores of as few copies as it takes, or for the votes of all."""

    classifier: MaskedClassifier

    def begin(self, images: Tensor, labels: Tensor) -> int:
        """See `OfVotes`."""
        require_parts(self.classifier.ablation)
        return super().begin(images, labels)

    @torch.no_grad()
    def look(self, images: Tensor) -> list[dict[str, Tensor]]:
        if self.classifier.scores:
            (found,) = self.ask(images)
            return [found.rows(goal, self.margin) for goal in self.goals]
        batches = self.classifier.logits_and_magnitudes(images, self.asked.batch_size, self.engine)
        parts: list[list[MaskedVerdicts]] = [self.classifier.verdicts(*batch, self.questions) for batch in batches]
        return [vars(MaskedVerdicts.concatenate(answers)) for answers in zip(*parts, strict=True)]

    def about(self) -> list[tuple[Patch | Area, dict[str, object]]]:
        """See `OfVotes`; of goals nothing where nobody asks for alarms."""
        ((patch, question),) = super().about()
        alert = any(goal.kind == ALERT for goal in self.goals)
        return [(patch, question | (goal.as_json() if alert else {})) for goal in self.goals]

    def _goals(self) -> list[Goal]:
        """What its scores can promise; votes, and places of two patches, promise the right class alone."""
        if self.classifier.scores and self.classifier.at_once == 2 and self.asked.goal != RECOVER:
            right = "expected recover: alarms, against two patches too, are of a classifier made with at_once=1"
            raise UsageError("goal", self.asked.goal, right)
        of_two = 2 in (self.classifier.at_once, self.asked.at_once) and self.asked.goal == RECOVER
        if not self.classifier.scores or of_two:
            return super()._goals()
        return goals_of(self.asked)

    def _questions(self) -> list[Question]:
        """The one that can be asked of it."""
        patches, kinds = self.asked.several_patches(*self.size), self.asked.several_certificates()
        at_once = self.asked.at_once
        if not set(kinds) <= {"masking"}:
            raise UsageError("certificate", ", ".join(kinds), "a MaskedClassifier is certified by masking alone")
        patch, count = self.classifier.patch, self.classifier.at_once
        of_two_alarms = self.goals[0].kind == ALERT and at_once == 2
        if not set(patches) <= {patch} or not (at_once in (None, count) or of_two_alarms):
            asked = f"patches {', '.join(map(str, patches or [patch]))}, {at_once or count} at once"
            right = f"the answers of this classifier are about {count} of {patch}; make another one for others"
            raise ValueError(f"{asked}: {right}")
        rule = None if self.classifier.scores else self.classifier.rule
        return [Question(patch, rule, "masking", at_once or count, self.asked.given_margin)]

    def _manner(self, images: Tensor) -> Manner:
        """See `OfVotes`; tried is what will run."""
        if not self.classifier.in_order:
            return super()._manner(images)
        apart = tried_hidden_pixels(self.classifier, images).apart if self.classifier.limited_reach else 0.0
        manner = manner_in_order(self.classifier, images, self.asked.batch_size)
        return replace(manner, apart=max(manner.apart, apart))

    def _prepare(self) -> None:
        """Its masks are there already."""
        (question,) = self.questions
        self.margin, masking = question.numerical_margin, self.classifier.masking.to(self.device)
        margin, size = Margin.of_scores(self.margin, question.arithmetic), self.asked.batch_size
        with called(patches="at_once"):
            self.ask = MaskedLook(self.classifier, [masking], margin, wanted_for(self.goals), size, self.engine)


class OfWindows:
    """Asks a `WindowMaskedClassifier` for the two rounds, and for alarms; see `OfVotes`."""

    def __init__(self, classifier: WindowMaskedClassifier, asked: Asked):
        if asked.numerical_margin is not None:
            require_number("numerical_margin", asked.numerical_margin, 0, math.inf)
        kinds = asked.several_certificates()
        if not set(kinds) <= {"masking"}:
            raise UsageError("certificate", ", ".join(kinds), "a WindowMaskedClassifier is certified by masking alone")
        self.classifier, self.asked, windows = classifier, asked, classifier.windows
        self.size, self.at_a_time = (windows.height, windows.width), IMAGES_AT_ONCE
        self.patches = asked.several_patches(*self.size) or list(windows.shapes)
        if not self.patches:
            raise UsageError("patches", asked.patches, "expected a Patch(height, width): the windows name none")
        for patch in self.patches:
            if not all(map(windows.holds, shapes(patch, *self.size))):
                held = ", ".join(map(str, windows.shapes))
                raise UsageError("patches", patch, f"expected one that fits into {held}, which these windows hide")
        self.goals = goals_of(asked)
        self.device = device_of(classifier.network)

    def begin(self, images: Tensor, labels: Tensor) -> int:
        """See `OfVotes`."""
        classes, manner = manner_of_windows(self.classifier, images)
        require_classes(labels, classes)
        self.manner = distributed.from_first(manner)
        self.margin = settled(self.asked, self.manner, True, self.device)
        return classes

    def look(self, images: Tensor) -> list[dict[str, Tensor]]:
        """See `OfVotes`."""
        found = look(self.classifier, images, self.goals, self.margin)
        rows = [goal.rows(found, self.margin) for goal in self.goals]
        return [row for _ in self.patches for row in rows]

    def about(self) -> list[tuple[Patch | Area, dict[str, object]]]:
        """See `OfVotes`."""
        said = {"certificate": "masking", "windows": str(self.classifier.windows), "numerical_margin": self.margin}
        return [
            (patch, {"size_to_certify": patch.size} | said | goal.as_json())
            for patch in self.patches
            for goal in self.goals
        ]

    def config(self) -> dict[str, object]:
        """See `OfVotes`."""
        network = self.classifier.network
        if isinstance(network, PlainNetwork) and not hasattr(network, "description"):
            network = network.network
        windows, size = str(self.classifier.windows), self.classifier.batch_size
        return {"network": networks.description(network), "windows": windows, "batch_size": size}

    def arithmetic(self) -> dict[str, object]:
        """See `OfVotes`."""
        return results.computed_with(self.manner.arithmetic, self.classifier.engine_name, [processor(self.device)])


def examiner_of(classifier: nn.Module, asked: Asked) -> OfVotes | OfWindows:
    """Who asks it; ValueError if nobody can, or not that."""
    for kind, examiner in EXAMINERS.items():
        if isinstance(classifier, kind):
            _require_as_written(classifier, kind)
            return examiner(classifier, asked)
    right = "expected a SmoothedClassifier, MaskedClassifier or WindowMaskedClassifier"
    raise UsageError("classifier", type(classifier).__name__, right)


EXAMINERS = {WindowMaskedClassifier: OfWindows, MaskedClassifier: OfMasking, SmoothedClassifier: OfVotes}
"""Who asks a classifier; of two kinds the derived one comes first."""


def _require_as_written(classifier: nn.Module, kind: type[nn.Module]) -> None:
    """Raise UsageError if the classifier's own answers may be others than those of its `kind`, which are certified."""
    own = of_its_own(classifier, kind)
    added = [f"a `{own}` of its own"] if own else chain(added_to(classifier, "on it"), added_to_all())
    for what in added:
        right = f"has {what}; certificates are of the answers of a {kind.__name__} as it is"
        raise UsageError("classifier", type(classifier).__name__, right)


def several(name: str, given: T | Iterable[T] | None, kind: type[T] | tuple[type[T], ...], right: str) -> list[T]:
    """What was given for the argument `name`: one of its kind, several or none; UsageError if it is something else."""
    if given is None:
        return []
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, kind) else [given]
    if not all(isinstance(one, kind) for one in found):
        raise UsageError(name, given, right)
    return found


def goals_of(asked: Asked) -> list[Goal]:
    """Every promise that is asked for.

    Raises:
        UsageError: there is no such promise.
    """
    kinds = several("goal", asked.goal, str, "expected recover, alert or both")
    if not kinds or not set(kinds) <= {RECOVER, ALERT}:
        raise UsageError("goal", asked.goal, "expected recover, alert or both")
    count = 1 if asked.at_once is None else asked.at_once
    require_within("at_once", count, 1, 2, "patches at the same time")
    thresholds = _thresholds(asked.confidence)
    if count == 2:
        if RECOVER in kinds:
            raise UsageError("at_once", count, "expected goal='alert' for two: only an alarm is promised against them")
        return [Goal(ALERT, threshold, patches=2) for threshold in thresholds]
    return [goal for kind in kinds for goal in ([Goal()] if kind == RECOVER else [Goal(ALERT, t) for t in thresholds])]


def _thresholds(confidence: str | float | Iterable[str | float]) -> list[float | None]:
    """τ of each rule for alarms; None for the strict one."""
    given: Sequence[str | float] = (
        list(confidence) if isinstance(confidence, Iterable) and not isinstance(confidence, str) else [confidence]
    )
    found: list[float | None] = []
    for one in given:
        if one != STRICT:
            require_number("confidence", one, 0, 1)  # type: ignore[arg-type]  # which refuses texts
        found.append(None if isinstance(one, str) else float(one))
    if not found:
        raise UsageError("confidence", confidence, "expected strict, a number from 0 to 1, or several")
    return found


def settled(asked: Asked, manner: Manner, of_scores: bool, device: torch.device) -> float:
    """ν; with a note where the caller names none and it is more than PyTorch's settings let expect."""
    if asked.numerical_margin is not None:
        return asked.given_margin
    expected = replace(manner, arithmetic=coarsest(device), apart=0.0)
    margin = manner.margin(of_scores)
    if margin > expected.margin(of_scores):
        note_numerical_margin(margin, manner)
    return margin


def device_of(network: nn.Module) -> torch.device:
    """That of its weights."""
    return next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
