"""Double masking of windows, and of bands and windows, that asks about copies one by one and stops early.

1. The bands of an image take one pass, and are asked first.
2. The copies without one window answer the first round. If they differ, the image has no certificate: some pair of
   places cannot give both classes. The second round then asks about pairs of the dissenting places, until each of these
   is refuted.
3. If they agree, that is the prediction. Certifying asks about every pair of windows, beginning with the pairs that are
   likely to have the smallest lead, and stops at the first pair that gives another class.

Networks are asked in batches of one size, see `engines.equal_batches`.

The order changes no verdict. One pair that fails is enough to refuse a certificate, and the bands are known before, so
each pair is judged by its exact lead. An image that no pair refutes has been asked about all of them, and
`WindowMasking.verdicts` judges it, as it does where everything is asked.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from patchcert import networks
from patchcert.ablations.ablation import encode
from patchcert.ablations.hidden_windows import NOTHING, HiddenWindows
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.rounds import RECOVERY, Asking, Decision, Rounds, Wanted
from patchcert.engines import asking
from patchcert.engines.added_up import BesideMagnitudes, parted
from patchcert.engines.equal_batches import copies_at_once, images_at_once, in_equal_batches
from patchcert.engines.joint import JointNetwork
from patchcert.masking.alarms import Alarms
from patchcert.masking.answers import Answers
from patchcert.masking.double_masking import MaskedVerdicts
from patchcert.masking.linked import WindowMasking
from patchcert.masking.margins import Margin
from patchcert.masking.noted import pairs_of
from patchcert.masking.questions import ask_all
from patchcert.masking.score_alarms import of_scores


@dataclass(frozen=True)
class OrderedVerdicts(MaskedVerdicts):
    """The same, with what it took and what else was seen.

    Attributes:
        left_early: (N,) bool, whether something was not asked for; the worst lead is then at most `lead`.
        passes: (N,) int64, of the network for windows, whatever was asked; mirror images count, too.
        dissenting: (N, k²) bool, the windows that dissent, see `WindowMasking.dissenting`.
    """

    left_early: Tensor
    passes: Tensor
    dissenting: Tensor


@dataclass(frozen=True)
class _Heard:
    """What was found out about one image: a decision for each patch, and what each copy says, (A, K + 1).

    Attributes:
        answers, asked: (Q, K + 1), those to all questions that were asked, (Q,) bool; the last one is about the whole.
    """

    decisions: list[Decision]
    copies: Tensor
    answers: Tensor
    asked: Tensor
    passes: int


_Questions = Generator[Tensor, Tensor, _Heard]
"""Yields numbers of questions (B,), is sent the answers (B, K + 1), returns what was found out."""


class CopiesInOrder:
    """Asks the network of a classifier about copies with hidden windows, one by one.

    All answers are logits, and behind them what was added up for these, see `engines.added_up`.

    Args:
        classifier: its copies are `WindowPairs`, or `BandsAndWindows` of a `JointNetwork`.
        batch_size: copies that are asked about together, at most.

    Attributes:
        at_once: copies in each call of the network, neither more nor less.
    """

    def __init__(self, classifier: SmoothedClassifier, batch_size: int):
        self.classifier, self.batch_size = classifier, batch_size
        network, ablation = networks.put_into_eval(classifier.network), classifier.ablation
        self.joint = network if isinstance(network, JointNetwork) else None
        self.weight = float(network.weight) if self.joint else 1.0
        self.windows: WindowPairs = ablation.windows if isinstance(ablation, BandsAndWindows) else ablation
        self.network: nn.Module = network.of_copy if self.joint else BesideMagnitudes(network).eval()
        self.refined = network.of_windows if self.joint and network.refined else None
        kinds = [self.windows.coarse, self.windows.fine] if self.refined else [self.windows]
        device = self.windows.cells.device
        self.at_once = min(batch_size, copies_at_once(device))
        self.hiding, pairs = _hidden_by_questions(kinds)
        self.pairs = pairs.to(device)  # (Q, 2): which two windows of `hiding` a question hides; the last one, nothing
        every = torch.arange(self.windows.count, device=device)
        self.coarse = self.refined.coarse_copies if self.refined else every
        self.fine = self.refined.fine_copies + self.windows.coarse.count if self.refined else every

    @torch.no_grad()
    def look(
        self,
        images: Tensor,
        maskings: Sequence[WindowMasking],
        margin: Margin,
        wanted: Wanted = RECOVERY,
        noted: list[Answers] | None = None,
    ) -> list[tuple[OrderedVerdicts, Alarms | None]]:
        """The `WindowMasking.verdicts` and `score_alarms` of each of `maskings`, with no more questions than they take.

        Args:
            images: (N, C, H, W) in [0, 1].
            noted: gets for each image what the network said of the whole, and then of windows, by `noted.numbers_of`.
        """
        bands = self.of_bands(images)
        sums = [masking.of_bands(parted(bands)[0]) for masking in maskings]
        others = self.joint.outside_windows(bands) if self.refined else [0.0] * len(images)
        opened = (
            (image, self._questions(others[n], maskings, [[s[n : n + 1] for s in of_one] for of_one in sums], wanted))
            for n, image in enumerate(images)
        )
        heard = list(ask_all(opened, self.answers, self.batch_size))
        copies = self.weight * torch.stack([one.copies for one in heard])
        whole = self.weight * torch.stack([one.answers[-1] for one in heard])
        if noted is not None:
            noted += map(self._noted, heard)
        if self.joint:
            copies, whole = torch.cat([bands, copies], dim=1), bands.sum(dim=1) + whole
        (scores, magnitudes), (of_whole, _) = parted(copies), parted(whole)
        passes = torch.tensor([one.passes for one in heard]) * (2 if self.joint and self.joint.mirrored else 1)
        found = []
        for n, masking in enumerate(maskings):
            decisions = [one.decisions[n] for one in heard]
            verdicts = self._settled(masking, margin, decisions, copies, passes)
            said = masking, scores, margin, magnitudes, of_whole.argmax(dim=1), wanted.at_once
            found.append((verdicts, of_scores(*said) if wanted.whole else None))
        return found

    def _noted(self, heard: _Heard) -> Answers:
        """All answers about one image by themselves; bands are no part of them."""
        order = self.windows.copy_numbers()[*pairs_of(self.windows.side**2).T.to(self.pairs.device)]
        order = torch.cat([order.new_tensor([len(self.pairs) - 1]), order])
        answers, given = Answers.none(len(order)), heard.asked[order]
        answers.put(given.nonzero().flatten().cpu(), Answers.of(parted(heard.answers[order[given]])[0]).cpu())
        return answers

    def _settled(
        self, masking: WindowMasking, margin: Margin, decisions: list[Decision], copies: Tensor, passes: Tensor
    ) -> OrderedVerdicts:
        """The verdicts that follow: as ever where nothing was refuted, and so all `copies` (N, A, K + 1) are known."""
        refuted = torch.tensor([decision.refuted for decision in decisions], device=copies.device)
        predicted = torch.tensor([decision.predicted for decision in decisions], device=copies.device)
        lead = torch.tensor([decision.lead for decision in decisions], dtype=torch.float64, device=copies.device)
        certified, within_margin = torch.zeros_like(refuted), torch.zeros_like(refuted)
        known = (~refuted).nonzero().squeeze(1)
        if len(known):
            scores, magnitudes = parted(copies[known])
            found = masking.verdicts(scores, margin, magnitudes)
            predicted[known], lead[known] = found.predicted, found.lead
            certified[known], within_margin[known] = found.certified, found.within_margin
        dissenting = torch.stack([decision.dissenting for decision in decisions])
        return OrderedVerdicts(predicted, certified, lead, within_margin, refuted, passes.to(copies.device), dissenting)

    def of_bands(self, images: Tensor) -> Tensor:
        """(N, bands, K + 1) float32, no bands where there is no network for them."""
        if self.joint is None:
            return images.new_zeros(len(images), 0, 1)
        found = in_equal_batches(self.joint.of_bands, images, images_at_once(images.device))
        return networks.finite(found.float())

    def answers(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(B, K + 1) float32: what the network says of images (B, C, H, W) where a question (B,) is asked of each."""
        networks.require_eval(self.network)
        shown = encode(images) * ~self.hiding.hidden(self.pairs[numbers].to(images.device))[:, None]
        ask = partial(networks.answer, self.network)
        found = in_equal_batches(lambda part: ask(part, asking.OF_COPIES, self.at_once), shown, self.at_once)
        return networks.finite(found.float())

    def _questions(
        self, others: Tensor | float, maskings: Sequence[WindowMasking], bands: list[list[Tensor]], wanted: Wanted
    ) -> _Questions:
        """About one image, of which `others` (A, K + 1) is known of each copy, and of which the sums of `bands` are."""
        copies = _Copies(self, others)
        numbers = self.windows.copy_numbers()
        singles = numbers.diagonal()
        yield from copies.ask(singles[torch.cat([masking.window_at for masking in maskings]).unique()])
        if wanted.whole:
            yield from copies.hear(torch.tensor([len(self.pairs) - 1], device=self.pairs.device))
        decisions = []
        for masking, sums in zip(maskings, bands, strict=True):
            rounds = Rounds(copies, masking, sums, numbers, self.weight)
            decisions.append((yield from rounds.decide(wanted)))
        if wanted.everything:
            yield from copies.hear(torch.arange(len(self.pairs), device=self.pairs.device))
        return _Heard(decisions, copies.mixed, copies.answers, copies.heard, copies.passes)


def _hidden_by_questions(kinds: Sequence[WindowPairs]) -> tuple[HiddenWindows, Tensor]:
    """The windows of all `kinds`, and (Q, 2) int64, which two of them each question hides, on the CPU.

    There is a question for each copy of each kind, and one about the whole image.
    """
    windows = [kind.hidden().rectangles for kind in kinds]
    before, pairs = 0, []
    for kind in kinds:
        pairs.append(before + kind.windows_hidden().T.cpu())
        before += kind.side**2
    every = HiddenWindows(kinds[0].height, kinds[0].width, torch.cat(windows), shapes=[])
    return every, torch.cat([*pairs, torch.full((1, 2), NOTHING)])


class _Copies:
    """What is known of the copies of one image: what some of them say."""

    def __init__(self, source: CopiesInOrder, others: Tensor | float):
        self.source, self.others, self.passes = source, others, 0
        device = source.pairs.device
        self.heard = torch.zeros(len(source.pairs), dtype=torch.bool, device=device)  # questions
        self.known = torch.zeros(source.windows.count, dtype=torch.bool, device=device)  # copies
        self.answers: Tensor | None = None  # (Q, K + 1)
        self.mixed: Tensor | None = None  # (A, K + 1), of the answers

    def ask(self, copies: Tensor) -> Asking:
        """Get to know the `copies` (n,), and whatever others follow from what that takes."""
        source = self.source
        yield from self.hear(source.coarse[copies])
        left = copies[~self.known[copies]]
        if len(left):
            yield from self.hear(source.fine[left])

    def hear(self, questions: Tensor) -> Asking:
        """Ask those of the `questions` (n,) that were not asked yet."""
        new = questions[~self.heard[questions]].unique()
        if not len(new):
            return
        found = yield new
        self.passes += len(new)
        if self.answers is None:
            self.answers = found.new_zeros(len(self.heard), found.shape[1])
            self.mixed = found.new_zeros(len(self.known), found.shape[1])
        self.answers[new], self.heard[new] = found, True
        self._follow()

    def _follow(self) -> None:
        """Fill in what all copies say of which enough was heard."""
        source = self.source
        new = (self.heard[source.coarse] & ~self.known).nonzero().squeeze(1)
        coarse = self.answers[source.coarse[new]]
        if source.refined:
            others = self.others[new]
            enough = source.refined.settled(coarse, others) | self.heard[source.fine[new]]
            new, coarse, others = new[enough], coarse[enough], others[enough]
            coarse = source.refined.mixed(coarse, others, self.answers[source.fine[new]])
        self.mixed[new], self.known[new] = coarse, True
