"""Certificates against brute force: everything that an adversary can do to the votes, on cases small enough to try."""

from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcert.ablations.ablation import Band, Block, Row
from patchcert.ablations.choices import MultiBand, MultiBlock
from patchcert.errors import UsageError
from patchcert.patch import Patch
from patchcert.votes.certificate import Certifier, Question, predict, runner_up, safe_lead
from patchcert.votes.randomized import randomized_verdicts
from patchcert.votes.rules import ThresholdVote, TopOneVote


def winner(counts):
    """The definition: most votes, a tie to the lower index."""
    return min(range(len(counts)), key=lambda c: (-counts[c], c))


def can_be_flipped(votes, touched, ballots):
    """Whether, at some place, some choice of `ballots` by the touched ablations changes the winner; by trying all.

    votes: A lists of K zeros and ones; touched: L lists of A booleans.
    """
    before = winner([sum(column) for column in zip(*votes, strict=True)])
    for place in touched:
        kept = [vote for vote, hit in zip(votes, place, strict=True) if not hit]
        for forged in product(ballots, repeat=sum(place)):
            if winner([sum(column) for column in zip(*kept, *forged, strict=True)]) != before:
                return True
    return False


def exact_certified(votes, touched):
    """(N,) bool, for votes (N, A, K) and touched (L, A)."""
    untouched = torch.einsum("nak,la->nlk", votes.long(), (~touched).long())
    return (safe_lead(untouched, untouched, predict(votes.sum(1))) >= touched.sum(1)).all(1)


def margin_certified(counts, most_touched):
    """(N,) bool, for counts (N, K)."""
    return safe_lead(counts[:, None], counts[:, None], predict(counts))[:, 0] >= 2 * most_touched


def exact(votes, touched):
    return exact_certified(torch.tensor([votes]), torch.tensor(touched)).item()


ONE_OF_THREE = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]


@st.composite
def mostly_alike(draw, count):
    """So many votes for one of three classes each, most of them for the same."""
    favourite = draw(st.sampled_from(ONE_OF_THREE))
    vote = st.one_of(st.just(favourite), st.just(favourite), st.sampled_from(ONE_OF_THREE))
    return draw(st.lists(vote, min_size=count, max_size=count))


@st.composite
def small_cases(draw, top_one):
    """Votes of at most 7 ablations for at most 4 classes, and places that touch at most 3 (top-one: 4) of them."""
    classes, ablations = draw(st.integers(2, 4)), draw(st.integers(1, 7))
    if top_one:
        ballots = [tuple(int(c == k) for c in range(classes)) for k in range(classes)]
    else:
        classes = min(classes, 3)
        ballots = list(product((0, 1), repeat=classes))
    favourite = draw(st.sampled_from(ballots))
    votes = draw(
        st.lists(st.one_of(st.just(favourite), st.sampled_from(ballots)), min_size=ablations, max_size=ablations)
    )
    places = []
    for _ in range(draw(st.integers(1, 3))):
        hit = draw(st.sets(st.integers(0, ablations - 1), max_size=4 if top_one else 3))
        places.append([a in hit for a in range(ablations)])
    return votes, places, ballots


@pytest.mark.parametrize("top_one", [False, True])
def test_exact_is_what_brute_force_finds(top_one):
    seen = set()

    @settings(max_examples=300)
    @given(small_cases(top_one))
    def check(case):
        votes, touched, ballots = case
        certified = exact(votes, touched)
        seen.add(certified)
        assert certified == (not can_be_flipped(votes, touched, ballots))

    check()
    assert seen == {True, False}


@settings(max_examples=60)
@given(st.data())
def test_margin_is_never_flipped_and_implies_exact(data):
    """Real ablations of tiny images, every place of the patch."""
    ablation = data.draw(
        st.sampled_from([Band(4, 6, 2), Row(5, 4, 1), Block(3, 3, 1), MultiBand(4, 7, 2, 1), MultiBlock(4, 4, 2, 1)])
    )
    patch = Patch(data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2)))
    touched = ablation.touched_by(patch)
    if touched.sum(1).max() > 4:
        return
    votes = data.draw(mostly_alike(ablation.count))
    counts = torch.tensor([votes]).sum(1)
    if margin_certified(counts, ablation.most_touched(patch)).item():
        assert exact(votes, touched.tolist())
        assert not can_be_flipped(votes, touched.tolist(), ONE_OF_THREE)


@given(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=20), st.integers(1, 4))
def test_margin_is_the_papers_rule(rows, most_touched):
    certified = margin_certified(torch.tensor(rows), most_touched)
    for row, flag in zip(rows, certified.tolist(), strict=True):
        first = winner(row)
        second = min((c for c in range(4) if c != first), key=lambda c: (-row[c], c))
        lead = row[first] - row[second]
        assert flag == (lead > 2 * most_touched or (lead == 2 * most_touched and first < second))


def test_ties_go_to_the_lower_class():
    counts = torch.tensor([[3, 3, 1], [1, 3, 3], [2, 2, 2], [0, 0, 0]])
    assert predict(counts).tolist() == [0, 1, 0, 0]
    assert runner_up(counts, predict(counts)).tolist() == [1, 2, 1, 1]


def test_a_lead_of_exactly_twice_delta_is_enough_only_for_the_lower_class():
    assert margin_certified(torch.tensor([[6, 2], [2, 6], [7, 2], [2, 7]]), 2).tolist() == [True, False, True, True]


def test_exact_certifies_what_margin_leaves_out():
    votes = torch.tensor([[[1, 0], [1, 0], [1, 0], [0, 1]]], dtype=torch.bool)  # 3 : 1, Δ = 2
    touched = torch.tensor([[True, False, False, True]])  # at its one place the patch takes a vote from each
    assert not margin_certified(votes.sum(1), 2).item()
    assert exact_certified(votes, touched).item()


def test_votes_at_the_ends_of_the_threshold():
    p = torch.tensor([0.0, 0.2, 0.8, 1.0])
    assert ThresholdVote(0.0)(p).tolist() == [True] * 4
    assert ThresholdVote(0.2)(p).tolist() == [False, True, True, True]
    assert ThresholdVote(1.0)(p).tolist() == [False, False, False, True]
    assert not ThresholdVote(1.5)(p).any()


def test_without_votes_nothing_is_certified():
    certifier = Certifier(
        Band(3, 4, 1), [Question(Patch(1, 1), ThresholdVote(2.0), kind) for kind in ("margin", "exact")]
    )
    for verdicts in certifier([(torch.arange(4), torch.full((2, 4, 3), 1 / 3))]):
        assert verdicts.predicted.tolist() == [0, 0] and not verdicts.certified.any()


def test_top_one_gives_each_ablation_one_vote_and_ties_to_the_lower_class():
    votes = TopOneVote()(torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]))
    assert votes.int().tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "ablation", [Band(6, 7, 2), Block(5, 5, 2), MultiBlock(7, 7, 2, 2)], ids=lambda a: type(a).__name__
)
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_votes_summed_chunk_by_chunk_give_the_certificates_of_all_votes(ablation, chunk):
    generator = torch.Generator().manual_seed(chunk)
    favoured = 3 * torch.nn.functional.one_hot(torch.arange(12) % 4, 4)[:, None]
    probabilities = (torch.randn(12, ablation.count, 4, generator=generator) + favoured).softmax(-1)
    questions = [
        Question(patch, rule, kind)
        for patch in (Patch(1, 1), Patch(2, 3))
        for rule in (ThresholdVote(0.2), ThresholdVote(0.6), TopOneVote())
        for kind in ("margin", "exact")
    ]
    verdicts = Certifier(ablation, questions)((i, probabilities[:, i]) for i in ablation.chunks(chunk))
    for question, verdict in zip(questions, verdicts, strict=True):
        votes, touched = question.rule(probabilities), ablation.touched_by(question.patch)
        if question.certificate == "margin":
            expected = margin_certified(votes.sum(1), int(touched.sum(1).max()))
        else:
            expected = exact_certified(votes, touched)
        assert torch.equal(verdict.certified, expected)
        assert torch.equal(verdict.predicted, votes.sum(1).argmax(1))
        assert torch.equal(verdict.votes, votes.sum(1).max(1).values)


def test_votes_are_counted_exactly_under_autocast():
    """331 of 601 bands vote for class 1; in bfloat16 that is 332."""
    p = torch.eye(2)[(torch.arange(601) < 331).long()][None]
    questions = [Question(Patch(1, 1), TopOneVote(), kind) for kind in ("margin", "exact")]
    with torch.autocast("cpu", torch.bfloat16):
        answers = Certifier(Band(1, 601, 1), questions)([(torch.arange(601), p)])
    assert [(v.votes.item(), v.runner_up_votes.item()) for v in answers] == [(331, 270)] * 2


def reachable_winners(ballots_of_each, classes):
    """The winners under every choice of one ballot (K zeros and ones) for each ablation."""
    reached = {(0,) * classes}
    for ballots in ballots_of_each:
        reached = {tuple(map(sum, zip(counts, ballot, strict=True))) for counts in reached for ballot in ballots}
    return {winner(counts) for counts in reached}


def allowed_ballots(p, rule, margin):
    """What one ablation may vote if each vote within `margin` of being decided otherwise may go either way."""
    if isinstance(rule, TopOneVote):
        return [tuple(int(c == k) for c in range(len(p))) for k in range(len(p)) if p[k] >= max(p) - margin]
    of_each = [{p_c >= rule.threshold + margin, p_c >= rule.threshold - margin} for p_c in p]
    return [tuple(map(int, ballot)) for ballot in product(*of_each)]


@pytest.mark.parametrize(
    ("rule", "classes"), [(ThresholdVote(0.5), 2), (TopOneVote(), 3)], ids=["threshold", "top_one"]
)
def test_close_votes_are_the_adversarys(rule, classes):
    """Exact is what brute force finds, margin is never flipped; probabilities are 0, ν / 2 or over 8 ν apart."""
    margin, seen = 1 / 64, set()
    level = st.sampled_from([0.25, 0.5 - margin / 2, 0.5, 0.75])
    ablations = st.sampled_from([Band(2, 7, 1), Band(2, 7, 2), Row(6, 2, 2), MultiBand(2, 4, 1, 2), Block(2, 3, 1)])
    kinds = [(kind, nu) for kind in ("exact", "margin") for nu in (margin, 0.0)]
    anything = list(product((0, 1), repeat=classes))
    if isinstance(rule, TopOneVote):
        anything = [ballot for ballot in anything if sum(ballot) == 1]

    @settings(max_examples=200)
    @given(st.data())
    def check(data):
        ablation, patch = data.draw(ablations), Patch(1, data.draw(st.integers(1, 2)))
        row = st.lists(level, min_size=classes, max_size=classes)
        p = torch.tensor(data.draw(st.lists(row, min_size=ablation.count, max_size=ablation.count)))
        favourite = data.draw(st.integers(0, classes - 1))
        p[: data.draw(st.integers(0, ablation.count))] = torch.eye(classes)[favourite]
        questions = [Question(patch, rule, kind, 1, nu) for kind, nu in kinds]
        answers = Certifier(ablation, questions)([(torch.arange(ablation.count), p[None])])
        exactly, exactly_without, by_margin, by_margin_without = (v.certified.item() for v in answers)
        allowed = [allowed_ballots(row, rule, margin) for row in p.tolist()]
        stands = all(
            reachable_winners(
                [anything if hit else ballots for ballots, hit in zip(allowed, place, strict=True)], classes
            )
            == {answers[0].predicted.item()}
            for place in ablation.touched_by(patch).tolist()
        )
        assert exactly == stands and exactly >= by_margin
        assert exactly_without >= exactly and by_margin_without >= by_margin
        assert answers[0].close_votes.item() == sum(len(ballots) > 1 for ballots in allowed)
        assert answers[1].close_votes.item() == 0
        assert len({answer.predicted.item() for answer in answers}) == 1
        seen.update({("exact", exactly, exactly_without), ("margin", by_margin, by_margin_without)})

    check()
    assert len(seen) == 6  # certified with and without, without only, and not at all


def test_a_margin_takes_a_certificate_that_hangs_on_rounding():
    """7 bands of one column: 5 votes for class 1 and Δ = 2, but one of them has probability θ + 10⁻⁵."""
    p = torch.tensor([[0.1, 0.9]] * 4 + [[0.1, 0.20001]] + [[0.1, 0.1]] * 2)[None]
    questions = [
        Question(Patch(1, 2), ThresholdVote(0.2), kind, 1, nu)
        for kind in ("margin", "exact")
        for nu in (0.0, 1e-6, 1e-4)
    ]
    answers = Certifier(Band(2, 7, 1), questions)([(torch.arange(7), p)])
    assert [v.certified.item() for v in answers] == 2 * [True, True, False]
    assert [v.close_votes.item() for v in answers] == 2 * [0, 0, 1]


@pytest.mark.parametrize(
    "ablation",
    [Band(3, 6, 2), Row(5, 4, 1), Block(3, 3, 1), Block(4, 3, 2), MultiBand(2, 7, 2, 2), MultiBlock(4, 5, 2, 1)],
    ids=lambda a: type(a).__name__,
)
@pytest.mark.parametrize("patch", [Patch(1, 1), Patch(2, 2), Patch(2, 1)], ids=str)
def test_two_patches_touch_what_two_patches_touch(ablation, patch):
    """All pairs of places, the same twice too: the largest number of ablations, and every maximal set of them."""
    single = ablation.touched_by(patch)
    pairs = {tuple((a | b).tolist()) for a in single for b in single}
    assert ablation.most_touched(patch, 2) == max(map(sum, pairs))
    everything = torch.arange(ablation.count)
    found = {tuple(row) for row in ablation.touching(ablation.places(patch, 2), everything).tolist()}
    assert found <= pairs
    assert all(any(all(b or not a for a, b in zip(pair, other, strict=True)) for other in found) for pair in pairs)


def test_two_patches_are_what_brute_force_finds():
    seen = set()

    @settings(max_examples=100)
    @given(st.data())
    def check(data):
        ablation = data.draw(st.sampled_from([Band(1, 9, 2), Row(8, 1, 1), MultiBand(1, 5, 1, 2), Block(3, 3, 1)]))
        votes = data.draw(mostly_alike(ablation.count))
        questions = [Question(Patch(1, 1), TopOneVote(), kind, 2) for kind in ("exact", "margin")]
        answers = Certifier(ablation, questions)([(torch.arange(ablation.count), torch.tensor([votes]).float())])
        exactly, by_margin = (v.certified.item() for v in answers)
        single = ablation.touched_by(Patch(1, 1))
        stands = all(
            reachable_winners([ONE_OF_THREE if hit else [vote] for vote, hit in zip(votes, a | b, strict=True)], 3)
            == {answers[0].predicted.item()}
            for a, b in combinations_with_replacement(single, 2)
        )
        assert exactly == stands and by_margin <= exactly
        seen.add((exactly, by_margin))

    check()
    assert seen == {(True, True), (False, False)}


def test_exact_certifies_against_two_patches_what_margin_leaves_out():
    """Every second of 13 columns votes for both classes: a patch of two columns takes 2 votes and gives only 1."""
    p = torch.tensor([[0.9, 0.1], [0.9, 0.9]] * 6 + [[0.9, 0.1]])[None]  # 13 : 6, a lead of 7
    questions = [Question(Patch(1, 2), ThresholdVote(0.5), kind, 2) for kind in ("margin", "exact")]
    answers = Certifier(Band(1, 13, 1), questions)([(torch.arange(13), p)])
    assert [v.certified.item() for v in answers] == [False, True]


def test_too_many_pairs_are_refused_for_exact_alone():
    two = [Question(Patch(5, 5), ThresholdVote(0.2), kind, 2) for kind in ("margin", "exact")]
    Certifier(Block(28, 28, 4), two[:1])
    with pytest.raises(
        UsageError, match=r"^patches 2: patches of 5 have 165600 pairs of places here and exact .* 4096"
    ):
        Certifier(Block(28, 28, 4), two[1:])
    assert Block(28, 28, 4).most_touched(Patch(5, 5), 2) == 2 * 8 * 8


def share_votes(of_winner, ablations, images):
    """(images, ablations, 3) top-one votes, `of_winner` of them for class 1."""
    votes = torch.zeros(images, ablations, 3, dtype=torch.bool)
    votes[:, :of_winner, 1] = True
    votes[:, of_winner:, 2] = True
    return votes


def test_randomized_certificates_fail_no_more_often_than_alpha():
    """At a share of exactly 1/2 + Δ/A every certificate is wrong: 22 of 28 bands, Δ = 8."""
    verdicts = randomized_verdicts(share_votes(22, 28, 20_000), 8, 0.05, 100, 1000, np.random.default_rng(0))
    rate = verdicts.certified.double().mean().item()
    assert 0.03 < rate < 0.05 + 3 * (0.05 * 0.95 / 20_000) ** 0.5


def test_randomized_certificates_have_power_and_predict_the_winner():
    verdicts = randomized_verdicts(share_votes(24, 28, 500), 8, 0.05, 1000, 10_000, np.random.default_rng(0))
    assert (verdicts.predicted == 1).all() and verdicts.certified.all()
    below = randomized_verdicts(share_votes(20, 28, 500), 8, 0.05, 1000, 10_000, np.random.default_rng(0))
    assert not below.certified.any()


def test_randomized_certificate_needs_a_majority_that_the_patch_leaves():
    """With Δ = A nothing can be certified, not even unanimous votes."""
    verdicts = randomized_verdicts(share_votes(28, 28, 5), 28, 0.05, 100, 1000, np.random.default_rng(0))
    assert not verdicts.certified.any()
