"""Bands and windows masked together, against the definition written out and against adversaries."""

from functools import partial
from itertools import product

import pytest
import torch

from patchcert.ablations.windows import BandsAndWindows
from patchcert.classifiers import weak_spots
from patchcert.errors import UsageError
from patchcert.masking.double_masking import DoubleMasking, least_ahead, paired
from patchcert.masking.linked import LinkedMasking, masking_of
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from tests import oracle
from tests.test_masking import HUGE, certified, close_decisions, flipped_by_rounding_and_a_patch, random_scores

CASES = [
    (BandsAndWindows(5, 6, 2, 4, 2), Patch(2, 3)),
    (BandsAndWindows(6, 6, 1, 4, 3), Patch(1, 2)),
    (BandsAndWindows(7, 5, 3, 4, 2), Patch(1, 1)),
    (BandsAndWindows(7, 7, 2, 5, 2, 4, 3), Patch(2, 2)),
]


def windows_of(ablation):
    coarse, fine = (ablation.window_size, ablation.per_side), (ablation.fine_size, ablation.fine_per_side)
    if ablation.fine_size:
        return oracle.overlaps(ablation.height, coarse, fine)
    return oracle.windows(ablation.height, ablation.width, *coarse)


def sums_by_hand(ablation, patch, scores):
    """(L, L, N, K): for pairs of places the bands that neither touches, and the copy that hides both windows alone."""
    bands = oracle.bands(ablation.height, ablation.width, ablation.band_size)
    bands += oracle.rows(ablation.height, ablation.width, ablation.band_size)
    corners = product(range(ablation.height - patch.height + 1), range(ablation.width - patch.width + 1))
    places = [oracle.rectangle(*corner, patch.height, patch.width) for corner in corners]
    windows = windows_of(ablation)
    numbers = [min(number for number, window in enumerate(windows) if place <= window) for place in places]
    pairs = [set(pair) for pair in oracle.pairs_and_singles(len(windows))]
    of_bands, of_windows = scores.double().split([len(bands), len(pairs)], dim=1)
    sums = torch.zeros(len(places), len(places), len(scores), scores.shape[2], dtype=torch.float64)
    for (i, first), (j, second) in product(enumerate(places), repeat=2):
        left = [number for number, band in enumerate(bands) if not band & (first | second)]
        sums[i, j] = of_bands[:, left].sum(1) + of_windows[:, pairs.index({numbers[i], numbers[j]})]
    return sums


def two_rounds_by_hand(sums):
    answers = sums.argmax(dim=2)
    first = answers.diagonal().tolist()
    most_frequent = max(sorted(set(first)), key=first.count)
    for place, answer in enumerate(first):
        if answer != most_frequent and (answers[place] == answer).all():
            return answer
    return most_frequent


@pytest.mark.parametrize(("ablation", "patch"), CASES)
def test_predictions_and_leads_are_those_of_the_definition(ablation, patch):
    masking, scores = masking_of(ablation, patch), random_scores(40, ablation.count, 3, seed=2)
    scores[:, ablation.bands.count :] += torch.rand(40, ablation.windows.count, 3) / 100  # without ties
    winner, leads = masking.predict_and_lead(scores)
    spots = weak_spots.of_scores(ablation, masking, patch, 1, winner, scores)
    alone = weak_spots.of_scores(ablation, masking, patch, 1, winner, scores, alone=True)
    assert len(winner.unique()) > 1
    for image, sums in enumerate(sums_by_hand(ablation, patch, scores).unbind(dim=2)):
        assert winner[image] == two_rounds_by_hand(sums)
        ahead = sums[..., winner[image], None] - sums
        assert torch.allclose(leads[image], ahead.amin(dim=(0, 1)))
        ahead[..., winner[image]] = torch.inf
        assert torch.allclose(spots[image].flatten(), ahead.amin(dim=(1, 2)))
        assert torch.allclose(alone[image].flatten(), ahead.amin(dim=2).diagonal())


@pytest.mark.parametrize(("ablation", "patch"), CASES)
def test_at_every_place_what_the_patch_touches_is_left_out(ablation, patch):
    masking = LinkedMasking(ablation, patch)
    columns, rows, windows = masking.touched
    of_rows, of_columns = masking.holding
    for place, touched in enumerate(ablation.touched_by(patch)):
        row, column = divmod(place, len(of_columns))
        hidden = windows[of_rows[row] * ablation.windows.side + of_columns[column]]
        out = torch.cat([columns[column], rows[row], hidden])
        assert not (touched & ~out).any() and not hidden.all()
        assert torch.equal(out[: ablation.bands.count], touched[: ablation.bands.count])


@pytest.mark.parametrize(("ablation", "patch"), CASES)
def test_no_adversary_flips_what_is_certified(ablation, patch):
    masking, scores = LinkedMasking(ablation, patch), random_scores(40, ablation.count, 2, seed=5)
    winner, proven = certified(masking, scores)
    assert 5 < proven.sum() < 40
    generator, flips = torch.Generator().manual_seed(0), 0
    values = torch.tensor([-HUGE, -3.0, 0.0, 3.0, HUGE])
    for place in ablation.touched_by(patch).unique(dim=0):
        forged = values[torch.randint(5, (20, 40, int(place.sum()), 2), generator=generator)]
        forged[:2] = torch.tensor([[-HUGE, HUGE], [HUGE, -HUGE]])[:, None, None]
        attacked = scores.repeat(20, 1, 1, 1)  # (20, N, A, K)
        attacked[:, :, place] = forged
        flipped = masking.predict(attacked.flatten(0, 1)).view(20, 40) != winner
        assert not (proven & flipped).any()
        flips += int(flipped.sum())
    assert flips > 0


MARGIN = Margin(1e-3, 2.0**-18)


def large_scores(ablation, seed):
    """(N, A, K), by far the largest of which are those of windows."""
    scores = torch.randn(24, ablation.count, 3, generator=torch.Generator().manual_seed(seed))
    scores[:, ablation.bands.count :] *= 300
    return scores


@pytest.mark.parametrize(("ablation", "patch"), CASES)
def test_no_rounding_with_a_patch_flips_what_is_narrowly_certified(ablation, patch):
    masking = LinkedMasking(ablation, patch)
    scores = close_decisions(masking, large_scores(ablation, seed=0), MARGIN)
    proven = masking.verdicts(scores, MARGIN).certified
    flipped = flipped_by_rounding_and_a_patch(masking, ablation, patch, scores, MARGIN)
    assert proven[-12:].all() and flipped[0] and not (proven & flipped).any()


class BandsMargin(LinkedMasking):
    """Broken: no margin for what windows add."""

    def _sums(self, scores):
        *bands, windows = super()._sums(scores)
        return [*bands, windows * 0 if scores.shape[2] == 1 else windows]


class OneWindow(LinkedMasking):
    """Broken: takes for two windows the copies that hide the first."""

    def _worst_leads(self, winner, sums):
        *bands, windows = sums
        one = paired(windows).diagonal(dim1=1, dim2=2).transpose(1, 2)  # (N, k², K)
        first, _ = torch.triu_indices(self.side**2, self.side**2)
        return super()._worst_leads(winner, [*bands, one[:, first]])


class Turned(LinkedMasking):
    """Broken: takes the row of the second place's window for its column."""

    def _worst_leads(self, winner, sums):
        *bands, windows = sums
        square = self.side, self.side
        turned = paired(windows).unflatten(2, square).transpose(2, 3).flatten(2, 3)
        upper = torch.triu_indices(self.side**2, self.side**2)
        return super()._worst_leads(winner, [*bands, turned[:, *upper]])


@pytest.mark.parametrize("broken", [BandsMargin, OneWindow, Turned])
def test_close_decisions_tell_broken_certificates(broken):
    for number, (ablation, patch) in enumerate(CASES):
        masking, right = broken(ablation, patch), LinkedMasking(ablation, patch)
        scores = close_decisions(masking, large_scores(ablation, seed=number), MARGIN)
        proven = masking.verdicts(scores, MARGIN).certified
        if (proven & flipped_by_rounding_and_a_patch(right, ablation, patch, scores, MARGIN)).any():
            return
    pytest.fail("nothing flips what it certifies")


def test_together_they_certify_what_neither_does_alone():
    ablation, patch = BandsAndWindows(6, 6, 1, 4, 2), Patch(2, 2)
    scores = torch.randn(300, ablation.count, 2, generator=torch.Generator().manual_seed(3))
    scores[..., 1] += 0.7
    parts = scores.split([ablation.bands.count, ablation.windows.count], dim=1)
    alone = [
        certified(DoubleMasking(*kind), own)[1]
        for kind, own in zip(((ablation.bands, patch), (ablation.windows, patch)), parts, strict=True)
    ]
    together = certified(LinkedMasking(ablation, patch), scores)[1]
    assert (together & ~alone[0] & ~alone[1]).any()
    assert together[alone[0] & alone[1]].all()


def test_large_batches_are_divided(monkeypatch):
    ablation, patch = CASES[0]
    masking, scores = LinkedMasking(ablation, patch), random_scores(30, ablation.count, 3, seed=2)
    winner, leads = masking.predict_and_lead(scores)
    places = masking.leads_at(winner, scores)
    monkeypatch.setattr("patchcert.masking.double_masking.BYTES_AT_ONCE", 1)
    again = masking.predict_and_lead(scores)
    assert torch.equal(again[0], winner) and torch.equal(again[1], leads)
    assert torch.equal(masking.leads_at(winner, scores), places)
    assert torch.equal(places.amin(dim=(1, 2)), least_ahead(winner, leads))


def test_two_patches_and_patches_that_no_window_holds_are_refused():
    fitting = BandsAndWindows(6, 6, 1, 4, 3).windows
    with pytest.raises(UsageError, match=r"^patches 2: expected 1"):
        masking_of(BandsAndWindows(6, 6, 1, 4, 3), Patch(1, 2), 2)
    for patch in (Patch(5, 2), Patch(2, 5), Patch(7, 2)):
        for ask in (partial(LinkedMasking, BandsAndWindows(6, 6, 1, 4, 3)), fitting.holding):
            with pytest.raises(UsageError, match=rf"^size_to_certify {patch}: expected"):
                ask(patch)


def test_windows_that_leave_nothing_to_refine_are_refused():
    with pytest.raises(UsageError, match=r"^fine_size 6: as large as the image, and so are the windows of 6"):
        BandsAndWindows(6, 6, 1, 6, 2, 6, 3)
    assert BandsAndWindows(6, 6, 1, 6, 2, 4, 3).windows.side == 3  # only one kind is as large
    whole = LinkedMasking(BandsAndWindows(6, 6, 1, 6, 2), Patch(6, 6))
    assert whole.predict(torch.zeros(1, 22, 3)) == 0
