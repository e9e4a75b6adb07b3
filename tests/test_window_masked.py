"""An ordinary network with hidden windows, attacked by brute force, on pictures of a few pixels."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.classifiers.window_masked import WindowMaskedClassifier, alarms_of
from patchcert.masking.alarms import ALARM, TENSORS
from patchcert.patch import Patch
from patchcert.patch_sizes import Area

WINDOWS = HiddenWindows.for_patch(3, 4, Patch(1, 1), 2)


class Majority(nn.Module):
    """Logits of two classes: how many visible pixels are black, and how many are white."""

    def __init__(self):
        super().__init__()
        self.passes, self.batches = 0, []
        self.eval()

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        self.passes += len(images)
        self.batches.append(len(images))
        seen = ~hidden
        white = (images[:, 0] * seen).sum((1, 2))
        return torch.stack([seen.sum((1, 2)) - white, white], dim=1)


def pictures(count: int) -> Tensor:
    """(N, 1, 3, 4) of pixels 0 and 1, from all black to all white."""
    generator = torch.Generator().manual_seed(0)
    white = torch.linspace(0, 1, count)[:, None]
    return (torch.rand(count, 12, generator=generator) < white).float().view(count, 1, 3, 4)


def attacks(image: Tensor) -> Tensor:
    """(24, 1, 3, 4): the image (1, 3, 4) with every pixel made black, and white."""
    changed = image.repeat(24, 1, 1, 1)
    for number, (row, column, colour) in enumerate(itertools.product(range(3), range(4), (0.0, 1.0))):
        changed[number, 0, row, column] = colour
    return changed


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_no_patch_changes_a_certified_answer_and_some_patch_changes_another(batch_size):
    classifier = WindowMaskedClassifier(Majority(), WINDOWS, batch_size=batch_size)
    images = pictures(40)
    verdicts = list(classifier.verdicts(images, 0.5))
    assert classifier.predict(images).tolist() == [verdict.predicted for verdict in verdicts]
    changed = [
        bool((classifier.predict(attacks(image)) != verdict.predicted).any())
        for image, verdict in zip(images, verdicts, strict=True)
    ]
    certified = [verdict.certified for verdict in verdicts]
    assert not any(both for both in map(all, zip(changed, certified, strict=True)))
    assert any(changed) and sum(certified) > 10


def test_a_patch_changes_no_answer_where_a_lead_is_left():
    classifier, images = WindowMaskedClassifier(Majority(), WINDOWS, batch_size=64), pictures(24)
    spots, verdicts = classifier.weak_spots(images), list(classifier.verdicts(images, 0.0))
    assert spots.shape == (24, 3, 4) and 0 < int((spots > 0).sum()) < spots.numel()
    fallen = 0
    for image, leads, verdict in zip(images, spots, verdicts, strict=True):
        changed = (classifier.predict(attacks(image)) != verdict.predicted).view(3, 4, 2).any(dim=2)
        assert not (changed & (leads > 0)).any() and (not verdict.certified or (leads >= verdict.lead).all())
        fallen += int(changed.sum())
    assert fallen > 0
    small = WindowMaskedClassifier(Majority(), HiddenWindows.for_patch(3, 4, Patch(2), 2)).weak_spots(images, Patch(1))
    assert small.shape == (24, 3, 4)
    for patch in (Patch(3), Area(1), 1):
        with pytest.raises(ValueError, match=f"patch {patch}: expected one Patch that fits into 1, which"):
            classifier.weak_spots(images, patch)


def test_no_patch_makes_a_certified_image_another_class_without_an_alarm():
    classifier, images = WindowMaskedClassifier(Majority(), WINDOWS), pictures(40)
    strict, certain = classifier.alarms(images).strict(0.5)
    curve = {threshold: classifier.alarms(images).by_confidence(threshold, 0.5) for threshold in (0.0, 0.9, 0.99)}
    assert certain.sum() > sum(verdict.certified for verdict in classifier.verdicts(images, 0.5))
    for number, image in enumerate(images):
        hit = classifier.alarms(attacks(image))
        if certain[number]:
            output, _ = hit.strict(0.5)
            assert ((output == strict[number]) | (output == ALARM)).all()
        for threshold, (clean, flags) in curve.items():
            if flags[number]:
                output, _ = hit.by_confidence(threshold, 0.5)
                assert ((output == clean[number]) | (output == ALARM)).all()


def test_questions_that_decide_nothing_are_not_asked():
    network, images = Majority(), pictures(40)
    classifier = WindowMaskedClassifier(network, WINDOWS, batch_size=4)
    verdicts = list(classifier.verdicts(images, 0.5))
    assert sum(verdict.passes for verdict in verdicts) == network.passes
    assert all(v.passes == 10 for v in verdicts if v.certified) and any(v.passes < 10 for v in verdicts)
    network.passes = 0
    agreed = images[[v.certified for v in verdicts]]
    classifier.predict(agreed)
    assert network.passes == WINDOWS.count * len(agreed)


def test_whole_images_and_alarms_share_batches():
    network, images = Majority(), pictures(13)
    classifier = WindowMaskedClassifier(network, WINDOWS, batch_size=8)
    whole = classifier.of_whole(images)
    assert network.batches == [8, 5]
    network.batches.clear()
    alarms = classifier.alarms(images)
    passes = 13 * (WINDOWS.count + 1)
    assert network.batches == [8] * (passes // 8) + [passes % 8]
    of_images = network(images, torch.zeros(13, 3, 4, dtype=torch.bool))
    assert whole.classes.equal(of_images.argmax(dim=1)) and len(whole.classes.unique()) == 2
    one_by_one = WindowMaskedClassifier(network, WINDOWS, batch_size=1)
    singles = [verdict.singles for verdict in one_by_one.verdicts(images, 0.0, certify=False)]
    expected = alarms_of(singles, of_images.argmax(dim=1))
    assert all(getattr(alarms, name).equal(getattr(expected, name)) for name in TENSORS)


class Planted(nn.Module):
    """Class 1 where the pixel in the last row and column is seen and white."""

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        seen = (images[:, 0, -1, -1] * ~hidden[:, -1, -1]).float()
        return torch.stack([1 - seen, seen], dim=1)


def test_windows_that_dissent_cover_the_patch_that_made_the_answer():
    images = torch.zeros(2, 1, 3, 4)
    images[1, 0, -1, -1] = 1.0
    covering = WINDOWS.covering(Patch(1, 1))[:, -1, -1]
    assert covering.sum() == 1
    predicted, found = WindowMaskedClassifier(Planted().eval(), WINDOWS).predict(images, where=True)
    assert predicted.tolist() == [0, 0] and not found[0].any() and found[1].equal(covering)


def test_windows_dissent_whose_answer_is_not_the_most_frequent_one():
    network, images = Majority(), pictures(40)
    classifier = WindowMaskedClassifier(network, WINDOWS)
    predicted, found = classifier.predict(images, where=True)
    passes, network.passes = network.passes, 0
    assert classifier.predict(images).equal(predicted) and network.passes == passes
    each = torch.arange(WINDOWS.count)[:, None].expand(-1, 2)
    for image, windows in zip(images, found, strict=True):
        answers = classifier.logits(image.expand(WINDOWS.count, -1, -1, -1), each).argmax(1).tolist()
        most = max(sorted(set(answers)), key=answers.count)
        assert windows.tolist() == [answer != most for answer in answers]
    assert found.any(dim=1).any() and not found.any(dim=1).all()


@pytest.mark.parametrize("ask", ["predict", "alarms", "of_whole"])
def test_in_training_mode_nobody_answers(ask):
    """Dropout, for one, would answer otherwise than what was certified."""
    network = Majority()
    classifier = WindowMaskedClassifier(network, WINDOWS)
    getattr(classifier, ask)(pictures(2))
    network.train()
    with pytest.raises(ValueError, match="the network is in training mode: no answer can be given"):
        getattr(classifier, ask)(pictures(2))


@pytest.mark.parametrize("asked", ["predict", "alarms"])
@pytest.mark.parametrize(
    ("images", "right"),
    [
        (torch.full((1, 1, 3, 4), 255.0), r"\[0, 1\]"),
        (torch.full((1, 1, 3, 4), float("nan")), r"\[0, 1\]"),
        (torch.zeros(1, 1, 4, 4), r"expected \(N, C, 3, 4\)"),
        (torch.zeros(3, 4), r"expected \(N, C, 3, 4\)"),
    ],
)
def test_what_certificates_are_not_about_is_refused_by_every_way_to_ask(asked, images, right):
    classifier = WindowMaskedClassifier(Majority(), WINDOWS)
    with pytest.raises(ValueError, match=right) as refused:
        getattr(classifier, asked)(images)
    assert "\n" not in str(refused.value)


def test_bytes_are_the_same_pictures():
    classifier, images = WindowMaskedClassifier(Majority(), WINDOWS), pictures(20)
    assert (classifier.predict((255 * images).to(torch.uint8)) == classifier.predict(images)).all()
