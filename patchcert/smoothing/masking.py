"""Double masking: a prediction from the scores of ablated copies, and what no patch can change about it.

Wherever a patch lies, leaving out the copies that it touches there undoes all that it did. So every place is left out
in turn, and where the answers differ, every second place besides (the two rounds of PatchCleanser, Xiang, Mahloujifar
and Mittal, USENIX Security 2022, on the scores of copies instead of masked images). If every pair of places gives one
class, it stays the answer whatever a patch shows, at any place. Scores may be logits, probabilities or votes, of any
size. Sums are taken over the copies that are kept, never by subtraction, in which huge scores would leave rounding
errors behind.
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from patchcert.patch import Patch
from patchcert.smoothing.ablation import Ablation

BYTES_AT_ONCE = 1 << 28
"""Of sums over pairs of places that are held together."""


class DoubleMasking:
    """The two-round prediction and its certificate against one kind of patch.

    Several families of copies, columns and rows, take part together: the scores of all are added up. A place is a
    column window and a row window, each chosen independently, so that the worst lead over all pairs of places is the
    sum of the families' worst leads, class by class.

    Args:
        families: ablations whose places are independent: one of any kind, or `Band` and `Row`.
        patch, patches: anywhere, one or two of them at once.

    Attributes:
        touched: for each family (L, A) bool, the distinct sets T_ℓ of copies that the patches touch at some place.

    Raises:
        UsageError: a patch does not fit into the image, or there are too many pairs of places.
    """

    def __init__(self, families: Sequence[Ablation], patch: Patch, patches: int = 1):
        self.touched = [touched_sets(family, patch, patches) for family in families]
        self.kept = [~(sets[:, None] | sets) for sets in self.touched]  # (L, L, A) each

    def pairs(self) -> list[Tensor]:
        """For each family (P, A) bool: the copies that are left by each pair of places, both the same included."""
        return [kept[*torch.triu_indices(len(kept), len(kept), device=kept.device)] for kept in self.kept]

    def predict(self, scores: Sequence[Tensor]) -> Tensor:
        """(N,) int64: the answers of both rounds to the scores (N, A, K) of each family; ties to the lower class.

        Raises:
            FloatingPointError: a score is not finite.
        """
        require_finite(scores)
        return torch.cat([two_rounds(self._sums(part)) for part in self._split(scores)])

    def leads(self, winner: Tensor, scores: Sequence[Tensor]) -> Tensor:
        """(N, K) float64: how far the `winner` (N,) is ahead of each class where a pair of places hurts it most."""
        parts = zip(winner.split(self._at_once(scores)), self._split(scores), strict=True)
        return torch.cat([worst_leads(some, self._sums(part)) for some, part in parts])

    def _sums(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """For each family (N, L, L, K) float64, the sums S of the copies that each pair of places leaves."""
        return [
            torch.einsum("lma,nak->nlmk", kept.double(), part.double())
            for kept, part in zip(self.kept, scores, strict=True)
        ]

    def _split(self, scores: Sequence[Tensor]) -> Sequence[tuple[Tensor, ...]]:
        return list(zip(*(part.split(self._at_once(scores)) for part in scores), strict=True))

    def _at_once(self, scores: Sequence[Tensor]) -> int:
        places = sum(len(sets) ** 2 for sets in self.touched) + reduce(lambda a, b: a * len(b), self.touched, 1)
        return max(1, BYTES_AT_ONCE // (8 * places * scores[0].shape[2]))


def two_rounds(sums: Sequence[Tensor]) -> Tensor:
    """(N,) int64: the prediction from the sums (N, L, L, K) of each family that pairs of places leave.

    The first round leaves out one place: if all answers agree, or else most of them, that is the answer, unless one
    that differs is confirmed: leaving out any second place besides its own gives it again. No two can be, since the
    pair of their places has one answer.
    """
    classes = sums[0].shape[3]
    first = _over_places([s.diagonal(dim1=1, dim2=2).transpose(1, 2) for s in sums]).argmax(dim=2)  # (N, places)
    answers = torch.nn.functional.one_hot(first, classes).sum(dim=1)  # (N, K)
    predicted = answers.argmax(dim=1)
    most_frequent = predicted.clone()
    for dissenting in range(classes):
        asked = ((answers[:, dissenting] > 0) & (most_frequent != dissenting)).nonzero().squeeze(1)
        if len(asked):
            worst = _over_places([(s[asked][..., dissenting, None] - s[asked]).amin(dim=2) for s in sums])
            confirmed = beats_all(worst, torch.full_like(first[asked], dissenting)) & (first[asked] == dissenting)
            predicted[asked[confirmed.any(dim=1)]] = dissenting
    return predicted


def worst_leads(winner: Tensor, sums: Sequence[Tensor]) -> Tensor:
    """(N, K): how far the `winner` (N,) is ahead of each class at the worst pair of places.

    Args:
        sums: (N, …, K) of each family, over the copies that each pair of places leaves.
    """
    leads = []
    for family in sums:
        own = winner.view(-1, *[1] * (family.dim() - 1)).expand(*family.shape[:-1], 1)
        leads.append((family.gather(-1, own) - family).flatten(1, -2).amin(dim=1))
    return sum(leads)


def paired(sums: Tensor) -> Tensor:
    """(N, L, L, K) from sums (N, L(L+1)/2, K) of the pairs of places ℓ ≤ ℓ', the upper triangle row by row."""
    size = math.isqrt(2 * sums.shape[1])
    upper = torch.triu_indices(size, size, device=sums.device)
    number = torch.zeros(size, size, dtype=torch.int64, device=sums.device)
    number[*upper] = number[*upper.flip(0)] = torch.arange(sums.shape[1], device=sums.device)
    return sums[:, number]


def touched_sets(ablation: Ablation, patch: Patch, patches: int = 1) -> Tensor:
    """(L, A) bool: the distinct sets of copies that `patches` (1 or 2) such patches touch at some place."""
    every = torch.arange(ablation.count, device=ablation.cells.device)
    return ablation.touching(ablation.places(patch, patches), every).unique(dim=0)


def beats_all(leads: Tensor, winner: Tensor, numerical_margin: float = 0.0) -> Tensor:
    """(…) bool: whether the `winner` (…) is far enough ahead of all classes by its `leads` (…, K).

    Further than the numerical margin ν; without one it also wins ties with higher classes.
    """
    classes = torch.arange(leads.shape[-1], device=leads.device)
    wins = leads > numerical_margin
    if numerical_margin == 0:
        wins |= (leads == 0) & (winner[..., None] < classes)
    return (wins | (classes == winner[..., None])).all(dim=-1)


def require_finite(scores: Sequence[Tensor]) -> None:
    """Raise FloatingPointError unless all scores are finite numbers: others would make any answer look certain."""
    if not all(part.isfinite().all() for part in scores):
        raise FloatingPointError("the network's scores are not finite: no answer can be given")


def _over_places(parts: Sequence[Tensor]) -> Tensor:
    """(N, L₁·L₂, K): sums (N, L, K) of each family, added up for every choice of one place in each."""
    return reduce(lambda a, b: (a[:, :, None] + b[:, None]).flatten(1, 2), parts)
