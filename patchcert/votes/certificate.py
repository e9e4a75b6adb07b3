"""Votes to prediction and certificate.

Levine and Feizi, NeurIPS 2020, section 3. A patch decides the votes of the ablated copies that it touches
and no others; a prediction is certified if it stands whatever those copies vote.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from patchcert import distributed
from patchcert.ablations.ablation import Ablation, encode
from patchcert.data.folders import Images
from patchcert.engines.asking import Engine, require_classes, softmax, softmax_chunks
from patchcert.journal import Journal
from patchcert.masking.double_masking import paired, two_rounds
from patchcert.patch import Patch
from patchcert.patch_sizes import Area
from patchcert.progress import progress_bar
from patchcert.votes.rules import Ballot, VoteRule

NO_RIVAL = 2**62
"""A lead beyond all counts, where there is nobody to lead."""

CHECKS = 16
"""Into so many parts the ablations are divided, with a look after each at which images are decided."""


def predict(counts: Tensor) -> Tensor:
    """(N,) int64: the class with the most votes `counts` (N, K); a tie goes to the lower index."""
    return counts.argmax(dim=1)


def runner_up(counts: Tensor, winner: Tensor) -> Tensor:
    """(N,) int64: the class with the most votes among all but the `winner` (N,); a tie goes to the lower index."""
    return predict(counts.scatter(1, winner[:, None], -1))


def safe_lead(certain: Tensor, possible: Tensor, winner: Tensor) -> Tensor:
    """(N, L) int64: how far the winner's votes exceed what it needs against the strongest rival, at each place.

    The winner needs as many votes as a rival, and one more against a lower class, which wins ties. From 0 on it
    stays the winner. What a patch does is a number to compare with: ablations that vote for the rival instead of
    nobody move this lead by 1 each, and by 2 if they would have voted for the winner.

    Args:
        certain: (N, L, K) int64, votes that the winner is sure of.
        possible: (N, L, K) int64, votes that rivals may have.
        winner: (N,) int64.
    """
    own = winner[:, None, None].expand(-1, certain.shape[1], 1)
    wins_ties = torch.arange(certain.shape[2], device=winner.device) < winner[:, None]  # (N, K)
    lead = certain.gather(2, own) - possible - wins_ties[:, None].to(torch.int64)
    return lead.scatter(2, own, NO_RIVAL).amin(dim=2)


@dataclass(frozen=True)
class Question:
    """What is asked of the votes: is the answer under `rule` safe?

    Attributes:
        patch: from this one, or any rectangle of this area,
        rule: how the copies vote; None where scores take the place of votes,
        certificate: "margin", "exact" or "masking"; the last is about the prediction by double masking of the votes,
        patches: from so many of them at once, 1 or 2,
        numerical_margin: ν, where votes this close to being decided otherwise are the adversary's.
        arithmetic: in which scores were computed, one of `RELATIVE_MARGINS`; of votes it says nothing.
    """

    patch: Patch | Area
    rule: VoteRule | None
    certificate: str
    patches: int = 1
    numerical_margin: float = 0.0
    arithmetic: str = "float32"

    @property
    def ballot(self) -> Ballot:
        return Ballot(self.rule, self.numerical_margin)

    @property
    def threat(self) -> tuple[Patch | Area, int, str]:
        return self.patch, self.patches, self.certificate

    def as_json(self) -> dict:
        asked_of = {"certificate": self.certificate, "patches": self.patches}
        return {"size_to_certify": self.patch.size} | self.ballot.as_json() | asked_of


@dataclass(frozen=True)
class Verdicts:
    """The answers to one question for N images; all tensors are (N,).

    `close_votes` counts the ablated copies of which a vote lies within the question's numerical margin. Where
    images left early, the three counts of votes are those until then, and so is `runner_up`.
    """

    predicted: Tensor
    certified: Tensor
    votes: Tensor
    runner_up: Tensor
    runner_up_votes: Tensor
    close_votes: Tensor

    @classmethod
    def from_counts(cls, counts: Tensor, predicted: Tensor, certified: Tensor, close_votes: Tensor) -> "Verdicts":
        second = runner_up(counts, predicted)
        votes = counts.gather(1, torch.stack([predicted, second], dim=1))
        return cls(predicted, certified, votes[:, 0], second, votes[:, 1], close_votes)

    def take(self, chosen: Tensor) -> "Verdicts":
        """The verdicts on the images `chosen`, (N,) bool or (N',) int64."""
        return Verdicts(*(tensor[chosen] for tensor in vars(self).values()))

    @classmethod
    def concatenate(cls, parts: Sequence["Verdicts"]) -> "Verdicts":
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def merged(self, count: int) -> "Verdicts":
        """The verdicts on all `count` images, of which these are on this process's share."""
        return Verdicts(*(distributed.merge(tensor, count) for tensor in vars(self).values()))


class Certifier:
    """Answers several questions from one pass over the ablations, in memory that does not grow with their number.

    All certificates are one computation. At a place, the patch is given a number of votes (its handicap), and the
    votes of copies that it touches there are not counted; the winner's lead must make up for the handicap. `exact`
    asks at every place, with the copies touched there as handicap; `margin` asks once, counts all votes, and
    gives 2Δ: one for each vote lost, one for each won. `masking` asks at every pair of places, without handicap: the
    votes of touched copies are nobody's, and the winner is that of double masking.

    Attributes:
        places: (P, cells) bool, what patches cover: nothing in row 0, then the places, or pairs of them, of all
            exact and masking questions.
        untouched: (P,) int64, how many ablations show none of it.
        asked: for each question's threat its rows of `places` and the handicap (rows,) int64 there.
        ballots: the ways in which votes are counted for them.
    """

    def __init__(self, ablation: Ablation, questions: Iterable[Question]):
        self.ablation, self.questions = ablation, list(questions)
        self.ballots = list(dict.fromkeys(b for q in self.questions for b in (Ballot(q.rule), q.ballot)))
        threats = dict.fromkeys(q.threat for q in self.questions)
        covered = {
            (patch, patches, kind): (ablation.places if kind == "exact" else ablation.pairs_of_places)(patch, patches)
            for patch, patches, kind in threats
            if kind != "margin"
        }
        nothing = torch.zeros(1, ablation.cell_count, dtype=torch.bool, device=ablation.cells.device)
        self.places = torch.cat([nothing, *covered.values()])
        self.untouched = sum((~ablation.touching(self.places, i)).sum(dim=1) for i in ablation.chunks())
        self.asked, start = {}, 1
        for threat in threats:
            if threat in covered:
                rows = slice(start, start + len(covered[threat]))
                touched = ablation.count - self.untouched[rows]
                self.asked[threat] = rows, touched if threat[2] == "exact" else torch.zeros_like(touched)
                start = rows.stop
            else:
                patch, patches, _ = threat
                self.asked[threat] = slice(1), self.untouched.new_tensor([2 * ablation.most_touched(patch, patches)])

    def __call__(self, probability_chunks: Iterable[tuple[Tensor, Tensor]]) -> list[Verdicts]:
        """One `Verdicts` per question for the images whose (indices (A',), probabilities (N, A', K)) are given."""
        tally = Tally(self)
        for indices, probabilities in probability_chunks:
            tally.add(indices, probabilities)
        return tally.verdicts()


class Tally:
    """The votes of N images so far, and what they decide whatever the remaining ablations vote.

    Attributes:
        votes: for each ballot (B, N, P, K) int64, votes of the copies that the patch at place p does not touch.
        close: for each ballot (N,) int64, the copies of which a vote is certain in one of its bounds only.
        open: (P,) int64, how many copies untouched at place p have still to vote.
    """

    def __init__(self, certifier: Certifier):
        self.certifier = certifier
        self.votes = dict.fromkeys(certifier.ballots, 0)
        self.close = dict.fromkeys(certifier.ballots, 0)
        self.open = certifier.untouched

    def add(self, indices: Tensor, probabilities: Tensor) -> None:
        """Count the votes of the ablations `indices` (A',), from probabilities (N, A', K)."""
        untouched = ~self.certifier.ablation.touching(self.certifier.places, indices)  # (P, A')
        self.open = self.open - untouched.sum(dim=1)
        for ballot in self.votes:
            votes = ballot.bounds(probabilities)  # (B, N, A', K)
            with torch.autocast(votes.device.type, enabled=False):  # bfloat16 does not count beyond 256
                counted = torch.einsum("bnak,pa->bnpk", votes.float(), untouched.float())
            self.votes[ballot] = self.votes[ballot] + counted.to(torch.int64)
            self.close[ballot] = self.close[ballot] + (votes[0] != votes[-1]).any(dim=2).sum(dim=1)

    def take(self, chosen: Tensor) -> Self:
        """The same of the images `chosen`, (N,) bool, alone."""
        taken = copy.copy(self)
        taken.votes = {ballot: votes[:, chosen] for ballot, votes in self.votes.items()}
        taken.close = {ballot: close[chosen] for ballot, close in self.close.items()}
        return taken

    def verdicts(self) -> list[Verdicts]:
        """One for each question; certified is what no remaining vote can refute."""
        answers = []
        for question in self.certifier.questions:
            counts, winner = self._counts(question.rule), self._winner(question)
            certified, _ = self._certified(question)
            answers.append(Verdicts.from_counts(counts, winner, certified, self.close[question.ballot]))
        return answers

    def final(self) -> Tensor:
        """(N,) bool: no remaining vote can change any prediction or certificate."""
        remaining = torch.arange(len(self.close[self.certifier.ballots[0]]), device=self.open.device)
        final = torch.zeros_like(remaining, dtype=torch.bool)
        for rule in dict.fromkeys(ballot.rule for ballot in self.certifier.ballots):
            counts = self._counts(rule)[remaining]
            lead = safe_lead(counts[:, None], counts[:, None], predict(counts))[:, 0]
            remaining = remaining[lead >= self.open[0]]
        for question in self.certifier.questions:
            if len(remaining):
                surely, possibly = self._certified(question, remaining)
                remaining = remaining[surely if question.certificate == "masking" else surely == possibly]
        final[remaining] = True
        return final

    def _counts(self, rule: VoteRule) -> Tensor:
        """(N, K): all votes."""
        return self.votes[Ballot(rule)][0, :, 0]

    def _winner(self, question: Question, chosen: Tensor | slice = slice(None)) -> Tensor:
        """(N',): what is predicted of the images `chosen` by the plain votes so far."""
        if question.certificate != "masking":
            return predict(self._counts(question.rule)[chosen])
        rows, _ = self.certifier.asked[question.threat]
        return two_rounds([paired(self.votes[Ballot(question.rule)][0, chosen, rows])])

    def leads(self, question: Question, chosen: Tensor | slice = slice(None)) -> Tensor:
        """(N', rows) int64: by how much the winner is safe at each of the question's rows of places; from 0 on it is.

        Of the images `chosen`, by the votes so far. The winner is that of the plain votes.
        """
        rows, handicap = self.certifier.asked[question.threat]
        votes = self.votes[question.ballot][:, chosen, rows]
        return safe_lead(votes[0], votes[-1], self._winner(question, chosen)) - handicap

    def _certified(self, question: Question, chosen: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Which of the images `chosen` are certified whatever the remaining copies vote, and which at best.

        A copy that has still to vote may vote for a rival or for the winner: it moves a lead by 1 at most. If another
        may still win, only the first answer counts.
        """
        rows, _ = self.certifier.asked[question.threat]
        lead = self.leads(question, chosen)
        return (lead >= self.open[rows]).all(dim=1), (lead >= -self.open[rows]).all(dim=1)


class Listener(Protocol):
    """Passes on the chunks of probabilities of each batch of images, and keeps what it needs of them."""

    def __call__(self, chunks: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]: ...

    def give_away(self) -> dict:
        """What it kept last, of one batch, in a form that a journal takes."""

    def take_back(self, given: dict) -> None:
        """Keep what was given away, perhaps by an earlier run."""


def certify(
    engine: Engine,
    dataset: Images,
    certifier: Certifier,
    batch_size: int,
    listener: Listener | None = None,
    early: bool = False,
    journal: Journal | None = None,
) -> tuple[list[Verdicts], int]:
    """One `Verdicts` per question of `certifier` for all images of `dataset`, and how many copies were classified.

    Shows a progress bar. With several processes each looks at its share of the images, and all of them return
    the verdicts on all.

    Args:
        engine: base classifier, on the data set's device.
        batch_size: ablated copies per call of the engine.
        listener: hears each batch's chunks of probabilities before the certifier does.
        early: images leave as soon as nothing can change for them, and nothing is passed on; predictions and
            certificates are the same.
        journal: keeps what is found, batch by batch.
    """
    require_classes(engine, dataset)

    def look(images: Tensor, labels: Tensor) -> dict:
        if early:
            answers, classified = decide_early(engine, images, certifier, batch_size)
        else:
            chunks = softmax_chunks(engine, images, certifier.ablation, batch_size)
            answers = certifier(listener(chunks) if listener else chunks)
            classified = len(images) * certifier.ablation.count
        found = {"answers": [vars(verdicts) for verdicts in answers], "classified": classified}
        return found | ({"heard": listener.give_away()} if listener else {})

    parts, seen, correct, certified, copies = [], 0, 0, 0, 0
    with progress_bar(len(dataset), "certifying") as bar:
        for found, labels in (journal or Journal()).over(dataset, batch_size, look):
            answers = [Verdicts(**columns) for columns in found["answers"]]
            if listener:
                listener.take_back(found["heard"])
            parts.append(answers)
            right = answers[0].predicted == labels
            seen += len(labels)
            copies += found["classified"]
            correct += int(right.sum())
            certified += int((right & answers[0].certified).sum())
            bar.update(len(labels) * distributed.world())
            bar.set_postfix(clean=f"{correct / seen:.2%}", certified=f"{certified / seen:.2%}")
    verdicts = [Verdicts.concatenate(answers).merged(len(dataset)) for answers in zip(*parts, strict=True)]
    return verdicts, int(distributed.total(torch.tensor(copies, device=dataset.labels.device)))


@torch.inference_mode()
def decide_early(engine: Engine, images: Tensor, certifier: Certifier, batch_size: int) -> tuple[list[Verdicts], int]:
    """One `Verdicts` per question for images (N, C, H, W), and how many copies it took.

    Images leave when nothing can change for them. No prediction is final before half of the copies have voted,
    because a lead is never greater than their number; after that, each `CHECKS`-th part is followed by a look. When
    an image leaves does not depend on the others.
    """
    certifier.ablation.require_size(images)
    encoded, numbers = encode(images), torch.arange(len(images), device=images.device)
    tally, count = Tally(certifier), certifier.ablation.count
    voted, copies, next_look, decided, left = 0, 0, count / 2, [], []
    while len(numbers):
        size = max(engine.least, min(batch_size // len(numbers), math.ceil(next_look) - voted))
        indices = torch.arange(voted, min(voted + size, count), device=images.device)
        tally.add(indices, softmax(engine, encoded, indices))
        voted += len(indices)
        copies += len(indices) * len(numbers)
        if voted < min(next_look, count):
            continue
        next_look = voted + count / CHECKS
        final = tally.final() if voted < count else torch.ones_like(numbers, dtype=torch.bool)
        if final.any():
            decided.append(tally.take(final).verdicts())
            left.append(numbers[final])
            tally, encoded, numbers = tally.take(~final), encoded[~final], numbers[~final]
    order = torch.cat(left).argsort()
    return [Verdicts.concatenate(answers).take(order) for answers in zip(*decided, strict=True)], copies
