"""Alarms of added scores, of bands, windows and both: against the definition and against everything a patch can do."""

from itertools import combinations_with_replacement, product

import pytest
import torch

from patchcert.ablations.ablation import Band, BandAndRow, Block
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.classifiers import weak_spots
from patchcert.errors import UsageError
from patchcert.masking import score_alarms
from patchcert.masking.alarms import ALARM
from patchcert.masking.linked import masking_of
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.patch_sizes import Area
from tests.test_linked import sums_by_hand
from tests.test_masking import random_scores

CASES = [
    (Band(4, 6, 2), Patch(2, 1)),
    (BandAndRow(4, 5, 1), Patch(1, 2)),
    (Block(3, 4, 2), Patch(1, 1)),
    (WindowPairs(6, 6, 4, 3), Patch(2, 2)),
    (BandsAndWindows(5, 6, 2, 4, 2), Patch(2, 3)),
]
RULES = [None, 0.0, 0.4, 0.6]
HUGE = 1e6
MARGIN = Margin(0.1, 2.0**-10)


def scores_of(ablation, count, classes, seed, at_once):
    """(N, A, K), more and more of class 1 where there are two patches, which leave less."""
    scores = random_scores(count, ablation.count, classes, seed)
    scores[..., 1] += torch.linspace(0, 6, count)[:, None] * (at_once == 2)
    return scores


def answers(ablation, patch, scores, at_once=1):
    """(P, K): what each place, or each pair of places, leaves of the scores (A, K) of one image."""
    if isinstance(ablation, BandsAndWindows):
        sums = sums_by_hand(ablation, patch, scores[None])[:, :, 0]
        return sums.diagonal().T if at_once == 1 else sums.flatten(0, 1)
    if isinstance(ablation, WindowPairs):
        return scores[-(ablation.side**2) if at_once == 1 else 0 :].double()
    places = combinations_with_replacement(ablation.touched_by(patch).unique(dim=0), at_once)
    return torch.stack([scores[~torch.stack(hit).any(dim=0)].double().sum(0) for hit in places])


def alarms(masking, scores, whole=None, margin=MARGIN, at_once=1):
    whole = scores.sum(dim=1).argmax(dim=1) if whole is None else whole
    return score_alarms.of_scores(masking, scores, margin, scores.abs().amax(dim=2), whole, at_once)


def by_rule(found, threshold, margin=MARGIN):
    return found.strict(margin.numerical) if threshold is None else found.by_confidence(threshold, margin.numerical)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize(("ablation", "patch"), CASES)
def test_outputs_are_those_of_the_definition(ablation, patch, at_once):
    masking, scores = masking_of(ablation, patch), scores_of(ablation, 60, 3, 1, at_once)
    scores += torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) / 50  # without ties
    found, whole = alarms(masking, scores, at_once=at_once), scores.sum(dim=1).argmax(dim=1).tolist()
    left_by_hand = [answers(ablation, patch, own, at_once) for own in scores]
    for threshold in RULES:
        output, certified = by_rule(found, threshold)
        for number, left in enumerate(left_by_hand):
            classes, confidences = left.argmax(dim=1), (masking.temperature * left).softmax(dim=1).amax(dim=1)
            if threshold is None:
                wanted = int(classes[0]) if (classes == classes[0]).all() else ALARM
            else:
                against = (classes != whole[number]) & (confidences > threshold)
                wanted = ALARM if against.any() else whole[number]
                assert not certified[number] or (confidences > threshold).all()
            assert output[number] == wanted
            assert not certified[number] or (classes == wanted).all()
        assert 0 < certified.sum() < 60 and ((output == ALARM).any() or threshold)


@pytest.mark.parametrize(("ablation", "patch"), CASES)
def test_weak_spots_are_the_leads_that_places_leave(ablation, patch):
    masking, scores = masking_of(ablation, patch), random_scores(60, ablation.count, 3, seed=1)
    found = alarms(masking, scores, margin=Margin(0.0))
    agreed = found.agreed != ALARM
    winner = found.agreed.where(agreed, 0)
    spots = weak_spots.of_scores(ablation, masking, patch, 1, winner, scores, alone=True)
    assert 2 < int(agreed.sum()) < 60
    torch.testing.assert_close(spots.flatten(1).amin(dim=1)[agreed], found.lead[agreed])
    for own, lead, y in zip(scores, spots.flatten(1), winner.tolist(), strict=True):
        left = answers_at(ablation, patch, own)
        rivals = left.clone()
        rivals[:, y] = -torch.inf
        torch.testing.assert_close(lead, left[:, y] - rivals.amax(dim=1))


def answers_at(ablation, patch, scores):
    """(L, K): what is left of the scores (A, K) of one image with the patch at each place."""
    if isinstance(ablation, WindowPairs):
        rows, columns = ablation.holding(patch)
        return scores[-(ablation.side**2) :].double()[(rows[:, None] * ablation.side + columns).flatten()]
    if isinstance(ablation, BandsAndWindows):
        return answers(ablation, patch, scores)
    return torch.stack([scores[~place].double().sum(0) for place in ablation.touched_by(patch)])


def forged(scores, touched, generator):
    """Some scores (N, V, A, K) that differ from those of images (N, A, K) in the `touched` (A,) copies alone."""
    values = torch.tensor([-HUGE, -3.0, 0.0, 3.0, HUGE])
    count, _, classes = scores.shape
    wished = values[torch.randint(5, (count, 12, int(touched.sum()), classes), generator=generator)]
    wished[:, :classes] = (HUGE * (2 * torch.eye(classes) - 1))[:, None]
    attacked = scores[:, None].repeat(1, 12, 1, 1)
    attacked[:, :, touched] = wished
    return attacked


def flips(ablation, patch, scores, outputs, patches=1):
    """How often an adversary gets another class than the first of `outputs` (N,) without an alarm."""
    generator, places, flipped = torch.Generator().manual_seed(3), ablation.touched_by(patch).unique(dim=0), 0
    clean, _ = outputs(scores)
    for hit in combinations_with_replacement(range(len(places)), patches):
        attacked = forged(scores, places[list(hit)].any(dim=0), generator)
        found = outputs(attacked.flatten(0, 1), attacked=True)[0].view(len(scores), -1)
        flipped += int(((found != clean[:, None]) & (found != ALARM)).sum())
    return flipped


def against(masking, threshold, at_once=1):
    def outputs(scores, attacked=False):
        whole = torch.arange(len(scores)) % scores.shape[2]  # which the patch is in
        return by_rule(alarms(masking, scores, whole if attacked else None, at_once=at_once), threshold)

    return outputs


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("threshold", [None, 0.6])  # of two classes one always has 0.5
@pytest.mark.parametrize(("ablation", "patch"), CASES)
def test_no_adversary_gets_a_wrong_class_without_an_alarm(ablation, patch, threshold, at_once):
    masking, scores = masking_of(ablation, patch), scores_of(ablation, 24, 2, 5, at_once)
    outputs = against(masking, threshold, at_once)
    _, certified = outputs(scores)
    assert 2 < certified.sum() < 24 and flips(ablation, patch, scores[certified], outputs, at_once) == 0
    fallen = flips(ablation, patch, scores[~certified], outputs, at_once)
    assert fallen > 0 or threshold is None  # else they raise alarms


@pytest.mark.parametrize("threshold", [None, 0.6])
@pytest.mark.parametrize(("ablation", "patch"), CASES)
def test_certificates_of_single_places_are_told_by_two_patches(ablation, patch, threshold):
    masking, scores = masking_of(ablation, patch), scores_of(ablation, 24, 2, 5, at_once=2)
    singles, pairs = (against(masking, threshold, at_once) for at_once in (1, 2))
    proven = singles(scores)[1]
    assert flips(ablation, patch, scores[proven], singles, patches=2) > 0, "outputs of single places"
    assert flips(ablation, patch, scores[pairs(scores)[1]], singles, patches=2) > 0, "the same, certified by pairs"
    assert pairs(scores)[1].sum() < proven.sum()


AREAS = [(BandAndRow(5, 4, 1), Area(2)), (Band(4, 9, 2), Area(2)), (WindowPairs(6, 6, 4, 3), Area(2))]


@pytest.mark.parametrize(("ablation", "patch"), [*CASES, *AREAS])
def test_strict_alarms_of_two_patches_are_those_of_double_masking(ablation, patch, monkeypatch):
    masking, scores = masking_of(ablation, patch), scores_of(ablation, 80, 3, 8, at_once=2)
    scores[::3] *= 4
    found = alarms(masking, scores, at_once=2)
    output, certified = found.strict(MARGIN.numerical)
    verdicts = masking.verdicts(scores, MARGIN)
    assert 2 < certified.sum() < 80 and certified.equal(verdicts.certified)
    kept = certified | (output == ALARM)  # ties between classes go to the lower one
    assert output[kept].equal(verdicts.unanimous()[kept])
    leads = alarms(masking, scores, margin=Margin(0.0), at_once=2).lead
    torch.testing.assert_close(leads[certified], verdicts.lead[certified])
    monkeypatch.setattr(score_alarms, "BYTES_AT_ONCE", 5000)
    in_parts = alarms(masking, scores, at_once=2)
    for name in ("agreed", "whole", "contradiction", "lead", "certain"):
        assert getattr(in_parts, name).equal(getattr(found, name)), "however many are looked at together"


def test_pairs_of_places_are_counted_before_they_are_looked_at():
    score_alarms.require_few_places(masking_of(BandAndRow(32, 32, 4), Patch(1)))
    with pytest.raises(UsageError, match=r"patches 2: there are 1280800 pairs of places here, and .* at most 1048576"):
        score_alarms.require_few_places(masking_of(BandAndRow(40, 40, 4), Patch(1)))


@pytest.mark.parametrize(("ablation", "patch"), CASES[:2] + CASES[3:])
def test_two_patches_are_hidden_by_pairs_of_places(ablation, patch):
    masking, scores = masking_of(ablation, patch), random_scores(16, ablation.count, 2, seed=6)
    scores[::2, :, 1] += 2

    def outputs(given, attacked=False):
        verdicts = masking.verdicts(given, MARGIN)
        return verdicts.unanimous(), verdicts.certified

    output, certified = outputs(scores)
    assert 2 < certified.sum() < 16 and (output == ALARM).any()
    assert flips(ablation, patch, scores[certified], outputs, patches=2) == 0


def test_certificates_of_the_whole_image_or_of_other_places_are_told():
    ablation, patch = CASES[0]
    masking, scores = masking_of(ablation, patch), random_scores(24, ablation.count, 2, seed=5)
    for broken in (lambda f, s: f.whole, lambda f, s: s[:, :3].sum(dim=1).argmax(dim=1)):

        def outputs(given, attacked=False, broken=broken):
            whole = torch.zeros(len(given), dtype=torch.int64)
            return broken(alarms(masking, given, whole if attacked else None), given), None

        assert flips(ablation, patch, scores, outputs) > 0


@pytest.mark.parametrize("threshold", RULES)
def test_no_rounding_with_a_patch_makes_another_class_of_what_is_narrowly_certified(threshold):
    """Scores whose leads, or confidences, are just enough, moved by as much as the margin is made for."""
    ablation, patch = CASES[0]
    masking, places = masking_of(ablation, patch), ablation.touched_by(patch).unique(dim=0)
    generator, scores = torch.Generator().manual_seed(7), torch.zeros(400, ablation.count, 2)
    scores[..., 1] = torch.linspace(0, 4, 400)[:, None] + torch.rand(400, ablation.count, generator=generator) / 50
    scores[..., 0] = 8 * torch.rand(400, 1, generator=generator)  # as loud as its margin says
    scores[..., 1] += scores[..., 0]
    found = alarms(masking, scores)
    _, certified = by_rule(found, threshold)
    assert certified.any() and not certified.all()

    def moved(own, touched, size):
        """The same, with rounding to the harm of class 1, and the patch against it."""
        rounded = own + torch.tensor([1.0, -1.0]) * size / 2 * (
            MARGIN.relative * own.abs().amax(dim=1, keepdim=True) + MARGIN.numerical / int((~touched).sum())
        )
        rounded[touched] = torch.tensor([HUGE, -HUGE])
        return rounded

    def wrong(chosen, size):
        hits = [(image, place) for image, place in product(chosen.nonzero().flatten().tolist(), places)]
        attacked = torch.stack([moved(scores[image], place, size) for image, place in hits])
        output, _ = by_rule(alarms(masking, attacked, torch.zeros(len(hits), dtype=torch.int64)), threshold)
        return int((output == 0).sum())

    assert wrong(certified, 0.999) == 0
    narrowly = ~certified & (found.agreed == 1)
    assert threshold is not None or wrong(narrowly, 0.0) == 0  # the patch alone flips nothing by the strict rule
    assert wrong(narrowly, 0.999) > 0
