"""Double masking: a prediction from the scores of ablated copies, and what no patch can change about it.

Wherever a patch lies, leaving out the copies that it touches there undoes all that it did. So every place is left out
in turn, and where the answers differ, every second place besides (the two rounds of PatchCleanser, Xiang, Mahloujifar
and Mittal, USENIX Security 2022, on the scores of copies instead of masked images). If every pair of places gives one
class, it stays the answer whatever a patch shows, at any place. Scores may be logits, probabilities or votes, of any
size. Sums are taken over the copies that are kept, never by subtraction, in which huge scores would leave rounding
errors behind.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import torch
from torch import Tensor

from patchcert import distributed
from patchcert.ablations.ablation import Ablation
from patchcert.errors import UsageError
from patchcert.masking.alarms import ALARM
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.patch_sizes import Area

BYTES_AT_ONCE = 1 << 28
"""Of sums over pairs of places that are held together."""

TEMPERATURE = 1 / 8
"""Leads, sums over the copies that a pair of places leaves, count as so much of a difference of logits."""

MOST_PAIRS = 1 << 18
"""Pairs of places of one family; two patches on the bands of 32 columns have 246,016 and fewer."""


@dataclass(frozen=True)
class MaskedVerdicts:
    """What double masking says of N images; all tensors are (N,).

    Attributes:
        predicted: int64, by the two rounds.
        certified: bool, whether its lead at the worst pair of places is above the margin.
        lead: float64, that over the class that comes nearest; infinite where there is no other class.
        within_margin: bool, certified but for the margin.
    """

    predicted: Tensor
    certified: Tensor
    lead: Tensor
    within_margin: Tensor

    def unanimous(self) -> Tensor:
        """(N,) int64: the class that every pair of places gives, else `ALARM`; a defence against two patches.

        Some pair of places leaves out what both patches touch, so that its answer stays.
        """
        return self.predicted.where(self.certified | self.within_margin, ALARM)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def merged(self, count: int) -> Self:
        """The verdicts on all `count` images, of which these are on this process's share."""
        return type(self)(*(distributed.merge(tensor, count) for tensor in vars(self).values()))


class DoubleMasking:
    """The two-round prediction and its certificate against one kind of patch.

    Families of copies that are touched independently, columns and rows, take part together: all scores are added up,
    and any set of touched columns goes with any set of touched rows. The worst lead over all pairs of places is then
    the sum of the families' worst leads, class by class.

    Args:
        ablation: the copies.
        patch, patches: anywhere, one or two of them at once; an area is every rectangle of it.
        chosen: of each family, the copies of which there are scores; training looks at some of them.

    Attributes:
        touched: for each family (L, A) bool, the distinct sets T_ℓ of copies that the patches touch at some place.
        kept: for each family (L(L+1)/2, A) bool, the copies that pairs of places ℓ ≤ ℓ' leave, as `paired` takes them.
        temperature: of the confidence in what places leave.

    Raises:
        UsageError: a patch does not fit into the image, or there are too many pairs of places.
    """

    temperature = TEMPERATURE

    def __init__(self, ablation: Ablation, patch: Patch | Area, patches: int = 1, chosen: slice = slice(None)):
        self._keep([touched_sets(family, patch, patches, chosen) for family in ablation.families()])

    def _keep(self, touched: list[Tensor]) -> None:
        self.touched = touched
        self.sizes = [sets.shape[1] for sets in self.touched]
        self.kept = []
        for sets in self.touched:
            first, second = torch.triu_indices(len(sets), len(sets), device=sets.device)
            self.kept.append(~(sets[first] | sets[second]))

    def to(self, device: torch.device | str) -> Self:
        """Keep the places on `device`, where scores then have to be."""
        self.touched, self.kept = ([sets.to(device) for sets in parts] for parts in (self.touched, self.kept))
        return self

    def predict(self, scores: Tensor) -> Tensor:
        """(N,) int64: the answers of both rounds to the scores (N, A, K) of all copies; ties to the lower class.

        Raises:
            ValueError: there are scores of more or fewer copies.
            FloatingPointError: a score is not finite.
        """
        return self.predict_and_lead(scores)[0]

    def verdicts(self, scores: Tensor, margin: Margin, magnitudes: Tensor | None = None) -> MaskedVerdicts:
        """The answers to the scores (N, A, K), certified where they lead by more than the `margin` for every pair.

        Args:
            magnitudes: (N, A), in proportion to what rounding changes the scores of each copy; by default the largest
                magnitude among these.
        """
        magnitudes = scores.abs().amax(dim=2) if magnitudes is None else magnitudes
        parts = self._beside_sums(magnitudes, scores)
        return MaskedVerdicts.concatenate([self._verdicts(sums, some, margin) for some, sums in parts])

    def left_by_one(self, scores: Tensor) -> Tensor:
        """(N, P, K): the sums of the float64 scores (N, A, K) of all copies that each of P places leaves."""
        families = zip(self.touched, scores.split(self.sizes, dim=1), strict=True)
        return _over_places([torch.einsum("la,nak->nlk", (~sets).to(part.dtype), part) for sets, part in families])

    def left_by_two(self, scores: Tensor, most: int) -> Iterator[Tensor]:
        """Yield (N, Q, K): the same for pairs of places, a place twice among them; so many pairs at a time."""
        sums, numbers = self._sums(scores), self.set_numbers()
        places = len(numbers[0])
        pairs = torch.triu_indices(places, places, device=scores.device)
        for first, second in zip(*(along.split(most) for along in pairs), strict=True):
            yield sum(
                family[:, pair_numbers(family.shape[1], family.device)[number[first], number[second]]]
                for family, number in zip(sums, numbers, strict=True)
            )

    def set_numbers(self) -> list[Tensor]:
        """For each family (P,) int64: the number of its set that each place of `left_by_one` leaves out."""
        every = [torch.arange(len(sets), device=sets.device) for sets in self.touched]
        return list(torch.cartesian_prod(*every).view(-1, len(every)).T)

    def _verdicts(self, sums: list[Tensor], magnitudes: Tensor, margin: Margin) -> MaskedVerdicts:
        """`verdicts` from the sums (N, L(L+1)/2, K) of each family."""
        predicted, leads = self._predict_and_lead(sums)
        sure = leads
        if margin.relative:
            added = self._sums(margin.relative * magnitudes.double()[..., None])  # up as scores are
            lowered = [_lowered(predicted, *family) for family in zip(sums, added, strict=True)]
            sure = self._worst_leads(predicted, lowered)
        certified = beats_all(sure, predicted, margin.numerical)
        lead = least_ahead(predicted, leads)
        return MaskedVerdicts(predicted, certified, lead, beats_all(leads, predicted) & ~certified)

    def predict_and_lead(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions, and how far each is ahead of every class where a pair of places hurts it most.

        Returns:
            (N,) int64 and (N, K) float64, from which `beats_all` tells what is certified.
        """
        parts = map(self._predict_and_lead, self._in_parts(scores))
        predicted, leads = map(torch.cat, zip(*parts, strict=True))
        return predicted, leads

    def worst_leads(self, labels: Tensor, scores: Tensor) -> Tensor:
        """(N, K): how far the `labels` (N,) are ahead at the worst pairs, for training: differentiable, no float64."""
        with torch.autocast(scores.device.type, enabled=False):  # sums over copies need more digits than bfloat16 has
            return self._worst_leads(labels, self._sums(scores))

    def leads_by_set(self, winner: Tensor, scores: Tensor, alone: bool) -> list[Tensor]:
        """For each family (N, L, K): how far the `winner` (N,) is ahead without one of the `touched` sets.

        Unless it is `alone`, a second one is left out, too: that which hurts most. Where the sets of all families are
        worst, this adds up to the leads of `predict_and_lead`.
        """

        def of_sets(leads: Tensor) -> Tensor:
            return leads.diagonal(dim1=1, dim2=2).transpose(1, 2) if alone else leads.amin(dim=2)

        found = [
            [of_sets(paired(ahead(some, family))) for family in sums]
            for some, sums in self._beside_sums(winner, scores)
        ]
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def _beside_sums(self, of_images: Tensor, scores: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield some of what is known `of_images` (N, …) beside what `_in_parts` yields of them."""
        start = 0
        for sums in self._in_parts(scores):
            yield of_images[start : start + len(sums[0])], sums
            start += len(sums[0])

    def _predict_and_lead(self, sums: list[Tensor]) -> tuple[Tensor, Tensor]:
        """`predict_and_lead` from the sums (N, L(L+1)/2, K) of each family.

        If any class is the answer to every pair of places, it is that to the first one, and both rounds give it. Only
        where it is not, they are gone through.
        """
        predicted = reduce(torch.add, (family[:, 0] for family in sums)).argmax(dim=1)
        leads = self._worst_leads(predicted, sums)
        unclear = (~beats_all(leads, predicted)).nonzero().squeeze(1)
        if len(unclear):
            of_unclear = [family[unclear] for family in sums]
            predicted[unclear] = self._two_rounds(list(map(paired, of_unclear)))
            leads[unclear] = self._worst_leads(predicted[unclear], of_unclear)
        return predicted, leads

    def _worst_leads(self, winner: Tensor, sums: list[Tensor]) -> Tensor:
        """(N, K): how far the `winner` (N,) is ahead at the worst pairs, from the sums of each family."""
        return worst_leads(winner, sums)

    def _two_rounds(self, sums: list[Tensor]) -> Tensor:
        """(N,) int64: the prediction from the sums (N, L, L, K) of each family that pairs of places leave."""
        return two_rounds(sums)

    def _sums(self, scores: Tensor) -> list[Tensor]:
        """For each family the sums (N, L(L+1)/2, K) of the copies that pairs of places leave."""
        families = zip(self.kept, scores.split(self.sizes, dim=1), strict=True)
        return [torch.einsum("pa,nak->npk", kept.to(part.dtype), part) for kept, part in families]

    def _in_parts(self, scores: Tensor) -> Iterator[list[Tensor]]:
        """Yield `_sums` in float64 for some images at a time; raise as `predict` does."""
        copies = sum(sets.shape[1] for sets in self.touched)
        if scores.dim() != 3 or scores.shape[1] != copies:
            raise ValueError(f"scores are {tuple(scores.shape)}, expected (images, {copies} copies, classes)")
        if not scores.isfinite().all():
            raise FloatingPointError("the network's scores are not finite: no answer can be given")
        places = sum(len(sets) ** 2 for sets in self.touched) + math.prod(len(sets) for sets in self.touched)
        for some in scores.double().split(max(1, BYTES_AT_ONCE // (8 * places * scores.shape[2]))):
            yield self._sums(some)


def two_rounds(sums: Sequence[Tensor]) -> Tensor:
    """(N,) int64: the prediction from the sums (N, L, L, K) of each family that pairs of places leave."""

    def worst(asked: Tensor, dissenting: int) -> Tensor:
        return _over_places([(s[asked][..., dissenting, None] - s[asked]).amin(dim=2) for s in sums])

    return in_two_rounds(_over_places([s.diagonal(dim1=1, dim2=2).transpose(1, 2) for s in sums]), worst)


def in_two_rounds(sums: Tensor, worst: Callable[[Tensor, int], Tensor]) -> Tensor:
    """(N,) int64: the prediction from the sums (N, L, K) that each of L places leaves.

    The first round leaves out one place: if all answers agree, or else most of them, that is the answer, unless one
    that differs is confirmed: leaving out any second place besides its own gives it again. No two can be, since the
    pair of their places has one answer.

    Args:
        worst: from the numbers of images (n,) and a class, (n, L, K): how far that class is ahead of each where the
            second place besides each first one hurts it most.
    """
    first = sums.argmax(dim=2)  # (N, L)
    answers = first.new_zeros(len(first), sums.shape[2]).scatter_add_(1, first, torch.ones_like(first))  # (N, K)
    predicted = answers.argmax(dim=1)
    most_frequent = predicted.clone()
    for dissenting in range(sums.shape[2]):
        asked = ((answers[:, dissenting] > 0) & (most_frequent != dissenting)).nonzero().squeeze(1)
        if len(asked):
            leads = worst(asked, dissenting)
            confirmed = beats_all(leads, torch.full_like(first[asked], dissenting)) & (first[asked] == dissenting)
            predicted[asked[confirmed.any(dim=1)]] = dissenting
    return predicted


def worst_leads(winner: Tensor, sums: Sequence[Tensor]) -> Tensor:
    """(N, K): how far the `winner` (N,) is ahead of each class at the worst pair of places.

    Args:
        sums: (N, …, K) of each family, over the copies that each pair of places leaves.
    """
    return sum(ahead(winner, family).flatten(1, -2).amin(dim=1) for family in sums)


def ahead(winner: Tensor, sums: Tensor) -> Tensor:
    """(N, …, K): how far the `winner` (N,) is ahead of each class in the `sums` (N, …, K)."""
    own = winner.view(-1, *[1] * (sums.dim() - 1)).expand(*sums.shape[:-1], 1)
    return sums.gather(-1, own) - sums


def least_ahead(winner: Tensor, leads: Tensor) -> Tensor:
    """(N, …): the least of the leads (N, …, K) over all classes but the `winner` (N,); infinite without others."""
    own = winner.view(-1, *[1] * (leads.dim() - 1)).expand(*leads.shape[:-1], 1)
    return leads.scatter(-1, own, math.inf).amin(dim=-1)


def paired(sums: Tensor) -> Tensor:
    """(N, L, L, K) from sums (N, L(L+1)/2, K) of the pairs of places ℓ ≤ ℓ', the upper triangle row by row."""
    return sums[:, pair_numbers(sums.shape[1], sums.device)]


def pair_numbers(count: int, device: torch.device) -> Tensor:
    """(L, L) int64: the number of each pair of places among the `count` pairs ℓ ≤ ℓ'."""
    size = math.isqrt(2 * count)
    upper = torch.triu_indices(size, size, device=device)
    number = torch.zeros(size, size, dtype=torch.int64, device=device)
    number[*upper] = number[*upper.flip(0)] = torch.arange(count, device=device)
    return number


def beats_all(leads: Tensor, winner: Tensor, numerical_margin: float = 0.0) -> Tensor:
    """(…) bool: whether the `winner` (…) is far enough ahead of all classes by its `leads` (…, K).

    Further than the numerical margin ν; without one it also wins ties with higher classes. Leads that are infinite, or
    no numbers, come of sums that overflowed, and prove nothing.
    """
    classes = torch.arange(leads.shape[-1], device=leads.device)
    wins = (leads > numerical_margin) & (leads < math.inf)
    if numerical_margin == 0:
        wins |= (leads == 0) & (winner[..., None] < classes)
    return (wins | (classes == winner[..., None])).all(dim=-1)


def _lowered(winner: Tensor, sums: Tensor, margins: Tensor) -> Tensor:
    """(N, P, K): the `sums` (N, P, K), that of the `winner` (N,) less the `margins` (N, P, 1)."""
    own = winner[:, None, None].expand(-1, sums.shape[1], 1)
    return sums.scatter_add(2, own, -margins)


def _over_places(parts: Sequence[Tensor]) -> Tensor:
    """(N, L₁·L₂, K): sums (N, L, K) of each family, added up for every choice of one place in each."""
    return reduce(lambda a, b: (a[:, :, None] + b[:, None]).flatten(1, 2), parts)


def touched_sets(ablation: Ablation, patch: Patch | Area, patches: int = 1, chosen: slice = slice(None)) -> Tensor:
    """(L, A) bool: the distinct sets of `chosen` copies that `patches` (1 or 2) such patches touch at some place.

    Raises:
        UsageError: see `DoubleMasking`.
    """
    copies = torch.arange(ablation.count, device=ablation.cells.device)[chosen]
    sets = ablation.touching(ablation.places(patch, patches), copies).unique(dim=0)
    require_few_pairs(sets, patch, patches)
    return sets


def require_few_pairs(sets: Tensor, patch: Patch | Area, patches: int = 1) -> None:
    """Raise UsageError unless the pairs of the `sets` (L, A) can be looked at."""
    if len(sets) ** 2 > MOST_PAIRS:
        right = f"patches of {patch} have {len(sets) ** 2} pairs of places here, masking takes at most {MOST_PAIRS}"
        raise UsageError("patches", patches, right)


def worst_of_groups(leads: Tensor, group_of: Tensor, groups: int) -> Tensor:
    """(N, F, groups, K): of leads (N, F, L, K) the least over those of each group; `group_of` (L,) says which it is."""
    nowhere = leads.new_full((*leads.shape[:2], groups, leads.shape[3]), torch.inf)
    return nowhere.scatter_reduce_(2, group_of[:, None].expand_as(leads), leads, "amin")
