"""Where an answer is weak: how much of its lead is left with the patch at each of its places.

The leads are those that the certificates are made of; here none is thrown away for a smaller one elsewhere.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from patchcert.ablations.ablation import Ablation
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.masking.answers import UNASKED, Answers
from patchcert.masking.double_masking import DoubleMasking, least_ahead, paired
from patchcert.masking.linked import WindowMasking
from patchcert.masking.noted import pairs_of
from patchcert.patch import Patch
from patchcert.votes.certificate import Certifier, Question, Tally


def of_votes(ablation: Ablation, question: Question, probability_chunks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """(N, H−m₁+1, W−m₂+1) int64: votes by which the answer is safe from the patch at each place; from 0 on it is.

    Of two patches the other one lies where it hurts most. `masking` asks for the worst second mask at each place;
    `margin`, which looks at no place, is answered as `exact`, which is the truth about the votes.

    Args:
        probability_chunks: (indices (A',), probabilities (N, A', K)) until all ablations have had their turn.

    Raises:
        UsageError: there are too many pairs of places.
    """
    if question.certificate == "margin":
        question = replace(question, certificate="exact")
    tally = Tally(Certifier(ablation, [question]))
    for indices, probabilities in probability_chunks:
        tally.add(indices, probabilities)
    leads = tally.leads(question)
    if question.certificate == "masking":
        leads = paired(leads[:, :, None]).amin(dim=2)[:, :, 0]
    return _on_grid(_with_a_patch_at(leads, ablation, question.patch, question.patches), ablation, question.patch)


def of_scores(
    ablation: Ablation,
    masking: DoubleMasking,
    patch: Patch,
    patches: int,
    winner: Tensor,
    scores: Tensor,
    alone: bool = False,
) -> Tensor:
    """(N, H−m₁+1, W−m₂+1) float64: the lead of the `winner` (N,) with one mask at each place and one where it hurts.

    Args:
        masking: of that patch, or of two such `patches`.
        scores: (N, A, K).
        alone: without the second mask, which alarms against one patch do without.
    """
    if isinstance(masking, WindowMasking):
        return masking.leads_at(winner, scores, alone)
    leads = 0
    for family, worst in zip(ablation.families(), masking.leads_by_set(winner, scores, alone), strict=True):
        every = torch.arange(family.count, device=scores.device)
        sets = family.touching(family.places(patch, patches), every).unique(dim=0, return_inverse=True)[1]
        leads = leads + _with_a_patch_at(worst.transpose(1, 2)[:, :, sets], family, patch, patches)  # (N, K, L)
    return _on_grid(least_ahead(winner, leads.transpose(1, 2)), ablation, patch)


def leads_of(known: Answers, predicted: int) -> Tensor:
    """(Q,) float32: by how much each answer is the class `predicted`, below 0 where it is another; ∞ where unasked."""
    leads = known.leads.where(known.classes == predicted, -known.gaps)
    return leads.where(known.classes != UNASKED, math.inf)


def least_of_windows(windows: int, leads: Tensor) -> Tensor:
    """(M,): the least lead without each of M windows, of `leads` (Q,) in the order of `noted`, or the first of them."""
    pairs, least = pairs_of(windows)[: len(leads)], torch.full((windows,), math.inf)
    return least.scatter_reduce_(0, pairs.flatten(), leads.repeat_interleave(2), "amin")


def by_place(windows: HiddenWindows, patch: Patch, leads: Tensor) -> Tensor:
    """(rows, columns): with the patch at each place, the lead that its best window guarantees.

    If no question about a window that hides the patch changes the answer, neither does the patch: the answer without
    that window stays, and against any other window that dissents stands the one without both. So of the windows there
    the best one counts. Of strict alarms, about which only single windows are asked, one that agrees is enough.

    Args:
        leads: (M,), the least lead without each window.
    """
    return leads[:, None, None].where(windows.covering(patch), -math.inf).amax(dim=0)


def _with_a_patch_at(leads: Tensor, ablation: Ablation, patch: Patch, patches: int) -> Tensor:
    """(…, L): from the leads (…, P) at each of `Ablation.places`, the least of those with a patch at place ℓ of all."""
    sets, number = ablation.distinct_places(patch)
    single, of_set = sets.unique(dim=0, return_inverse=True)
    place = of_set[number]
    if patches == 2 and len(single) > 1:
        first, second = torch.triu_indices(len(single), len(single), offset=1, device=place.device)
        pair = (single[first] | single[second]).unique(dim=0, return_inverse=True)[1]
        of_pair = leads[..., pair]
        both = torch.cat([first, second]).expand(*leads.shape[:-1], -1)
        leads = leads.new_zeros(*leads.shape[:-1], len(single)).scatter_reduce(
            -1, both, torch.cat([of_pair, of_pair], dim=-1), "amin", include_self=False
        )
    return leads[..., place]


def _on_grid(leads: Tensor, ablation: Ablation, patch: Patch) -> Tensor:
    return leads.unflatten(1, (ablation.height - patch.height + 1, ablation.width - patch.width + 1))
