"""`patchcert.attack`: what it flips is flipped, by the patch alone, and no sound certificate breaks."""

import warnings

import pytest
import torch
from torch import nn

from patchcert import (
    Band,
    HiddenWindows,
    MaskedClassifier,
    Patch,
    PlainNetwork,
    SmoothedClassifier,
    WindowMaskedClassifier,
    attack,
    certify,
)
from patchcert.attacks import windows as window_attacks
from patchcert.errors import Note
from tests.test_batches import CLASSIFIERS, IMAGES, LABELS
from tests.test_python_interface import dark_and_bright_images
from tests.test_window_masked import Majority, pictures

PATCH = Patch(1, 1)


def ordinary():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 3)).eval()


class Classes(nn.Module):
    """Gives classes and nothing else."""

    def __init__(self):
        super().__init__()
        self.network = ordinary()

    def forward(self, images):
        return self.network(images).argmax(1)


class Detached(Classes):
    def forward(self, images):
        return self.network(images).detach()


def noise(count=12):
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def assert_is_what_it_says(found, decide, images, labels, patch):
    """Pictures differ inside the patch alone, lie in [0, 1] and are answered as the result says."""
    assert found.predicted.equal(decide(images)) and found.predicted_after.equal(decide(found.images))
    assert found.flipped.equal((found.predicted == labels) & (found.predicted_after != labels))
    assert found.images.min() >= 0 and found.images.max() <= 1
    for clean, attacked, flipped, (top, left) in zip(
        images, found.images, found.flipped, found.places.tolist(), strict=True
    ):
        differs = clean != attacked
        assert bool(differs.any()) == bool(flipped) and (flipped or (top, left) == (-1, -1))
        differs[:, top : top + patch.height, left : left + patch.width] = False
        assert not flipped or not differs.any()
    expected = float((found.predicted_after == labels).double().mean())
    assert found.attacked_accuracy == expected and f"{expected:.2%} attacked" in str(found)


@pytest.mark.parametrize("places", ["random", "all", (2, 3), [(0, 0), (4, 4)]])
def test_an_ordinary_network_falls(places):
    images, network = noise(), ordinary()
    labels = network(images).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    found = attack(network, images, labels, Patch(4), restarts=4, steps=8, places=places)
    assert_is_what_it_says(found, lambda shown: network(shown).argmax(1), images, labels, Patch(4))
    assert found.flipped[1:].sum() > 5 and not found.flipped[0] and found.clean_accuracy == 11 / 12
    if places == (2, 3):
        assert (found.places[found.flipped] == torch.tensor([2, 3])).all()
    again = attack(network, images, labels, Patch(4), restarts=4, steps=8, places=places)
    assert again.images.equal(found.images), "the seed fixes all"


class Output:
    def __init__(self, logits):
        self.logits, self.loss = logits, None


class Beside(Classes):
    """Gives logits as other libraries' networks do."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, images):
        return self.form(self.network(images))


@pytest.mark.parametrize("form", [Output, lambda z: {"logits": z, "loss": None}, lambda z: (z, z[:0]), lambda z: [z]])
def test_logits_may_come_with_other_outputs(form):
    images, network = noise(), Beside(form)
    labels = network.network(images).argmax(1)
    found, plain = (attack(one, images, labels, Patch(4), restarts=3, steps=6) for one in (network, network.network))
    assert found.flipped.any() and found.flipped.equal(plain.flipped) and found.images.equal(plain.images)
    with pytest.raises(ValueError, match="the classifier gives a NoneType for 1 images, expected logits"):
        attack(Beside(lambda _: ()), images, labels, Patch(4))


@pytest.mark.parametrize("make", [Classes, Detached])
@pytest.mark.parametrize("places", ["random", "all", (1, 2)])
def test_without_gradients_it_guesses_and_says_so(make, places):
    images, network = noise(), make().eval()
    labels = network.network(images).argmax(1)
    with pytest.warns(Note, match="classes alone, or no gradient: this attack can only guess") as said:
        found = attack(network, images, labels, Patch(6), restarts=5, steps=6, places=places)
    assert said[0].filename == __file__
    assert_is_what_it_says(found, lambda shown: network.network(shown).argmax(1), images, labels, Patch(6))
    assert found.flipped.any()


def test_plain_networks_are_attacked_as_they_are():
    images, plain = noise(), PlainNetwork(ordinary(), mean=0.5, std=0.25, size=(8, 8))
    labels = plain(images).argmax(1)
    found = attack(plain, (255 * images).to(torch.uint8), labels, Patch(5), restarts=4, steps=8)
    assert found.flipped.any()
    with pytest.raises(ValueError, match=r"expected \(N, C, 8, 8\)"):
        attack(plain, images[:, :, :4], labels, Patch(2))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_certified_answers_stand_and_some_others_fall(name):
    classifier = CLASSIFIERS[name](PATCH)
    images = dark_and_bright_images(24)
    labels = classifier.predict(images)
    certified = certify(classifier, images, labels, PATCH).answers[0].certified
    found = attack(classifier, images, labels, PATCH, restarts=20, steps=6)
    assert_is_what_it_says(found, classifier.predict, images, labels, PATCH)
    assert not (found.flipped & certified).any()
    assert found.flipped.any() and certified.sum() > 2


def test_all_copies_that_the_patch_touches_are_attacked():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 3))
    images = torch.rand(12, 1, 8, 8)
    for classifier in (SmoothedClassifier(network, Band(8, 8, 4)), MaskedClassifier(network, Band(8, 8, 2), PATCH)):
        found = attack(classifier, images, classifier.predict(images), Patch(6), restarts=2, steps=5)
        assert found.flipped.all()


class Peeking(Majority):
    """Looks under the windows: all of its certificates are wrong."""

    def forward(self, images, hidden):
        return super().forward(images, torch.zeros_like(hidden))


def test_a_certified_classifier_that_is_broken_falls():
    windows = HiddenWindows.for_patch(3, 4, PATCH, 2)
    broken, images = WindowMaskedClassifier(Peeking().eval(), windows), pictures(40)
    labels = broken.predict(images)
    certified = torch.tensor([verdict.certified for verdict in broken.verdicts(images, 1e-3)])  # `certify` refuses it
    found = attack(broken, images, labels, PATCH, restarts=4, steps=4)
    assert (found.flipped & certified).any()


def test_hidden_windows_are_attacked_first_where_a_pair_fails_already(monkeypatch):
    """The first restart begins at the pair of windows without which the picture is answered otherwise most surely."""
    windows, images = HiddenWindows.for_patch(3, 4, PATCH, 2), pictures(40)
    classifier = WindowMaskedClassifier(Majority().eval(), windows)
    labels = classifier.predict(images)
    verdicts = enumerate(classifier.verdicts(images, 0.0))
    number = next(i for i, verdict in verdicts if not verdict.certified and not verdict.dissenting.any())
    starts = []
    climb = window_attacks.WindowAttack._climb

    def noted(self, image, label, start, generator):
        starts.append(start)
        return climb(self, image, label, start, generator)

    monkeypatch.setattr(window_attacks.WindowAttack, "_climb", noted)
    attack(classifier, images[number : number + 1], labels[number : number + 1], PATCH, restarts=2, steps=2)
    pairs = torch.triu_indices(4, 4, offset=1).T
    answers = classifier.logits(images[number].expand(6, -1, -1, -1), pairs)
    label = int(labels[number])
    worst = pairs[(answers[:, label] - answers[:, 1 - label]).argmin()].tolist()
    covering = windows.covering(PATCH).flatten(1)
    assert starts[0].window in worst and starts[0].rival == 1 - label
    (hiding,) = set(worst) - {starts[0].window}
    assert covering[hiding, starts[0].place] and not covering[starts[0].window, starts[0].place]


def test_a_gradient_that_is_zero_is_said():
    class Sign(Classes):
        def forward(self, images):
            return self.network(images).sign()

    network = Sign().eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        attack(network, noise(), network(noise()).argmax(1), Patch(6), restarts=1, steps=2)
    assert ["exactly zero" in str(note.message) for note in said] == [True]
    assert said[0].filename == __file__


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier": lambda images: images}, "classifier function: expected a torch.nn.Module"),
        ({"classifier": nn.ReLU()}, r"classifier gives torch.float32 \(1, 2, 8, 8\) for 1 images, expected logits"),
        ({"images": 255 * noise()}, "images have pixels from"),
        ({"labels": None}, "labels None: expected whole numbers"),
        ({"labels": torch.arange(12)}, "labels go from 0 to 11, expected 0 to 2"),
        ({"patch": 5}, "patch 5: expected a Patch"),
        ({"patch": Patch(9, 2)}, "patch 9x2: expected a patch that fits into 8 × 8 pixels"),
        ({"restarts": 0}, "restarts 0: expected a whole number from 1"),
        ({"steps": 2.5}, "steps 2.5: expected a whole number from 1"),
        ({"seed": "0"}, "seed '0': expected a whole number"),
        ({"batch_size": 0}, "batch_size 0: expected a whole number from 1"),
        ({"places": "everywhere"}, "places everywhere: expected random, all or"),
        ({"places": (5, 0)}, r"places \(5, 0\): expected .* rows from 0 to 4"),
        ({"places": []}, r"places \[\]: expected random, all or"),
        (
            {"classifier": CLASSIFIERS["windows"](PATCH), "images": IMAGES, "labels": LABELS, "patch": PATCH}
            | {"places": "all"},
            "places all: expected random, or",
        ),
    ],
)
def test_what_is_no_attack_is_refused_in_one_line(change, message):
    asked = {"classifier": ordinary(), "images": noise(), "labels": ordinary()(noise()).argmax(1), "patch": Patch(4)}
    with pytest.raises(ValueError, match=message) as refused:
        attack(**(asked | change))
    assert "\n" not in str(refused.value)
