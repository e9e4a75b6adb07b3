"""Double masking as a classifier, in the form of a module."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, overload

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from patchcert.ablations.ablation import Ablation
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.arithmetic import Halves, coarser, coarsest
from patchcert.classifiers.masked_goals import MaskedFound, MaskedLook, asks_in_order
from patchcert.classifiers.modules import SmoothedClassifier, largest_for
from patchcert.classifiers.rounds import Wanted
from patchcert.data.given import pixels
from patchcert.engines import asking
from patchcert.errors import UsageError, called, require_count, require_within
from patchcert.masking.alarms import Alarms
from patchcert.masking.double_masking import MaskedVerdicts
from patchcert.masking.linked import WindowMasking, masking_of
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.patch_sizes import Area, PatchSize, in_pixels, require_patch_size
from patchcert.votes.certificate import Question

SETTLED = ("ablation", "patch", "at_once", "scores")
"""What masks follow from, and what is added up."""


class MaskedClassifier(SmoothedClassifier):
    """A classifier that predicts by double masking: it leaves out the copies that a patch could touch, place by place.

    It adds up scores over copies: logits, or votes if there is a θ. Copies with hidden windows are computed one by one,
    and only until the answer is known. `forward` returns sums (N, K) over all copies, of log-probabilities or of votes.
    If the predicted class does not have the largest sum, its sum is raised to one more than the largest. (If float32
    cannot show a difference of one, to the next larger number.)

    Args:
        network, ablation, threshold, engine, batch_size: as for `SmoothedClassifier`.
        patch: the patch, or the `Area`, that the answers are certified against. A `Share` becomes a `Patch`.
        at_once: how many such patches there may be, 1 or 2.

    Raises:
        ValueError: as for `SmoothedClassifier`; or `patch` is not a patch, the patch does not fit into the image, there
            are too many pairs of places, or `at_once` is neither 1 nor 2.
    """

    def __init__(
        self,
        network: nn.Module,
        ablation: Ablation,
        patch: PatchSize,
        threshold: float | None = None,
        *,
        at_once: int = 1,
        engine: str = "dense",
        batch_size: int = 512,
    ):
        super().__init__(network, ablation, threshold, engine=engine, batch_size=batch_size)
        require_patch_size(patch)
        require_within("at_once", at_once, 1, 2, "patches at the same time")
        self.patch: Patch | Area = in_pixels(patch, ablation.height, ablation.width)
        self.at_once, self.scores = at_once, threshold is None
        with called(size_to_certify="patch", patches="at_once"):
            self.masking = masking_of(ablation, self.patch, at_once)

    def __setattr__(self, name: str, value: object) -> None:
        if name in SETTLED and hasattr(self, "masking"):
            raise UsageError(name, value, "expected none: the masks are made already; make another classifier")
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        return f"{self.ablation}, double masking of {'scores' if self.scores else self.rule}, patch {self.patch}"

    @property
    def in_order(self) -> bool:
        """Whether the network runs on the copies one by one, and on no more of them than an answer needs."""
        return self.scores and asks_in_order(self)

    @property
    def windows(self) -> HiddenWindows | None:
        """The windows that its copies hide; None if they hide no windows."""
        return self.masking.windows.hidden() if isinstance(self.masking, WindowMasking) else None

    def forward(self, images: Tensor) -> Tensor:
        totals = super().forward(images)
        if not self.in_order:
            return totals
        return asking.with_gradient_of(totals, largest_for(self.predict(images), totals.detach()))

    @overload
    def predict(
        self, images: Tensor | ArrayLike, batch_size: int | None = None, *, where: Literal[False] = False
    ) -> Tensor: ...
    @overload
    def predict(
        self, images: Tensor | ArrayLike, batch_size: int | None = None, *, where: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...
    @torch.no_grad()
    def predict(
        self, images: Tensor | ArrayLike, batch_size: int | None = None, *, where: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The predicted classes, (N,) int64.

        If all copies with one hidden window agree, no other copy is computed.

        Args:
            where: whether to return the hidden windows that dissent as well, (N, M) bool: leaving out what a patch in
                one of them touches gives another class than at most places. They hint at where an image was tampered
                with. They are no certificate.

        Raises:
            ValueError: see `every_copy`; or the copies hide no windows.
        """
        masking = self.masking
        if where and not isinstance(masking, WindowMasking):
            raise UsageError("where", where, "expected False: the copies of this classifier hide no windows")
        if self.in_order:
            verdicts = self._look(images, Wanted(pairs=False), batch_size).verdicts
            return (verdicts.predicted, verdicts.dissenting) if where else verdicts.predicted
        if not where:
            return super().predict(images, batch_size)
        size = self.batch_size if batch_size is None else batch_size
        require_count("batch_size", size, "copies or images")
        ballots = map(self.ballots, self.every_copy(images, size))
        found = [(self.decide(some), masking.dissenting(masking.left_by_one(some.double()))) for some in ballots]
        predicted, dissenting = map(torch.cat, zip(*found, strict=True))
        return predicted, dissenting

    @torch.no_grad()
    def alarms(
        self, images: Tensor | ArrayLike, *, batch_size: int | None = None, at_once: int | None = None
    ) -> Alarms:
        """What a defence with alarms answers to these images; see `Alarms`.

        The share of the magnitudes that rounding may change is already subtracted from the leads. ν is not, because it
        depends on the arithmetic, too. Only `certify` tests the network first, and chooses ν.

        Args:
            at_once: how many patches there may be. A classifier made for one raises alarms against 2 as well.

        Raises:
            ValueError: see `every_copy`; or the copies vote, the classifier is not made for so many patches, or there
                are too many pairs of places.
        """
        if not self.scores:
            raise UsageError("threshold", self.rule.threshold, "expected none: alarms need scores, not votes")
        if at_once not in (None, self.at_once, 2):
            raise UsageError("at_once", at_once, f"expected {self.at_once}, for which this classifier is made, or 2")
        of_pairs = at_once == 2 > self.at_once  # of places of one patch
        wanted = Wanted(False, False, whole=True, everything=of_pairs, at_once=2 if of_pairs else 1)
        watch = Halves()
        with watch:
            alarms = self._look(images, wanted, batch_size).alarms
        if watch.seen:  # in the network, whatever PyTorch is set to
            alarms = self._look(images, wanted, batch_size, "bfloat16").alarms
        assert alarms is not None, "the whole images were asked about"
        return alarms

    def ballots(self, logits: Tensor) -> Tensor:
        """(…, K): scores, or bool, votes."""
        return logits if self.scores else super().ballots(logits)

    def decide(self, ballots: Tensor) -> Tensor:
        return self.masking.to(ballots.device).predict(ballots.float())

    def verdicts(self, logits: Tensor, magnitudes: Tensor, questions: Sequence[Question]) -> list[MaskedVerdicts]:
        """The verdicts on copies (N, A, K) for each of `questions`, which differ only in their numerical margin."""
        ballots, masking = self.ballots(logits).float(), self.masking.to(logits.device)
        if self.scores:
            margins = (Margin.of_scores(question.numerical_margin, question.arithmetic) for question in questions)
            return [masking.verdicts(ballots, margin, magnitudes) for margin in margins]
        plain = masking.verdicts(ballots, Margin(0.0))
        return [_without(_close(question, logits), plain) for question in questions]

    def _look(
        self, images: Tensor | ArrayLike, wanted: Wanted, batch_size: int | None, arithmetic: str = "float32"
    ) -> MaskedFound:
        """What is `wanted` of the images, by a network that computes in this `arithmetic`, or a coarser one."""
        size = self.batch_size if batch_size is None else batch_size
        require_count("batch_size", size, "copies or images")
        images = pixels(images, (self.ablation.height, self.ablation.width))
        self.ablation.to(images.device)
        margin = Margin.of_scores(0.0, coarser(arithmetic, coarsest(images.device)))
        with called(patches="at_once"):
            look = MaskedLook(self, [self.masking.to(images.device)], margin, wanted, size)
        (found,) = look(images)
        return found

    def _sums(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=-1).sum(dim=1) if self.scores else super()._sums(logits)

    def _soft(self, logits: Tensor) -> Tensor:
        if not self.scores:
            return super()._soft(logits)
        return logits.log_softmax(dim=-1).sum(dim=1, dtype=torch.float64)  # in which the largest float32 have a sum


def _close(question: Question, logits: Tensor) -> Tensor:
    """(N,) int64: of how many copies, from their logits (N, A, K), a vote may be another than it seems."""
    votes = question.ballot.bounds(logits.softmax(dim=-1))
    return (votes[0] != votes[-1]).any(dim=2).sum(dim=1)


def _without(close: Tensor, verdicts: MaskedVerdicts) -> MaskedVerdicts:
    """The verdicts by votes, if `close` (N,) copies of each image may vote otherwise: each moves a lead by up to 2."""
    safe = (close == 0) | (verdicts.lead > 2 * close)
    within_margin = verdicts.within_margin | verdicts.certified & ~safe
    return replace(verdicts, certified=verdicts.certified & safe, within_margin=within_margin)
