"""`PlainNetwork`: what a network of others' is shown, and which ones are refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from patchcert import PlainNetwork

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def small(classes=4, last=None):
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, classes), *([last] if last else [])]
    return nn.Sequential(*parts).eval()


class Recorder(nn.Module):
    """Keeps what it is shown, and gives `answer` of logits."""

    def __init__(self, answer=lambda logits: logits):
        super().__init__()
        self.network, self.answer, self.shown = small(), answer, []
        self.eval()

    def forward(self, images):
        self.shown.append(images.clone())
        return self.answer(self.network(images))


class InPlace(nn.Module):
    def forward(self, images):
        return images.mul_(0).add_(1).mean(dim=(2, 3))


def some_hidden():
    hidden = torch.zeros(3, 8, 8, dtype=torch.bool)
    hidden[0, :4], hidden[2, 3:5, 3:5] = True, True
    return hidden


def test_a_network_is_shown_normalised_pixels_and_its_mean_for_hidden_ones():
    recorder = Recorder()
    logits = PlainNetwork(recorder, mean=MEAN, std=STD)(IMAGES, some_hidden())
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    expected = torch.where(some_hidden()[:, None], 0, (IMAGES - mean) / std)
    assert recorder.shown[0].equal(expected)
    assert logits.equal(small()(expected)) and logits.dtype == torch.float32


@pytest.mark.parametrize(("hidden", "colour"), [(0.5, (0.5,) * 3), ((0.1, 0.2, 0.3), (0.1, 0.2, 0.3)), ("mean", MEAN)])
def test_hidden_pixels_are_shown_as_a_colour(hidden, colour):
    plain = PlainNetwork(small(), mean=MEAN, std=STD, hidden=hidden)
    painted = torch.where(some_hidden()[:, None], torch.tensor(colour)[:, None, None], IMAGES)
    assert plain(IMAGES, some_hidden()).equal(plain(painted))


def test_an_answer_knows_nothing_of_what_is_hidden():
    plain, other = PlainNetwork(small()), torch.where(some_hidden()[:, None], float("nan"), IMAGES)
    assert plain(IMAGES, some_hidden()).equal(plain(other, some_hidden()))


@pytest.mark.parametrize("hidden", [None, torch.zeros(3, 8, 8, dtype=torch.bool)])
def test_a_network_that_works_in_place_does_not_change_the_images(hidden):
    images = IMAGES.clone()
    PlainNetwork(InPlace().eval())(images, hidden)
    assert images.equal(IMAGES)


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits: SimpleNamespace(loss=None, logits=logits),
        lambda logits: {"out": logits, "features": logits[None]},
        lambda logits: {"features": logits.repeat(1, 9), "logits": logits},
        lambda logits: (logits, "more"),
        lambda logits: [logits],
        lambda logits: logits.double(),
        lambda logits: logits.log_softmax(1) + logits.logsumexp(1, keepdim=True),
    ],
)
def test_logits_are_found_in_what_networks_give(answer):
    found = PlainNetwork(Recorder(answer))(IMAGES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, small()(IMAGES))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda logits: logits[:, :, None, None], r"\(3, 4, 1, 1\) for images, .*expected logits \(3, K\)"),
        (lambda logits: logits[:1], r"\(1, 4\) for images"),
        (lambda logits: logits[:, :1], r"\(3, 1\) for images, .* expected logits of at least two classes"),
        (lambda logits: logits.argmax(1), r"\(3,\) for images"),
        (lambda logits: {}, "a NoneType"),
        (lambda logits: (), "a NoneType"),
        (lambda logits: [[logits]], "a list"),
        (lambda logits: logits.softmax(1), "probabilities, expected logits"),
    ],
)
def test_what_is_not_logits_is_refused(answer, found):
    with pytest.raises(ValueError, match=f"^the network gives {found}[^\n]*$"):
        PlainNetwork(Recorder(answer))(IMAGES)


def test_logits_that_only_look_a_little_like_probabilities_are_not_refused():
    logits = torch.tensor([[0.5, 0.5], [0.75, 0.5]])
    for one in (logits, logits[:1], torch.zeros(2, 4), torch.tensor([[2.0, -1.0], [2.0, -1.0]])):
        plain = PlainNetwork(Recorder(lambda _, one=one: one))
        assert plain(torch.rand(len(one), 3, 8, 8)).equal(one)


def test_networks_in_training_mode_are_refused():
    with pytest.raises(ValueError, match=r"^the network is in training mode: [^\n]*eval\(\)"):
        PlainNetwork(small().train())
    half = small()
    half[1].train()
    with pytest.raises(ValueError, match="in training mode"):
        PlainNetwork(half)
    plain = PlainNetwork(small())
    assert not plain.training
    with pytest.raises(ValueError, match="in training mode"):
        plain.train()(IMAGES)


def test_networks_without_classes_or_in_half_precision_are_refused():
    features = small()
    features.num_classes = 0
    with pytest.raises(ValueError, match=r"^the network gives features and no classes"):
        PlainNetwork(features)
    with pytest.raises(ValueError, match=r"^the network has weights of torch.bfloat16, expected float32"):
        PlainNetwork(small().to(torch.bfloat16))


@pytest.mark.parametrize(
    ("asked", "right"),
    [
        ({"mean": "red"}, "mean is 'red', expected a number"),
        ({"mean": (0.5, float("nan"))}, "mean is .*, expected finite numbers"),
        ({"std": 0}, "std is 0, expected numbers above 0"),
        ({"std": (0.2, 0.2)}, "expected equally many values"),
        ({"hidden": 127}, "hidden is 127, expected a colour in .0, 1., 'mean' or 'drop'"),
        ({"hidden": "grey"}, "hidden is 'grey', expected a number"),
    ],
)
def test_colours_that_are_none_are_refused(asked, right):
    with pytest.raises(ValueError, match=f"^{right}" if "equally many" not in right else right):
        PlainNetwork(small(), **{"mean": MEAN, **asked})


@pytest.mark.parametrize(
    ("images", "hidden", "right"),
    [
        (torch.zeros(3, 3, 8, 8, dtype=torch.uint8), None, r"torch.uint8 .*, expected floats in \[0, 1\]"),
        (IMAGES[0], None, r"\(3, 8, 8\), expected floats in \[0, 1\], \(B, C, H, W\)"),
        (IMAGES[:, :, :6], None, r"expected \(B, C, 8, 8\), the size that this network takes"),
        (IMAGES[:, :2], None, "expected 3 channels"),
        (IMAGES, torch.zeros(3, 8, 8), r"hidden is torch.float32 \(3, 8, 8\), expected torch.bool \(3, 8, 8\)"),
        (IMAGES, torch.zeros(8, 8, dtype=torch.bool), r"hidden is torch.bool \(8, 8\), expected torch.bool"),
    ],
)
def test_images_that_are_none_are_refused(images, hidden, right):
    with pytest.raises(ValueError, match=right):
        PlainNetwork(small(), mean=MEAN, std=STD, size=(8, 8))(images, hidden)


def test_a_network_that_wants_another_size_says_so_in_one_line():
    with pytest.raises(ValueError, match=r"^the network fails on images, \(3, 3, 6, 8\): RuntimeError: [^\n]*$"):
        PlainNetwork(small())(IMAGES[:, :, :6])


class Talkative(nn.Module):
    def forward(self, images):
        raise AssertionError("expected\n224\n× 224 pixels")


def test_an_error_of_several_lines_becomes_one():
    with pytest.raises(ValueError, match=r"^the network fails on [^\n]*AssertionError: expected[^\n]*224[^\n]*pixels$"):
        PlainNetwork(Talkative().eval())(IMAGES)


def test_classes_are_found_by_asking():
    assert PlainNetwork(small(7)).classes(IMAGES) == 7


class OfBatch(nn.Module):
    """Its batch norm looks at the batch in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.norm, self.network = nn.BatchNorm2d(3, track_running_stats=False), small()
        self.eval()

    def forward(self, images):
        return self.network(self.norm(images))


class ByChance(nn.Module):
    def forward(self, images):
        return nn.functional.dropout(images).mean(dim=(2, 3))


class Faintly(nn.Module):
    """By less than rounding does, but not by rounding: of what is asked beside, or by chance."""

    def __init__(self, added):
        super().__init__()
        self.network, self.added = small(), added
        self.eval()

    def forward(self, images):
        return self.network(images) + 1e-6 * self.added(images)


FAINTLY = [Faintly(lambda images: images.mean()), Faintly(lambda images: torch.rand(len(images), 1))]


IN_LIGHT = Faintly(lambda images: images.mean() * images.amax(dim=(1, 2, 3))[:, None])


@pytest.mark.parametrize("network", [OfBatch(), ByChance().eval(), *FAINTLY, IN_LIGHT])
@pytest.mark.parametrize("ask", [PlainNetwork.classes, PlainNetwork.fold])
def test_answers_that_depend_on_the_batch_or_on_chance_are_refused(network, ask):
    images = IMAGES.clone()
    images[0] = 0
    with pytest.raises(ValueError, match=r"(else is in the batch|same answer each time); here logits of about"):
        ask(PlainNetwork(network), images)


class OwnAutocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = small()
        self.eval()

    def forward(self, images):
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(images).float()


def test_networks_that_compute_in_half_precision_by_themselves_are_refused():
    with pytest.raises(ValueError, match=r"^the network computes in bfloat16 or float16 by itself"):
        PlainNetwork(OwnAutocast()).classes(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):  # whoever asked for it knows
        assert PlainNetwork(small()).classes(IMAGES) == 4
