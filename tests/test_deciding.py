"""The attack that climbs on the copies that decide: what it climbs on decides, it asks few copies, and it flips."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from patchcert import MaskedClassifier
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.attacks import deciding
from patchcert.attacks.ascent import LOSSES, Ascent, Attack
from patchcert.attacks.deciding import DissenterAttack, attack_on
from patchcert.attacks.searches import SEARCHES
from patchcert.attacks.targets import look_at
from patchcert.attacks.threats import PatchThreat
from patchcert.data.dataset import Dataset
from patchcert.engines.columns import LinesNetwork, Shape
from patchcert.engines.joint import JointNetwork
from patchcert.engines.mirrored import Mirrored, one_side
from patchcert.errors import BrokenCertificateError
from patchcert.masking.double_masking import two_rounds
from patchcert.masking.linked import masking_of
from patchcert.patch import Patch
from patchcert.votes.certificate import Question
from tests.test_linked import CASES, sums_by_hand
from tests.test_masking import random_scores

PATCH, SIZE, STEPS = Patch(2, 2), 8, 8
KINDS = {
    "windows": lambda: WindowPairs(SIZE, SIZE, 4, 3),
    "bands and windows": lambda: BandsAndWindows(SIZE, SIZE, 2, 4, 3),
    "refined": lambda: BandsAndWindows(SIZE, SIZE, 2, 5, 2, 4, 3),
}


class Brightness(nn.Module):
    """Copies (B, 2, H, W) to logits of dark, bright and neither, by the brightest spot of 2 × 2 pixels; smooth."""

    def __init__(self):
        super().__init__()
        self.copies = 0

    def forward(self, copies):
        self.copies += len(copies)
        spots = nn.functional.avg_pool2d(copies[:, :1], 2, stride=1).flatten(1)
        lead = 1.5 * (torch.logsumexp(12 * spots, dim=1) - 7.8)
        return torch.stack([-lead, lead, torch.full_like(lead, -20.0)], dim=1)


def classifier_of(kind):
    """One whose answer a patch can turn in some images, and the network that counts its copies."""
    torch.manual_seed(0)
    ablation, network = KINDS[kind](), Brightness()
    if kind != "windows":
        bands = LinesNetwork(Shape((4,), (0,), 2, "both", SIZE, SIZE, 1, 3))
        for family in bands.families:
            nn.init.normal_(family.head.weight, std=0.05)
        both = JointNetwork(bands.eval(), network, ablation, weight=5.0, sure=2.0, mirrored=kind == "refined")
        return MaskedClassifier(both.eval().requires_grad_(False), ablation, PATCH), network
    return MaskedClassifier(network.eval(), ablation, PATCH), network


def targets_of(classifier, count=40):
    """Dark images, some with a bright spot or two. One window hides one spot, so that one spot makes none bright."""
    generator = torch.Generator().manual_seed(1)
    images = 90 * torch.rand(count, 1, SIZE, SIZE, generator=generator)
    for number in range(count):
        for _ in range(number % 3):
            row, column = torch.randint(SIZE - 1, (2,), generator=generator).tolist()
            images[number, :, row : row + 2, column : column + 2] += 150
    dataset = Dataset(images.byte(), torch.zeros(count, dtype=torch.int64), torch.arange(count))
    dataset = replace(dataset, labels=classifier.predict(images.byte() / 255))
    return look_at(classifier, dataset, [Question(PATCH, None, "masking", 1, 1e-3, "float32")], 8).targets()


def attacked(classifier, targets, kind=DissenterAttack, loss="margin", step_size=0.2, steps=STEPS, restarts=3):
    ascent = Ascent(LOSSES[loss], steps, step_size, 0.0)
    run = kind(classifier, PatchThreat(PATCH, classifier.ablation), ascent, targets, 0, 32)
    SEARCHES["weak"](run, restarts)
    return run


@pytest.mark.parametrize(("ablation", "patch"), CASES)
def test_what_a_place_leaves_beside_each_other_one_is_what_the_definition_says(ablation, patch):
    masking, scores = masking_of(ablation, patch), random_scores(9, ablation.count, 3, seed=3).double()
    sums = sums_by_hand(ablation, patch, scores)
    bands, windows = scores.split([ablation.bands.count, ablation.windows.count], dim=1)
    numbers = ablation.windows.copy_numbers()
    for place in range(len(sums)):
        places = torch.full((9,), place)
        assert masking.over(places).tolist() == [place] * 9
        found = masking.beside(places, bands, windows[:, numbers[masking.window_at[place]]])
        torch.testing.assert_close(found, sums[place].transpose(0, 1))


def test_a_place_all_of_whose_pairs_give_a_class_makes_it_the_answer():
    """Whatever the other places say; ties count for the lower class, so the class is ahead by more."""
    generator = torch.Generator().manual_seed(0)
    sums = torch.randint(-3, 4, (500, 6, 6, 3), generator=generator).double()
    sums = (sums + sums.transpose(1, 2)) / 2
    place, rival = torch.randint(6, (500,), generator=generator), torch.randint(3, (500,), generator=generator)
    for one, p, t in zip(sums, place.tolist(), rival.tolist(), strict=True):
        one[p, :, t] = one[:, p, t] = 9
    assert torch.equal(two_rounds([sums]), rival)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_climbing_flips_what_noise_does_not_and_no_certified_answer(kind, loss):
    classifier, _ = classifier_of(kind)
    targets = targets_of(classifier)
    assert 2 < int(targets.certified.sum()) < len(targets) - 8
    found = attacked(classifier, targets, loss=loss).findings  # raises if a certified image flips
    noise = attacked(classifier, targets, loss=loss, step_size=1e-9).findings
    assert int(found.flipped.sum()) >= int(noise.flipped.sum()) + 5
    assert torch.equal(found.predicted, classifier.predict(found.images))  # the answer of what certifies
    scores = torch.cat([*classifier.every_copy(found.images, 64)])
    of_copies = classifier.decide(scores)
    assert torch.equal(of_copies, found.predicted) and torch.equal(of_copies != targets.labels, found.flipped)
    torch.testing.assert_close(found.totals[found.flipped], scores.sum(dim=1)[found.flipped])
    changed = (found.images != targets.images).flatten(1).sum(dim=1)
    assert (changed[found.flipped] <= 4).all() and (changed[~found.flipped] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_flips_as_many_as_climbing_on_every_copy(kind):
    classifier, _ = classifier_of(kind)
    targets = targets_of(classifier)
    few, every = (
        int(attacked(classifier, targets, kind=which).findings.flipped.sum()) for which in (DissenterAttack, Attack)
    )
    assert few >= every > 4


def test_a_step_asks_about_few_copies(monkeypatch):
    """Of 45 copies of windows; neither more steps nor more copies ask about all of them."""
    monkeypatch.setattr(deciding, "PAIRS_AT_ONCE", 4)
    classifier, network = classifier_of("bands and windows")
    targets, passes = targets_of(classifier), {}
    targets = replace(targets, certified=torch.zeros_like(targets.certified))
    for steps in (1, 9):
        network.copies = 0
        run = attacked(classifier, targets, steps=steps, restarts=1, step_size=1e-9)
        passes[steps] = network.copies
    assert (passes[9] - passes[1]) / 8 / len(targets) <= 4 < run.masking.windows.count


def test_the_gradient_is_that_of_the_loss(monkeypatch):
    monkeypatch.setattr(deciding, "PAIRS_AT_ONCE", 99)  # so that each look is at the same copies
    classifier, _ = classifier_of("refined")
    targets = targets_of(classifier, 12)
    run = DissenterAttack(
        classifier, PatchThreat(PATCH, classifier.ablation), Ascent(LOSSES["softmax"], 1, 0.1, 0.0), targets, 0, 32
    )
    trials = run._trials(torch.arange(len(targets)), run.random_places())
    inside = (trials.upper > trials.lower).float()
    middle = targets.images.where(inside == 0, 0.45)
    for mirrored in (False, True):
        look = [
            run._slope(images, trials.labels, run._aim(trials), mirrored)
            for images in (middle, middle + 2e-3 * inside, middle - 2e-3 * inside)
        ]
        slope, expected = (look[0][1] * inside).flatten(1).sum(dim=1), (look[1][0] - look[2][0]) / 4e-3
        torch.testing.assert_close(slope, expected, rtol=0.05, atol=2e-3)
        assert (slope.abs() > 0.01).sum() > 1


def test_a_false_certificate_is_caught():
    classifier, _ = classifier_of("refined")
    targets = targets_of(classifier)
    with pytest.raises(BrokenCertificateError, match="is certified, and was flipped"):
        attacked(classifier, replace(targets, certified=torch.ones_like(targets.certified)))


def test_only_what_is_asked_in_order_and_made_for_the_patch_is_attacked_so():
    classifier, _ = classifier_of("windows")
    targets, ascent = targets_of(classifier, 4), Ascent(LOSSES["margin"], 1, 0.1, 0.0)
    by_votes = MaskedClassifier(classifier.network, classifier.ablation, PATCH, threshold=0.4)
    for which, patch, kind in (
        (classifier, PATCH, DissenterAttack),
        (classifier, Patch(1, 2), Attack),
        (by_votes, PATCH, Attack),
    ):
        assert type(attack_on(which, PatchThreat(patch, which.ablation), ascent, targets, 0, 32)) is kind


def test_two_sides_make_the_mean():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    both, images = Mirrored(network), torch.rand(5, 1, SIZE, SIZE)
    sides = [one_side(both, images, mirrored) for mirrored in (False, True)]
    torch.testing.assert_close(sum(sides) / 2, both(images))
    assert torch.equal(sides[0], network(images)) and torch.equal(sides[1], network(images.flip(3)))
    assert torch.equal(one_side(network, images, True), network(images))
