"""Votes to prediction and certificate.

Levine and Feizi, NeurIPS 2020, section 3. A patch decides the votes of the ablated copies that it touches
and no others; a prediction is certified if it stands whatever those copies vote.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from patchcert import distributed
from patchcert.ablation import Ablation, Patch
from patchcert.datasets import Images
from patchcert.results import progress_bar
from patchcert.voting import Engine, TopOneVote, VoteRule, softmax_chunks, softmax_over


def predict(counts: Tensor) -> Tensor:
    """(N,) int64: the class with the most votes `counts` (N, K); a tie goes to the lower index."""
    return counts.argmax(dim=1)


def runner_up(counts: Tensor) -> Tensor:
    """(N,) int64: the class with the most votes among all but the winner; a tie goes to the lower index."""
    return predict(counts.scatter(1, predict(counts)[:, None], -1))


def margin_certified(counts: Tensor, most_touched: int) -> Tensor:
    """(N,) bool: the winner leads the runner-up by more than 2Δ votes, or by 2Δ with the lower index.

    Args:
        counts: (N, K) int64, votes n_c.
        most_touched: Δ, the most ablations that one patch touches.
    """
    first, second = predict(counts), runner_up(counts)
    lead = counts.gather(1, first[:, None]) - counts.gather(1, second[:, None])
    return lead.squeeze(1) >= 2 * most_touched + (second < first)


def count_touched_votes(votes: Tensor, touched: Tensor) -> Tensor:
    """(N, L, K) int64: votes cast by the ablations that a patch at each place touches.

    Args:
        votes: (N, A, K) bool.
        touched: (L, A) bool.
    """
    return torch.einsum("nak,la->nlk", votes.float(), touched.float()).to(torch.int64)


def exact_certified(counts: Tensor, touched_votes: Tensor, touched_counts: Tensor) -> Tensor:
    """(N,) bool: the winner keeps winning at every place, whatever the ablations touched there vote.

    The worst that they can do against class c is to leave the winner and vote for c, all of them. An image
    that is refused has a place and a class for which this very assignment wins.

    Args:
        counts: (N, K) int64, votes of all ablations.
        touched_votes: (N, L, K) int64, the part of them that the patch at place ℓ can change.
        touched_counts: (L,) int64, how many ablations it touches.
    """
    untouched = counts[:, None] - touched_votes
    winner = predict(counts)[:, None, None].expand(-1, len(touched_counts), 1)
    rivals = untouched + touched_counts[:, None]
    lead = untouched.gather(2, winner) - rivals
    needed = (torch.arange(counts.shape[1], device=counts.device) < winner).to(torch.int64)
    return (lead >= needed).scatter(2, winner, True).flatten(1).all(dim=1)


@dataclass(frozen=True)
class Question:
    """What is asked of the votes: is the answer under `rule` safe from `patch`, by `certificate` margin or exact?"""

    patch: Patch
    rule: VoteRule
    certificate: str

    def as_json(self) -> dict:
        threshold = getattr(self.rule, "threshold", None)
        return {"size_to_certify": self.patch.size, "threshold": threshold, "certificate": self.certificate}


@dataclass(frozen=True)
class Verdicts:
    """The answers to one question for N images; all tensors are (N,)."""

    predicted: Tensor
    certified: Tensor
    votes: Tensor
    runner_up: Tensor
    runner_up_votes: Tensor

    @classmethod
    def from_counts(cls, counts: Tensor, certified: Tensor) -> "Verdicts":
        first, second = predict(counts), runner_up(counts)
        votes = counts.gather(1, torch.stack([first, second], dim=1))
        return cls(first, certified, votes[:, 0], second, votes[:, 1])

    @classmethod
    def concatenate(cls, parts: Sequence["Verdicts"]) -> "Verdicts":
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def merged(self, count: int) -> "Verdicts":
        """The verdicts on all `count` images, of which these are on this process's share."""
        return Verdicts(*(distributed.merge(tensor, count) for tensor in vars(self).values()))


def randomized_verdicts(
    votes: Tensor, most_touched: int, alpha: float, predsamples: int, boundsamples: int, generator: np.random.Generator
) -> Verdicts:
    """Predictions and certificates from random ablations; a certificate is wrong with probability at most α.

    `predsamples` ablations, drawn with replacement, pick the class; `boundsamples` more bound its share p of
    all ablations from below by Clopper and Pearson's one-sided interval; certified if p > 1/2 + Δ/A.
    Drawing an ablation is drawing its vote, so each of the A votes is computed once and then drawn from.

    Args:
        votes: (N, A, K) bool, top-one: one vote per ablation.
        most_touched: Δ, the most ablations that one patch touches.
    """
    shares = votes.double().mean(dim=1).cpu().numpy()  # (N, K)
    counts = generator.multinomial(predsamples, shares)
    of_winner = np.take_along_axis(shares, counts.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    successes = generator.binomial(boundsamples, of_winner.clip(0, 1))
    lower = np.where(successes > 0, betaincinv(successes.clip(1), boundsamples - successes + 1, alpha), 0.0)
    certified = torch.from_numpy(lower > 0.5 + most_touched / votes.shape[1])
    return Verdicts.from_counts(torch.from_numpy(counts).to(votes.device), certified.to(votes.device))


def top_one_votes(engine: Engine, dataset: Images, ablation: Ablation, batch_size: int) -> Tensor:
    """(N, A, K) bool: the vote of every ablated copy of every image, with a progress bar."""
    votes = []
    with progress_bar(len(dataset), "voting") as bar:
        for images, _ in dataset.take(distributed.share()).batches(batch_size):
            votes.append(TopOneVote()(softmax_over(engine, images, ablation, batch_size)))
            bar.update(len(images) * distributed.world())
    return distributed.merge(torch.cat(votes), len(dataset))


class Certifier:
    """Answers several questions from one pass over the ablations, in memory that does not grow with their number."""

    def __init__(self, ablation: Ablation, questions: Iterable[Question]):
        self.ablation, self.questions = ablation, list(questions)
        self.rules = list(dict.fromkeys(q.rule for q in self.questions))
        self.most_touched = {
            q.patch: ablation.most_touched(q.patch) for q in self.questions if q.certificate == "margin"
        }
        self.distinct_places = {
            q.patch: ablation.patch_cells(q.patch).unique(dim=0) for q in self.questions if q.certificate == "exact"
        }

    def __call__(self, probability_chunks: Iterable[tuple[Tensor, Tensor]]) -> list[Verdicts]:
        """One `Verdicts` per question for the images whose (indices (A',), probabilities (N, A', K)) are given."""
        counts = dict.fromkeys(self.rules, 0)  # (N, K)
        touched_votes = dict.fromkeys(product(self.rules, self.distinct_places), 0)  # (N, L, K)
        touched_counts = dict.fromkeys(self.distinct_places, 0)  # (L,)
        for indices, probabilities in probability_chunks:
            touched = {p: self.ablation.touching(cells, indices) for p, cells in self.distinct_places.items()}
            for patch in touched:
                touched_counts[patch] = touched_counts[patch] + touched[patch].sum(dim=1)
            for rule in self.rules:
                votes = rule(probabilities)
                counts[rule] = counts[rule] + votes.sum(dim=1)
                for patch in touched:
                    touched_votes[rule, patch] = touched_votes[rule, patch] + count_touched_votes(votes, touched[patch])
        return [self._verdicts(q, counts, touched_votes, touched_counts) for q in self.questions]

    def _verdicts(self, question: Question, counts: dict, touched_votes: dict, touched_counts: dict) -> Verdicts:
        of_rule = counts[question.rule]
        if question.certificate == "margin":
            certified = margin_certified(of_rule, self.most_touched[question.patch])
        else:
            key = question.rule, question.patch
            certified = exact_certified(of_rule, touched_votes[key], touched_counts[question.patch])
        return Verdicts.from_counts(of_rule, certified)


def certify(
    engine: Engine,
    dataset: Images,
    certifier: Certifier,
    batch_size: int,
    listener: Callable[[Iterator[tuple[Tensor, Tensor]]], Iterator[tuple[Tensor, Tensor]]] = iter,
) -> list[Verdicts]:
    """One `Verdicts` per question of `certifier` for all images of `dataset`, with a progress bar.

    With several processes each looks at its share of the images, and all of them return the verdicts on all.

    Args:
        engine: base classifier, on the data set's device.
        batch_size: ablated copies per call of the engine.
        listener: passes on each batch's chunks of probabilities to the certifier.
    """
    parts, seen, correct, certified = [], 0, 0, 0
    with progress_bar(len(dataset), "certifying") as bar:
        for images, labels in dataset.take(distributed.share()).batches(batch_size):
            parts.append(certifier(listener(softmax_chunks(engine, images, certifier.ablation, batch_size))))
            right = parts[-1][0].predicted == labels
            seen += len(labels)
            correct += int(right.sum())
            certified += int((right & parts[-1][0].certified).sum())
            bar.update(len(labels) * distributed.world())
            bar.set_postfix(clean=f"{correct / seen:.2%}", certified=f"{certified / seen:.2%}")
    return [Verdicts.concatenate(answers).merged(len(dataset)) for answers in zip(*parts, strict=True)]
