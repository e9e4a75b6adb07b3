"""Double masking against its definition, and against everything that an adversary can do to scores in small cases."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from patchcert.ablations.ablation import Band, BandAndRow, Block, Row
from patchcert.ablations.windows import WindowPairs
from patchcert.arithmetic import NUMERICAL_MARGINS, RELATIVE_MARGINS
from patchcert.errors import UsageError
from patchcert.masking.double_masking import DoubleMasking, beats_all
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.training.objectives import WorstPair, generalised_cross_entropy
from patchcert.votes.certificate import Certifier, Question
from patchcert.votes.rules import ThresholdVote, TopOneVote
from tests import oracle

HUGE = 1e30


def certified(masking, scores, numerical_margin=0.0):
    winner, leads = masking.predict_and_lead(scores)
    return winner, beats_all(leads, winner, numerical_margin)


def close_decisions(masking, scores, margin):
    """The scores (N, A, K), class 1 raised or lowered until by `masking` it leads by up to two margins at the worst."""
    rivals = [rival for rival in range(scores.shape[2]) if rival != 1]
    winner, wanted = torch.ones(len(scores), dtype=torch.int64), torch.linspace(0.01, 2, len(scores)).double()
    most = 10 * scores.abs().amax(dim=(1, 2)).double() + 1
    raised = torch.stack([-most, most])
    for _ in range(80):
        middle, tried = raised.mean(dim=0), scores.double().clone()
        tried[..., 1] += middle[:, None]
        lead = masking._worst_leads(winner, masking._sums(tried))[:, rivals].amin(dim=1)
        added = masking._sums(tried.abs().amax(dim=2, keepdim=True))
        needed = margin.numerical + margin.relative * sum(family.amax(dim=(1, 2)) for family in added)
        raised[(lead > wanted * needed).long(), torch.arange(len(scores))] = middle
    tried[..., 1] = scores[..., 1] + raised[1][:, None]
    return tried


def flipped_by_rounding_and_a_patch(masking, ablation, patch, scores, margin):
    """(N,) bool: whether some patch flips class 1, where rounding takes as much of every lead as the margin is for."""
    share = margin.numerical / ablation.count + margin.relative * scores.abs().amax(dim=2)
    flipped = torch.zeros(len(scores), dtype=torch.bool)
    for place, rival in product(ablation.touched_by(patch).unique(dim=0), range(scores.shape[2])):
        attacked = scores.clone()
        attacked[..., 1] -= share / 2
        attacked[..., rival] += share / 2
        attacked[:, place] = -HUGE
        attacked[:, place, rival] = HUGE
        flipped |= (masking.predict(attacked) != 1) & (rival != 1)
    return flipped


def random_scores(count, copies, classes, seed):
    """(N, A, K) small whole numbers, of which about half have a class that nearly all copies prefer."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-2, 3, (count, copies, classes), generator=generator).float()
    scores[::2, :, 1] += 3
    return scores


@pytest.mark.parametrize("patch", [Patch(1, 1), Patch(2, 3)])
@pytest.mark.parametrize("ablation", [Band(4, 6, 2), BandAndRow(5, 6, 2), Block(3, 4, 2), WindowPairs(5, 6, 4, 3)])
def test_prediction_and_leads_are_those_of_the_definition(ablation, patch):
    masking = DoubleMasking(ablation, patch)
    scores = random_scores(60, ablation.count, 3, seed=0)
    winner, leads = masking.predict_and_lead(scores)
    assert torch.equal(masking.predict(scores), winner)
    every_place = ablation.touched_by(patch).unique(dim=0)
    for image, together in enumerate(scores):
        assert winner[image] == oracle.double_masked(together, every_place)
        sums = [together[~(first | second)].sum(0) for first, second in product(every_place, repeat=2)]
        assert torch.equal(leads[image], torch.stack([s[winner[image]] - s for s in sums]).amin(0).double())


def test_touched_sets_are_the_windows():
    (sets,) = DoubleMasking(Band(28, 28, 4), Patch(5, 5)).touched
    assert len(sets) == 28 - 5 + 1 and set(sets.sum(dim=1).tolist()) == {5 + 4 - 1}
    columns, rows = DoubleMasking(BandAndRow(28, 30, 4), Patch(2, 5)).touched
    assert columns.shape == (30 - 5 + 1, 30) and rows.shape == (28 - 2 + 1, 28)


@pytest.mark.parametrize("chosen", [slice(0, None, 2), slice(1, None, 3)])
def test_of_chosen_copies_the_touched_sets_are_restricted_to_them(chosen):
    every, some = (DoubleMasking(BandAndRow(8, 9, 2), Patch(2, 3), chosen=c) for c in (slice(None), chosen))
    for sets, restricted in zip(every.touched, some.touched, strict=True):
        assert torch.equal(sets[:, chosen].unique(dim=0), restricted)


def test_training_on_some_bands_lowers_the_loss_of_their_worst_pair_as_often_as_they_stand_for_others():
    ablation, labels = BandAndRow(6, 8, 2), torch.tensor([0, 2, 1])
    scores = random_scores(3, 14, 3, seed=1)

    def network(images, chosen):
        return torch.cat([family[:, chosen] for family in scores.split([8, 6], dim=1)], dim=1)

    objective, images = WorstPair(ablation, Patch(1, 2), band_weight=0.5, stride=2), torch.zeros(3, 1, 6, 8)
    found, wanted = set(), []
    for seed in range(8):
        found.add(objective.loss(network, images, labels, torch.Generator().manual_seed(seed))[0].item())
    for chosen in (slice(0, None, 2), slice(1, None, 2)):
        leads = DoubleMasking(ablation, Patch(1, 2), chosen=chosen).worst_leads(labels, network(images, chosen))
        of_bands = cross_entropy(network(images, chosen).flatten(0, 1), labels.repeat_interleave(7))
        wanted.append((cross_entropy(-2 * leads / 8, labels) + of_bands / 2).item())
    assert sorted(found) == pytest.approx(sorted(wanted))


@pytest.mark.parametrize("power", [1e-4, 0.3, 1.0])
def test_the_generalised_cross_entropy_is_that_of_probabilities(power):
    logits = (4 * random_scores(5, 1, 3, seed=2)[:, 0]).double().requires_grad_()
    labels = torch.tensor([0, 1, 2, 1, 0])
    probabilities = logits.softmax(1)[torch.arange(5), labels]
    loss = generalised_cross_entropy(logits, labels, power)
    assert loss.item() == pytest.approx(((1 - probabilities**power) / power).mean().item(), rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, logits)
    plain = torch.autograd.grad(cross_entropy(logits, labels), logits)[0]
    assert torch.allclose(gradient, plain * probabilities[:, None].detach() ** power)


def test_the_generalised_cross_entropy_of_power_0_is_cross_entropy_and_a_hopeless_image_is_no_infinity():
    logits, labels = torch.tensor([[0.0, 2000.0], [1.0, 0.0]], requires_grad=True), torch.tensor([0, 0])
    assert torch.equal(generalised_cross_entropy(logits, labels, 0.0), cross_entropy(logits, labels))
    loss = generalised_cross_entropy(logits, labels, 0.5)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and logits.grad[0].abs().max() == 0 < logits.grad[1, 1]


def test_training_weighs_the_worst_pair_by_the_power_that_is_asked_for():
    ablation, labels, scores = BandAndRow(4, 4, 1), torch.tensor([0, 2, 1]), random_scores(3, 8, 3, seed=1)
    masking, images, generator = DoubleMasking(ablation, Patch(1, 2)), torch.zeros(3, 1, 4, 4), torch.Generator()
    for power in (0.0, 0.7):
        objective = WorstPair(ablation, Patch(1, 2), band_weight=0.0, power=power)
        loss, _ = objective.loss(lambda images, chosen: scores, images, labels, generator)
        leads = masking.worst_leads(labels, scores)
        assert loss.item() == pytest.approx(generalised_cross_entropy(-leads / 8, labels, power).item())


def test_leads_to_train_on_are_those_of_the_certificate():
    masking = DoubleMasking(BandAndRow(5, 6, 2), Patch(2, 1))
    scores = random_scores(60, 11, 3, seed=0)
    winner, leads = masking.predict_and_lead(scores)
    assert torch.equal(masking.worst_leads(winner, scores).double(), leads)


@pytest.mark.parametrize("ablation", [Band(4, 4, 1), Band(4, 6, 2), BandAndRow(3, 4, 1), WindowPairs(3, 4, 2, 2)])
def test_no_adversary_flips_what_is_certified(ablation):
    """All assignments of values, huge ones among them, to the scores of the copies touched at each place.

    Where these are too many, all assignments of huge values, and others at random.
    """
    masking, values = DoubleMasking(ablation, Patch(1, 1)), torch.tensor([-HUGE, 0.0, 1.0, HUGE])
    generator = torch.Generator().manual_seed(0)
    scores = random_scores(40, ablation.count, 2, seed=5)
    winner, proven = certified(masking, scores)
    assert 5 < proven.sum() < 40
    for image in proven.nonzero().flatten():
        clean = scores[image]
        for place in ablation.touched_by(Patch(1, 1)).unique(dim=0):
            hit = place.nonzero().flatten()
            few = len(hit) < 5
            forged = torch.cartesian_prod(*[values if few else values[::3]] * (2 * len(hit)))
            if not few:
                others = torch.randint(4, (5_000, forged.shape[1]), generator=generator)
                forged = torch.cat([forged, values[others]])
            attacked = clean.repeat(len(forged), 1, 1)
            attacked[:, hit] = forged.view(-1, len(hit), 2)
            assert (masking.predict(attacked) == winner[image]).all()


def test_an_adversary_flips_something_that_is_not_certified():
    masking = DoubleMasking(Band(4, 4, 1), Patch(1, 1))
    scores = random_scores(40, 4, 2, seed=5)
    winner, proven = certified(masking, scores)
    flipped = torch.zeros(40, dtype=torch.bool)
    for place, values in product(masking.touched[0], product((-HUGE, HUGE), repeat=2)):
        attacked = scores.where(~place[:, None], torch.tensor(values))
        flipped |= masking.predict(attacked) != winner
    assert flipped.any() and not (flipped & proven).any()


@given(st.data())
def test_no_random_adversary_flips_what_is_certified(data):
    width, size = data.draw(st.integers(3, 7)), data.draw(st.integers(1, 2))
    ablation = data.draw(st.sampled_from([Band, Row, BandAndRow]))(5, width, size)
    patch = Patch(data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    scores = torch.randn(1, ablation.count, 3, generator=generator)
    scores[..., 2] += data.draw(st.floats(-4, 4, width=32))
    masking = DoubleMasking(ablation, patch)
    winner, proven = certified(masking, scores, numerical_margin=1e-6)
    touched = ablation.touched_by(patch)
    place = touched[data.draw(st.integers(0, len(touched) - 1))]
    forged = torch.randn(scores.shape, generator=generator) * 10.0 ** data.draw(st.integers(-2, 30))
    assert not proven or masking.predict(torch.where(place[:, None], forged, scores)) == winner


def test_two_patches_mask_two_places_each():
    masking = DoubleMasking(Band(4, 5, 1), Patch(1, 1), patches=2)
    scores = random_scores(40, 5, 2, seed=1)
    scores[::2, :, 1] += 2
    winner, proven = certified(masking, scores)
    assert set(masking.touched[0].sum(dim=1).tolist()) == {2} and 3 < proven.sum() < 40
    for place in masking.touched[0]:
        for values in product((-HUGE, HUGE), repeat=4):
            attacked = scores.clone()
            attacked[:, place] = torch.tensor(values).view(2, 2)
            assert (masking.predict(attacked) == winner)[proven].all()


@pytest.mark.parametrize("rule", [ThresholdVote(0.3), TopOneVote()])
def test_masking_of_votes_certifies_all_that_exact_does(rule):
    ablation = Band(12, 12, 2)
    probabilities = torch.randn(400, 12, 4, generator=torch.Generator().manual_seed(0)) * 2
    probabilities[..., 1] += torch.linspace(0, 4, 400)[:, None]
    probabilities = probabilities.softmax(dim=2)
    questions = [Question(Patch(2, 2), rule, kind) for kind in ("exact", "masking")]
    exact, masked = Certifier(ablation, questions)([(torch.arange(12), probabilities)])
    assert 20 < exact.certified.sum() < masked.certified.sum() < 400
    assert masked.certified[exact.certified].all()
    assert torch.equal(masked.predicted[exact.certified], exact.predicted[exact.certified])


def test_leads_to_train_on_keep_their_digits_under_autocast():
    masking = DoubleMasking(BandAndRow(8, 8, 2), Patch(1, 1))
    scores, labels = 9 * torch.randn(20, 16, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    plain = masking.worst_leads(labels, scores)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(masking.worst_leads(labels, scores), plain)


@pytest.mark.parametrize("size", [1, 2])
def test_no_ballots_flip_votes_that_masking_certifies(size):
    """Every choice of ballots for the copies touched at each place, against the prediction of masking itself."""
    ablation, patch, rule = Band(3, 6, size), Patch(1, 1), ThresholdVote(0.5)
    certifier, every = Certifier(ablation, [Question(patch, rule, "masking")]), torch.arange(6)
    votes = torch.randint(2, (60, 6, 2), generator=torch.Generator().manual_seed(size)).float()
    votes[::2, :, 1] = (votes[::2, :, 1] + 1).clamp_max(1)
    (clean,) = certifier([(every, votes)])
    assert 5 < clean.certified.sum() < 60
    for image in clean.certified.nonzero().flatten():
        for place in ablation.touched_by(patch).unique(dim=0):
            ballots = torch.tensor(list(product((0.0, 1.0), repeat=2 * size))).view(-1, size, 2)
            attacked = votes[image].repeat(len(ballots), 1, 1)
            attacked[:, place] = ballots
            (after,) = certifier([(every, attacked)])
            assert (after.predicted == clean.predicted[image]).all()


def test_the_numerical_margin_covers_rounding_in_both_directions():
    masking = DoubleMasking(Band(4, 6, 1), Patch(1, 1))
    scores = torch.zeros(1, 6, 2)
    scores[..., 1] = 1e-4  # at worst four copies are left, a lead of 4e-4
    assert certified(masking, scores)[1]
    assert certified(masking, scores, 3.9e-4)[1] and not certified(masking, scores, 4.1e-4)[1]


@pytest.mark.parametrize(("size", "holds"), [(10.0, True), (1e5, False)])
def test_a_lead_that_the_last_digits_of_large_scores_undo_is_not_certified(size, holds):
    masking = DoubleMasking(Band(4, 6, 1), Patch(1, 1))
    scores = torch.full((1, 6, 2), size)
    scores[..., 1] += 1 / 128  # a unit in the last place of 10⁵
    verdict = masking.verdicts(scores, Margin.of_scores(1e-3, "float32"))
    assert verdict.predicted == 1 and verdict.lead == 4 / 128
    assert bool(verdict.certified) is holds and bool(verdict.within_margin) is not holds
    if not holds:
        assert masking.predict(torch.nextafter(scores, scores.flip(2))) == 0


@pytest.mark.parametrize("arithmetic", RELATIVE_MARGINS)
@pytest.mark.parametrize("ablation", [Band(4, 8, 2), BandAndRow(4, 5, 1), WindowPairs(5, 6, 4, 2)])
def test_no_rounding_with_a_patch_flips_what_is_narrowly_certified(ablation, arithmetic):
    masking, margin = DoubleMasking(ablation, Patch(1, 2)), Margin.of_scores(1e-3, arithmetic)
    scores = torch.randn(40, ablation.count, 3, generator=torch.Generator().manual_seed(3))
    scores = close_decisions(masking, 1e4 * scores, margin)
    proven = masking.verdicts(scores, margin).certified
    flipped = flipped_by_rounding_and_a_patch(masking, ablation, Patch(1, 2), scores, margin)
    assert proven[-20:].all() and not (proven & flipped).any()
    assert (masking.verdicts(scores, Margin(margin.numerical)).certified & flipped).any()


def test_scores_whose_leads_overflow_are_not_certified_where_there_is_a_rival():
    masking = DoubleMasking(Band(4, 6, 1), Patch(1, 1))
    scores = torch.full((1, 6, 2), 3e307, dtype=torch.float64)
    scores[..., 0] *= -1
    verdict = masking.verdicts(scores, Margin.of_scores(1e-3, "float32"))
    assert verdict.predicted == 1 and verdict.lead == torch.inf and not verdict.certified
    assert masking.verdicts(scores / 10, Margin.of_scores(1e-3, "float32")).certified
    alone = masking.verdicts(scores[..., 1:], Margin(1e-3))
    assert alone.lead == torch.inf and alone.certified


@pytest.mark.parametrize("lead", [float("nan"), float("inf"), float("-inf")])
def test_no_lead_without_end_beats_a_rival(lead):
    for margin in (0.0, 1e-3):
        assert not beats_all(torch.tensor([[0.0, lead, 1.0]]), torch.tensor([0]), margin)


def test_scores_of_other_copies_are_refused():
    with pytest.raises(ValueError, match=r"scores are \(2, 7, 3\), expected \(images, 6 copies, classes\)"):
        DoubleMasking(Band(4, 6, 1), Patch(1, 1)).predict(torch.zeros(2, 7, 3))


def test_too_many_pairs_of_places_are_refused():
    with pytest.raises(UsageError, match="331776 pairs of places"):
        DoubleMasking(Block(28, 28, 4), Patch(5, 5))


def test_ties_are_certified_for_the_lower_class_only():
    masking = DoubleMasking(Band(4, 6, 1), Patch(1, 1))
    winner, proven = certified(masking, torch.zeros(1, 6, 3))
    assert winner == 0 and proven
    leads = torch.tensor([[0.0, 0.0, 1.0]])
    assert not beats_all(leads, torch.tensor([1])) and beats_all(leads, torch.tensor([0]))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(wrong):
    scores = torch.zeros(2, 6, 3)
    scores[1, 2, 0] = wrong
    with pytest.raises(FloatingPointError, match="not finite"):
        DoubleMasking(Band(4, 6, 1), Patch(1, 1)).predict(scores)


def test_large_batches_are_divided(monkeypatch):
    masking = DoubleMasking(BandAndRow(4, 6, 2), Patch(2, 2))
    scores = random_scores(50, 10, 3, seed=0)
    whole = masking.predict_and_lead(scores)
    monkeypatch.setattr("patchcert.masking.double_masking.BYTES_AT_ONCE", 1)
    assert all(map(torch.equal, masking.predict_and_lead(scores), whole))


def test_every_arithmetic_has_both_margins():
    assert NUMERICAL_MARGINS.keys() == RELATIVE_MARGINS.keys()
