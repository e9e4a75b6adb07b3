"""Every rectangle of an area, for votes and for added scores: shape by shape, and against all that a patch can do."""

import json
from itertools import product

import pytest
import torch

from patchcert.ablations.ablation import Band, BandAndRow, Block, Row
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.errors import UsageError
from patchcert.masking import any_shape
from patchcert.masking.any_shape import ShapesMasking
from patchcert.masking.double_masking import DoubleMasking, beats_all
from patchcert.masking.linked import masking_of
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.patch_sizes import Area, shapes
from patchcert.votes.certificate import Certifier, Question
from patchcert.votes.rules import ThresholdVote, TopOneVote
from tests import oracle
from tests.test_masking import random_scores

ABLATIONS = [Band(4, 15, 2), Row(11, 4, 1), Block(5, 5, 2), BandAndRow(6, 7, 1)]
HUGE = 1e6


def rectangles(ablation, area):
    """All of them, not only those that fit into no other."""
    sides = product(range(1, ablation.height + 1), range(1, ablation.width + 1))
    return [Patch(rows, columns) for rows, columns in sides if rows * columns <= area]


def touched(ablation, of_shapes):
    return torch.cat([ablation.touched_by(shape) for shape in of_shapes]).unique(dim=0)


def probabilities(ablation, count=80):
    scores = 2 * torch.randn(count, ablation.count, 3, generator=torch.Generator().manual_seed(0))
    scores[..., 1] += torch.linspace(0, 6, count)[:, None]
    return scores.softmax(dim=2)


@pytest.mark.parametrize("certificate", ["margin", "exact"])
@pytest.mark.parametrize("rule", [ThresholdVote(0.4), TopOneVote()])
@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_votes_are_certified_where_they_are_for_each_rectangle(ablation, rule, certificate):
    questions = [Question(patch, rule, certificate) for patch in (Area(4), *rectangles(ablation, 4))]
    together, *each = Certifier(ablation, questions)([(torch.arange(ablation.count), probabilities(ablation))])
    assert torch.equal(together.certified, torch.stack([one.certified for one in each]).all(dim=0))
    assert 0 < together.certified.sum() < 80
    two = [Question(patch, rule, certificate, patches=2) for patch in (Area(2), *rectangles(ablation, 2))]
    together, *each = Certifier(ablation, two)([(torch.arange(ablation.count), probabilities(ablation))])
    assert (together.certified <= torch.stack([one.certified for one in each]).all(dim=0)).all()


def test_no_ballots_of_two_patches_of_any_shape_flip_what_is_certified():
    """Two patches of different shapes, too, which no question about one shape looks at."""
    ablation, rule = Band(3, 12, 1), ThresholdVote(0.5)
    votes = torch.randint(2, (60, 12, 2), generator=torch.Generator().manual_seed(1)).float()
    votes[..., 1] = (votes[..., 1] + (torch.arange(60) % 3 > 0)[:, None]).clamp_max(1)
    (clean,) = Certifier(ablation, [Question(Area(2), rule, "exact", patches=2)])([(torch.arange(12), votes)])
    assert 3 < clean.certified.sum() < 60
    places, flipped = touched(ablation, rectangles(ablation, 2)), torch.zeros(60, dtype=torch.bool)
    for first, second in product(places, repeat=2):
        attacked = votes.where(~(first | second)[:, None], torch.tensor([1.0, 0.0]))
        flipped |= attacked.sum(dim=1).argmax(dim=1) != clean.predicted
    assert flipped[clean.predicted == 1].any() and not (flipped & clean.certified).any()


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_predictions_and_leads_are_those_of_the_definition(ablation):
    masking, scores = masking_of(ablation, Area(4)), random_scores(24, ablation.count, 3, seed=0)
    winner, leads = masking.predict_and_lead(scores)
    places = touched(ablation, shapes(Area(4), ablation.height, ablation.width))
    for image, own in enumerate(scores):
        assert winner[image] == oracle.double_masked(own, places)
        sums = torch.einsum("pqa,ak->pqk", (~(places[:, None] | places)).double(), own.double()).flatten(0, 1)
        assert torch.equal(leads[image], (sums[:, winner[image], None] - sums).amin(dim=0))
    left = masking.left_by_one(scores.double())
    assert sorted(left[0].tolist()) == sorted(((~places).double() @ scores[0].double()).tolist())


def flips(masking, ablation, scores, winner, area):
    """(N,) bool: which images some rectangle of the area makes another class."""
    flipped, generator = torch.zeros(len(scores), dtype=torch.bool), torch.Generator().manual_seed(3)
    values = torch.tensor([-HUGE, -3.0, 0.0, 3.0, HUGE])
    for place in touched(ablation, rectangles(ablation, area)):
        forged = values[torch.randint(5, (4, *scores.shape), generator=generator)]
        forged[0], forged[1] = torch.tensor([HUGE, -HUGE]), torch.tensor([-HUGE, HUGE])
        for wished in forged:
            flipped |= masking.predict(torch.where(place[:, None], wished, scores)) != winner
    return flipped


@pytest.mark.parametrize("ablation", [*ABLATIONS, WindowPairs(8, 8, 5, 3)], ids=str)
def test_no_rectangle_of_the_area_flips_what_is_certified(ablation):
    area = 2 if isinstance(ablation, WindowPairs) else 4
    masking, scores = masking_of(ablation, Area(area)), random_scores(30, ablation.count, 2, seed=5)
    scores[::2, :, 1] += 2
    verdicts = masking.verdicts(scores, Margin(0.0))
    assert 2 < verdicts.certified.sum() < 30
    flipped = flips(masking, ablation, scores, verdicts.predicted, area)
    assert flipped.any() and not (flipped & verdicts.certified).any()


class OneShapeAtATime(ShapesMasking):
    """Broken: pairs of places of one shape alone."""

    def _worst_leads(self, winner, sums):
        parts = [
            self._worst_of_shapes(
                self._worst_of_shapes(any_shape.ahead(winner, any_shape.paired(family)), of).transpose(1, 2), of
            )
            for family, of in zip(sums, self.shape_of, strict=True)
        ]
        return sum(parts).diagonal(dim1=1, dim2=2).amin(dim=2)


class SquaresAlone(ShapesMasking):
    """Broken: the one shape that is no wider than high."""

    def __init__(self, ablation, area):
        super().__init__(ablation, area)
        self.sets_at = [numbers[:3] for numbers in self.sets_at]


@pytest.mark.parametrize("broken", [OneShapeAtATime, SquaresAlone])
def test_certificates_that_forget_shapes_are_told(broken):
    ablation = BandAndRow(6, 7, 1)
    scores, masking = random_scores(30, ablation.count, 2, seed=0), broken(ablation, Area(4))
    winner, leads = masking.predict_and_lead(scores)
    right = masking if broken is SquaresAlone else masking_of(ablation, Area(4))
    assert (flips(right, ablation, scores, winner, 4) & beats_all(leads, winner)).any()


def test_two_shapes_of_columns_and_rows_are_not_mixed():
    """A wide rectangle touches many columns, a high one many rows, and none touches many of both."""
    ablation, scores = BandAndRow(12, 12, 1), torch.zeros(1, 24, 2)
    scores[..., 1] = 1
    scores[0, :8, 1] = -0.1
    assert masking_of(ablation, Area(6)).verdicts(scores, Margin(0.0)).certified
    assert not DoubleMasking(ablation, Area(6)).verdicts(scores, Margin(0.0)).certified


def test_areas_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="size_to_certify 1x5: expected at most 4 × 4 pixels"):
        masking_of(WindowPairs(8, 8, 5, 3), Area(5))
    with pytest.raises(UsageError, match="size_to_certify area:2: expected sizes such as 5 or 2x8"):
        masking_of(BandsAndWindows(8, 8, 2, 5, 3), Area(2))
    with pytest.raises(UsageError, match="patches 2: expected 1 for area:4; against two of them, make alarms the goal"):
        masking_of(BandAndRow(6, 7, 1), Area(4), 2)
    with pytest.raises(UsageError, match=r"patches of area:300 have \d+ pairs of places here, masking takes at most"):
        masking_of(BandAndRow(224, 224, 4), Area(300))
    assert json.dumps(Question(Area(4), TopOneVote(), "exact").as_json()["size_to_certify"]) == '"area:4"'
