"""Weak-spot maps against the definition, against the certificates, and against an adversary at the weakest place."""

from itertools import product

import pytest
import torch

from patchcert.ablations.ablation import Band, BandAndRow, Block, Row
from patchcert.ablations.choices import MultiBand
from patchcert.ablations.windows import WindowPairs
from patchcert.classifiers import weak_spots
from patchcert.masking.double_masking import DoubleMasking
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.votes.certificate import Certifier, Question, predict
from patchcert.votes.rules import ThresholdVote, TopOneVote
from tests import oracle

ABLATIONS = [
    Band(3, 9, 2),
    Row(8, 3, 2),
    Block(4, 4, 2),
    MultiBand(3, 9, 2, 1),
    BandAndRow(4, 7, 1),
    WindowPairs(4, 5, 4, 2),
]
PATCHES = [Patch(1, 1), Patch(2, 1)]
RULE = ThresholdVote(0.5)


def probabilities_of(ablation, count=12):
    """(N, A, 3): a favourite of most copies, in each second image of all."""
    p = torch.rand(count, ablation.count, 3, generator=torch.Generator().manual_seed(0))
    p[:, :, 1] += 0.3
    p[::2] *= torch.tensor([0.5, 1.0, 0.4])
    p[::2, :, 1] += 0.7
    return p


def lead(votes, touched, winner):
    """The definition: by what `winner` is ahead by votes (A, K) of one image when the touched copies (A,) are lost."""
    counts = votes[~touched].sum(dim=0).tolist()
    return min(counts[winner] - counts[c] - (c < winner) for c in range(len(counts)) if c != winner) - touched.sum()


@pytest.mark.parametrize("patch", PATCHES, ids=str)
@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_votes_are_weak_where_the_definition_says(ablation, patch):
    p = probabilities_of(ablation)
    every, votes = torch.arange(ablation.count), RULE(p)
    found = weak_spots.of_votes(ablation, Question(patch, RULE, "exact"), [(every, p)])
    winner = predict(votes.sum(dim=1)).tolist()
    places = ablation.touched_by(patch)
    expected = torch.tensor([[lead(v, place, w) for place in places] for v, w in zip(votes, winner, strict=True)])
    assert found.shape == (len(p), ablation.height - patch.height + 1, ablation.width - patch.width + 1)
    assert torch.equal(found.flatten(1), expected)
    assert (found < 0).any() and (found >= 0).flatten(1).all(dim=1).any()


@pytest.mark.parametrize("question", [
    Question(Patch(1, 2), RULE, "exact"),
    Question(Patch(1, 2), TopOneVote(), "exact", numerical_margin=0.02),
    Question(Patch(1, 1), RULE, "exact", patches=2),
    Question(Patch(1, 2), RULE, "masking"),
    Question(Patch(3, 3), TopOneVote(), "masking", patches=2),
])  # fmt: skip
@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_what_is_certified_has_no_weak_spot_and_what_is_not_has_one(ablation, question):
    p = probabilities_of(ablation)
    chunks = list(zip(torch.arange(ablation.count).split(3), p.split(3, dim=1), strict=True))
    (verdicts,) = Certifier(ablation, [question])(chunks)
    found = weak_spots.of_votes(ablation, question, chunks)
    assert torch.equal((found >= 0).flatten(1).all(dim=1), verdicts.certified)


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_the_second_of_two_patches_lies_where_it_hurts_most(ablation):
    p, patch = probabilities_of(ablation, count=6), Patch(1, 2)
    votes, places = RULE(p), ablation.touched_by(patch)
    question = Question(patch, RULE, "exact", patches=2)
    found = weak_spots.of_votes(ablation, question, [(torch.arange(ablation.count), p)])
    for image, winner, leads in zip(votes, predict(votes.sum(dim=1)).tolist(), found.flatten(1), strict=True):
        expected = [min(lead(image, place | other, winner) for other in places) for place in places]
        assert leads.tolist() == expected


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_an_adversary_wins_at_the_weakest_place_and_only_where_the_lead_is_negative(ablation):
    """Touched copies that all vote for the best rival alone win where the map is below 0, and nowhere else."""
    patch, p = Patch(2, 1), probabilities_of(ablation)
    found = weak_spots.of_votes(ablation, Question(patch, RULE, "exact"), [(torch.arange(ablation.count), p)])
    votes, places = RULE(p).long(), ablation.touched_by(patch)
    for image, leads in zip(votes, found.flatten(1), strict=True):
        winner = int(predict(image.sum(dim=0)[None]))
        for place, spot in zip(places, leads, strict=True):
            forged = [image.where(~place[:, None], torch.eye(3, dtype=torch.long)[rival]) for rival in range(3)]
            fallen = any(int(predict(f.sum(dim=0)[None])) != winner for f in forged)
            assert fallen == (spot < 0)
    assert (found.flatten(1).amin(dim=1) < 0).any()


def test_the_margin_is_shown_the_truth_about_its_votes():
    ablation = ABLATIONS[0]
    chunks = [(torch.arange(ablation.count), probabilities_of(ablation))]
    questions = (Question(Patch(2, 2), RULE, kind) for kind in ("margin", "exact"))
    assert torch.equal(*(weak_spots.of_votes(ablation, question, chunks) for question in questions))


@pytest.mark.parametrize("patch", PATCHES, ids=str)
@pytest.mark.parametrize("ablation", [Band(3, 7, 2), BandAndRow(5, 6, 2), Block(3, 4, 2)], ids=str)
def test_scores_are_weak_where_the_definition_says(ablation, patch):
    masking = DoubleMasking(ablation, patch)
    scores = probabilities_of(ablation, count=4).mul(64).round()  # whole numbers, whose sums are exact
    winner = masking.predict(scores)
    found = weak_spots.of_scores(ablation, masking, patch, 1, winner, scores)
    places = ablation.touched_by(patch)
    for image, own, leads in zip(scores, winner.tolist(), found.flatten(1), strict=True):
        assert own == oracle.double_masked(image, places)
        for place, spot in zip(places, leads.tolist(), strict=True):
            sums = [image[~(place | other)].sum(dim=0) for other in places]
            assert spot == min(float(s[own] - s[c]) for s, c in product(sums, range(3)) if c != own)


@pytest.mark.parametrize("patches", [1, 2])
@pytest.mark.parametrize("ablation", [Band(2, 16, 1), BandAndRow(7, 8, 1)], ids=str)
def test_the_least_score_over_the_places_is_the_lead_that_is_certified(ablation, patches):
    patch, scores = Patch(1, 2), probabilities_of(ablation)
    masking = DoubleMasking(ablation, patch, patches)
    verdicts = masking.verdicts(scores, Margin(0.3))
    found = weak_spots.of_scores(ablation, masking, patch, patches, verdicts.predicted, scores)
    assert torch.equal(found.flatten(1).amin(dim=1), verdicts.lead)
    assert torch.equal((found > 0.3).flatten(1).all(dim=1), verdicts.certified)
    assert verdicts.certified.any() and not verdicts.certified.all()
