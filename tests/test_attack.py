"""Attacks, on a small network trained on digits, against the certificates and against attacks written out anew."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from patchcert.ablations.ablation import Band, Block, encode
from patchcert.attacks.ascent import LOSSES, Ascent, Attack, log_mean_softmax, margin
from patchcert.attacks.searches import SEARCHES, try_random_places, weakest_first
from patchcert.attacks.targets import Targets, look_at
from patchcert.attacks.threats import BallThreat, PatchThreat
from patchcert.attacks.undefended import undefended
from patchcert.classifiers import weak_spots
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.data import named
from patchcert.data.dataset import Dataset
from patchcert.errors import BrokenCertificateError
from patchcert.patch import Patch
from patchcert.votes.certificate import Question

THRESHOLD = 0.3
SQUARE, BAR = Patch(5, 5), Patch(2, 8)


@pytest.fixture(scope="module")
def digits():
    return named.load("digits", Path("unused"), train=False)


@pytest.fixture(scope="module")
def smoothed():
    """A classifier of bands of 4 columns, trained on digits in seconds."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 16, 4, stride=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(784, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    ablation, train_set = Band(28, 28, 4), named.load("digits", Path("unused"), train=True)
    optimizer, generator = torch.optim.Adam(network.parameters(), 0.002), torch.Generator().manual_seed(0)
    for _ in range(30):
        for images, labels in train_set.shuffled_batches(64, generator):
            mask = ablation.masks(torch.randint(28, (1,), generator=generator))
            loss = nn.functional.cross_entropy(network(encode(images) * mask), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return SmoothedClassifier(network.eval().requires_grad_(False), ablation, THRESHOLD)


def attacked(classifier, targets, patch, loss=margin, steps=6, restarts=4, search="all", seed=0, batch=512):
    run = Attack(
        classifier, PatchThreat(patch, classifier.ablation), Ascent(loss, steps, 0.1, 0.5), targets, seed, batch
    )
    SEARCHES[search](run, restarts)
    return run


def look(classifier, dataset, patch=SQUARE):
    questions = [Question(patch, classifier.rule, kind) for kind in ("margin", "exact")]
    return look_at(classifier, dataset, questions, 2048)


@pytest.mark.parametrize("patch", [Patch(2, 2), SQUARE, BAR])
@pytest.mark.parametrize("search", SEARCHES)
def test_no_certified_image_flips_and_flips_are_real(smoothed, digits, patch, search):
    clean = look(smoothed, digits, patch)
    targets = clean.targets()
    assert len(targets) > 200 and int(targets.certified.sum()) > 2
    run = attacked(smoothed, targets, patch, search=search)  # raises if a certified image flips
    found = run.findings
    assert int(found.flipped.sum()) > 5 and not (found.flipped & targets.certified).any()
    assert ((found.images >= 0) & (found.images <= 1)).all()
    assert torch.equal(found.images[~found.flipped], targets.images[~found.flipped])
    for number in found.flipped.nonzero().squeeze(1).tolist():
        top, left, height, width = run.threat.rectangle(int(found.place[number]))
        assert 0 <= top <= 28 - height and 0 <= left <= 28 - width
        restored = found.images[number].clone()
        restored[:, top : top + height, left : left + width] = targets.images[
            number, :, top : top + height, left : left + width
        ]
        assert torch.equal(restored, targets.images[number])
        votes = votes_of_a_loop(smoothed.network, found.images[number])
        assert torch.equal(votes, found.totals[number])
        assert int(votes.argmax()) != int(targets.labels[number])


def votes_of_a_loop(network, image):
    copies = []
    for start in range(28):
        mask = torch.zeros(28)
        mask[[(start + k) % 28 for k in range(4)]] = 1
        copies.append(torch.cat([image * mask, (1 - image) * mask]))
    return (network(torch.stack(copies)).softmax(1) >= 0.3).sum(0)


def test_all_places_find_more_at_the_same_cost(smoothed, digits, monkeypatch):
    targets, looks, done, flips = look(smoothed, digits).targets(), {}, [], {}
    restart = Attack.restart
    for search in ("random", "all"):
        looks[search] = 0

        def counted(run, places, steps, step_size, _, search=search):
            looks[search] += steps + 1
            return restart(run, places, steps, step_size, done.append)

        monkeypatch.setattr(Attack, "restart", counted)
        flips[search] = int(attacked(smoothed, targets, SQUARE, search=search, restarts=4).findings.flipped.sum())
    assert looks["all"] <= looks["random"] == 4 * 7
    assert flips["all"] >= flips["random"] > 0
    assert sum(done) == len(targets) * sum(looks.values())  # the bar's total, whoever flips when
    assert len(done) > sum(looks.values()) and max(done) < len(targets) * 7


def test_restarts_begin_at_the_weakest_places_apart_from_each_other():
    leads = torch.full((3, 6, 8), 5.0)
    leads[0, 1, 1:6] = torch.tensor([-1.0, -3.0, -2.0, -0.5, 0.0])
    leads[0, 5, 7] = -2.5
    leads[1] = 1 + torch.arange(48.0).view(6, 8).flip(1)  # nowhere can the patch change anything
    leads[2, 3, 3] = -1.0
    found = [[divmod(place, 8) for place in places] for places in weakest_first(leads, 2, 2, 7).tolist()]
    assert found[0] == [(1, 2), (5, 7), (1, 4), (1, 3), (1, 1), (1, 5), (1, 2)]
    assert found[1] == [(0, 7), (0, 5), (0, 3), (0, 1), (2, 7), (2, 5), (2, 3)]
    assert found[2] == [(3, 3)] * 7


def test_weak_places_are_those_where_the_certificate_leaves_least(smoothed, digits, monkeypatch):
    targets, tried = look(smoothed, digits.take(slice(60))).targets(), []
    monkeypatch.setattr(Attack, "restart", lambda run, places, *_: tried.append(places))
    attacked(smoothed, targets, SQUARE, search="weak", restarts=2)
    question = Question(SQUARE, smoothed.rule, "exact")
    every = [(torch.arange(28), targets.outputs.softmax(dim=2))]
    leads = weak_spots.of_votes(smoothed.ablation, question, every).flatten(1)
    first, second = (leads.gather(1, places[:, None])[:, 0] for places in tried)
    assert torch.equal(first, leads.amin(dim=1)) and (second >= first).all()
    assert (tried[0] != tried[1]).all() and (leads.amin(dim=1) < leads.amax(dim=1)).any()


def test_a_false_certificate_is_caught(smoothed, digits):
    targets = look(smoothed, digits).targets()
    with pytest.raises(BrokenCertificateError, match="is certified, and was flipped") as broken:
        attacked(smoothed, replace(targets, certified=torch.ones_like(targets.certified)), SQUARE)
    assert 0 <= broken.value.number < len(targets)


@pytest.mark.parametrize("make", [lambda: Band(12, 12, 3), lambda: Block(12, 12, 5)])
def test_touched_copies_alone_give_the_trajectory_of_all(make):
    """The attack written out anew: every copy at every step, in double precision, image by image."""
    torch.manual_seed(1)
    ablation = make()
    network = nn.Sequential(nn.Flatten(), nn.Linear(288, 30), nn.ReLU(), nn.Linear(30, 4)).double()
    network.eval().requires_grad_(False)
    network[3].weight *= 6
    classifier = SmoothedClassifier(network, ablation, THRESHOLD)
    images = torch.rand(12, 1, 12, 12, dtype=torch.float64)
    logits = torch.stack([network(encode(images) * mask).float() for mask in ablation.masks()], dim=1)
    labels = (logits.softmax(2) >= 0.3).sum(1).argmax(1)
    targets = Targets(images, labels, torch.arange(12), logits, torch.zeros(12, dtype=torch.bool))
    run = Attack(classifier, PatchThreat(Patch(3, 4), ablation), Ascent(log_mean_softmax, 6, 0.07, 0.5), targets, 5, 64)
    try_random_places(run, 3)
    expected = [plain_attack(network, ablation.masks(), image, label, 5 * 1_000_003 + i)
                for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True))]  # fmt: skip
    assert [e is not None for e in expected] == run.findings.flipped.tolist()
    assert int(run.findings.flipped.sum()) >= 2
    for number, found in enumerate(expected):
        if found is not None:
            restart, step, image = found
            assert (int(run.findings.restart[number]), int(run.findings.step[number])) == (restart, step)
            assert torch.allclose(run.findings.images[number], image, rtol=0, atol=1e-12)


def plain_attack(network, masks, image, label, seed):
    generator = torch.Generator().manual_seed(seed)
    for restart in range(3):
        row, column = divmod(int(torch.randint(90, (), generator=generator)), 9)
        inside = torch.zeros(1, 12, 12, dtype=torch.bool)
        inside[:, row : row + 3, column : column + 4] = True
        x = torch.where(inside, torch.rand(1, 12, 12, generator=generator).double(), image)
        velocity = torch.zeros_like(x)
        for step in range(7):
            x = x.detach().requires_grad_()
            p = network(encode(x[None]) * masks[:, None]).softmax(1)
            if int((p >= 0.3).sum(0).argmax()) != label:
                return restart, step, x.detach()
            gradient = torch.autograd.grad(-p[:, label].mean().log(), x)[0] * inside
            velocity = 0.5 * velocity + gradient / gradient.abs().sum()
            x = torch.where(inside, (x + 0.07 * velocity.sign()).clamp(0, 1), image)
    return None


class OnePixel(nn.Module):
    """Class 1 if the pixel in row 3, column 17 is bright."""

    def forward(self, images):
        bright = 20 * (images[:, :, 3, 17].mean(1) - 0.5)
        return torch.stack([-bright, bright], dim=1)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_an_undefended_look_at_one_pixel_is_broken_at_once(loss):
    dataset = Dataset(torch.zeros(6, 1, 28, 28, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64), torch.arange(6))
    classifier = undefended(OnePixel(), 28, 28)
    clean = look(classifier, dataset)
    assert not any(certified.any() for certified in clean.certified)
    run = attacked(classifier, clean.targets(), SQUARE, loss=loss, steps=12, restarts=80)
    assert run.findings.flipped.all()
    for image, place in zip(run.findings.images, run.findings.place.tolist(), strict=True):
        top, left, *_ = run.threat.rectangle(place)
        assert top <= 3 < top + 5 and left <= 17 < left + 5 and image[0, 3, 17] >= 0.5


def test_the_softmax_loss_of_one_copy_is_the_cross_entropy():
    logits, labels = torch.randn(5, 10), torch.arange(5)
    log_p = logits.log_softmax(1)[:, None]
    losses = log_mean_softmax(log_p, log_p > -1, labels)
    assert torch.allclose(losses, nn.functional.cross_entropy(logits, labels, reduction="none"))


@given(st.integers(1, 60), st.sampled_from([255, 510, 1000, 97]))
def test_the_ball_is_respected_to_the_last_bit(numerator, denominator):
    epsilon = numerator / denominator
    images = torch.cat([torch.arange(256) / 255, torch.rand(500)]).view(1, 1, 27, 28)
    lower, upper = BallThreat(epsilon, Band(27, 28, 4)).box(images, torch.zeros(1, dtype=torch.int64))
    assert (upper.double() - images.double()).max() <= epsilon and (images.double() - lower.double()).max() <= epsilon
    assert lower.min() >= 0 and upper.max() <= 1 and (lower <= images).all() and (images <= upper).all()
    room = images.double() + epsilon <= 1
    assert (upper.double() - images.double() > epsilon - 1e-7)[room].all()  # and it is used up


def test_attacks_in_the_ball_stay_there(smoothed, digits):
    targets = replace(look(smoothed, digits.take(slice(80))).targets())
    targets = replace(targets, certified=torch.zeros_like(targets.certified))
    run = Attack(smoothed, BallThreat(0.1, smoothed.ablation), Ascent(log_mean_softmax, 8, 0.05, 0.0), targets, 0, 512)
    try_random_places(run, 1)
    found = run.findings
    assert int(found.flipped.sum()) > 5
    assert (found.images.double() - targets.images.double()).abs().max() <= 0.1
    assert found.images.min() >= 0 and found.images.max() <= 1


def test_the_seed_fixes_everything_and_other_images_change_nothing(smoothed, digits):
    targets = look(smoothed, digits.take(slice(60))).targets()
    half = Targets(*(tensor[: len(targets) // 2] for tensor in vars(targets).values()))
    first, again, other, alone = (
        attacked(smoothed, t, SQUARE, search="random", seed=seed).findings
        for t, seed in ((targets, 3), (targets, 3), (targets, 4), (half, 3))
    )
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    assert not torch.equal(first.place, other.place)
    assert torch.equal(first.place[: len(half)], alone.place) and torch.equal(first.step[: len(half)], alone.step)


def test_the_margin_climbs_on_scores_too():
    """Ballots that are log-probabilities are all negative; the rival must still be another class than the label."""
    log_p = torch.randn(5, 12, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0])
    (gradient,) = torch.autograd.grad(margin(log_p, log_p.detach(), labels).sum(), log_p)
    of_rivals = gradient.sum(dim=1).scatter(1, labels[:, None], 0)
    assert (gradient.sum(dim=1).gather(1, labels[:, None]) < 0).all() and ((of_rivals > 0).sum(dim=1) == 1).all()
