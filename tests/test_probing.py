"""Certificates are about the classifier that answers: what its answers depend on, and how exactly they are computed."""

import argparse
from itertools import product

import pytest
import torch
from torch import nn

from patchcert import Band, BandAndRow, MaskedClassifier, Patch, SmoothedClassifier, WindowPairs, certify
from patchcert.ablations.ablation import encode
from patchcert.ablations.kinds import KINDS
from patchcert.classifiers.probing import COPIES, manner_in_order, manner_of, require_masks
from patchcert.comparing import Comparison
from patchcert.data.dataset import Dataset
from patchcert.engines.windowed import WindowedNetwork
from patchcert.errors import Note, UsageError
from patchcert.experiments import any_network
from patchcert.masking.margins import Margin
from patchcert.networks import are_probabilities, finite
from patchcert.votes.certificate import Question

SIZE, BAND = 12, Band(12, 12, 3)
IMAGES = torch.rand(20, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
LABELS = torch.zeros(20, dtype=torch.int64)


def small(classes=10):
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(150, 40), nn.ReLU(), nn.Linear(40, classes)
    )
    network[5].weight.data *= 8
    return network


class Around(nn.Module):
    """A network, with something before or behind it."""

    def __init__(self, classes=10):
        super().__init__()
        self.network = small(classes)

    def forward(self, copies):
        return self.network(copies)


class Noisy(Around):
    def forward(self, copies):
        logits = self.network(copies)
        return logits + 1e-3 * torch.randn_like(logits)


class ScaledByItsBatch(Around):
    def forward(self, copies):
        maps = self.network[:2](copies)
        return self.network[2:](maps / maps.amax())


class OfItsNeighbours(Around):
    """By less than rounding does, but not by rounding."""

    def forward(self, copies):
        return self.network(copies) + 1e-5 * copies[:, 0].mean()


class OfFew(Around):
    """Answers otherwise where it is asked about few copies at once."""

    def forward(self, copies):
        return self.network(copies) * (1 if len(copies) > 2 else 1.001)


class CountingUp(Around):
    calls = 0

    def forward(self, copies):
        self.calls += 1
        return self.network(copies) + 1e-6 * self.calls


def dynamically_quantised():
    return torch.ao.quantization.quantize_dynamic(small().eval(), {nn.Linear})


@pytest.mark.parametrize("kind", [SmoothedClassifier, MaskedClassifier])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Noisy, "the same answer each time"),
        (CountingUp, "the same answer each time"),
        (ScaledByItsBatch, "the same answer whatever else is in the batch"),
        (OfItsNeighbours, "the same answer whatever else is in the batch"),
        (OfFew, "the same answer whatever else is in the batch"),
        (dynamically_quantised, "the same answer whatever else is in the batch"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantized tensor creation")
def test_answers_that_depend_on_more_than_the_copy_are_refused(make, message, kind):
    classifier = kind(make(), BAND, *[Patch(2, 2)] * (kind is MaskedClassifier))
    for batch_size in (1, 7, 128):
        with pytest.raises(ValueError, match=f"{message}; here logits of about .* differ by"):
            certify(classifier, IMAGES, LABELS, Patch(2, 2), batch_size=batch_size)


class OfLight(Around):
    """Behaves on black images, and on copies that show nothing of others."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, copies):
        return self.network(copies) + 1e-3 * self.wrong(copies[:, 0]) * copies[:, 0].amax(dim=(1, 2))[:, None]


WRONG = [lambda shown: shown.amax(), lambda shown: shown.roll(1, 0).mean(dim=(1, 2))[:, None], lambda shown: len(shown)]


def after_black_ones(black):
    return torch.where(torch.arange(len(IMAGES))[:, None, None, None] < black, torch.zeros(()), IMAGES)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("black", "batch_size"), [(1, 128), (10, 4)])
@pytest.mark.parametrize("kind", [SmoothedClassifier, MaskedClassifier])
def test_a_network_that_behaves_on_the_first_images_alone_is_refused(kind, black, batch_size, wrong):
    classifier = kind(OfLight(wrong), BAND, *[Patch(2, 2)] * (kind is MaskedClassifier))
    with pytest.raises(ValueError, match="the same answer whatever else is in the batch"):
        certify(classifier, after_black_ones(black), LABELS, Patch(2, 2), batch_size=batch_size)


def test_scripts_try_images_from_the_whole_data_set():
    images = (255 * after_black_ones(10)).byte()
    dataset = Dataset(images, LABELS, torch.arange(len(images)))
    options = argparse.Namespace(weights=None, batch_size=4, device=torch.device("cpu"), amp=False, model="own:network")
    assert any_network.manner_of(options, SmoothedClassifier(small(), BAND), dataset).apart < 1e-4
    with pytest.raises(UsageError, match=r"^model own:network: a network must give a copy the same answer whatever"):
        any_network.manner_of(options, SmoothedClassifier(OfLight(WRONG[0]), BAND), dataset)


class AllBands(nn.Module):
    """Of limited reach, but where a band is not black it looks around, or at the other images."""

    limited_reach = True

    def __init__(self, wrong):
        super().__init__()
        self.network, self.wrong = small(), wrong

    def forward(self, images):
        shown = encode(images)[:, None] * BAND.masks()[:, None]
        logits = self.network(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
        return logits + self.wrong(images) * shown[:, :, 0].amax(dim=(2, 3))[..., None]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda images: images.mean(dim=(1, 2, 3))[:, None, None], "a copy's answer must come from its own pixels"),
        (lambda images: 1e-5 * images.amax(), "the same answer whatever else is in the batch"),
    ],
)
@pytest.mark.parametrize(("black", "batch_size"), [(1, 128), (10, 4)])
def test_limited_reach_is_tried_on_several_images(black, batch_size, wrong, message):
    classifier = MaskedClassifier(AllBands(wrong), BAND, Patch(2, 2))
    with pytest.raises(ValueError, match=message):
        certify(classifier, after_black_ones(black), LABELS, batch_size=batch_size)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_trying_costs_few_passes(count):
    asked = []
    network = small()
    network.register_forward_pre_hook(lambda module, inputs: asked.append(len(inputs[0])))
    classifier = SmoothedClassifier(network, BAND)
    manner_of(classifier, classifier.engine(IMAGES), IMAGES[:count], 36)
    assert sum(asked) <= 3 * 36 + 4 * COPIES and len(asked) <= 13


def test_noise_that_a_trace_would_have_frozen_is_refused():
    class FrozenNoise(Around):
        def forward(self, copies):
            return self.network(copies) + float(torch.rand(()))

    classifier = SmoothedClassifier(FrozenNoise(), BAND, engine="windowed")
    with pytest.raises(ValueError, match="the same answer each time"):
        certify(classifier, IMAGES, LABELS, Patch(1, 1))


class CastToHalf(Around):
    def __init__(self, classes, dtype=torch.bfloat16):
        super().__init__(classes)
        self.network.to(dtype)
        self.dtype = dtype

    def forward(self, copies):
        return self.network(copies.to(self.dtype)).float()


class OwnAutocast(Around):
    def forward(self, copies):
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(copies).float()


class OnlyTheLast(Around):
    """A head in bfloat16, of which ten classes mostly prove nothing: these are a thousand."""

    def __init__(self, classes):
        super().__init__(classes)
        self.network[5].bfloat16()

    def forward(self, copies):
        return self.network[5](self.network[:5](copies).bfloat16()).float()


HALVES = [CastToHalf, lambda classes: CastToHalf(classes, torch.float16), OwnAutocast, OnlyTheLast]


@pytest.mark.parametrize("make", HALVES)
@pytest.mark.parametrize(("masked", "least"), [(True, 1.0), (False, 0.1)])
def test_the_margin_is_that_of_the_arithmetic_that_runs(make, masked, least):
    def classifier(network):
        return MaskedClassifier(network, BAND, Patch(1, 1)) if masked else SmoothedClassifier(network, BAND, 0.1)

    with pytest.warns(Note, match="the numerical margin is .*, since the network computes in bfloat16"):
        result = certify(classifier(make(1000)), IMAGES, LABELS, Patch(1, 1))
    assert result.answers[0].question["numerical_margin"] >= least and result.arithmetic["precision"] == "bfloat16"
    exact = certify(classifier(small(1000)), IMAGES, LABELS, Patch(1, 1))
    assert exact.answers[0].question["numerical_margin"] == least / 1000 and exact.arithmetic["precision"] == "float32"


def test_what_differs_between_batches_raises_the_margin():
    class OfItsSize(Around):
        """As kernels for other numbers of rows do it, which round in another order."""

        def forward(self, copies):
            return 100 * self.network(copies) * (1 + 2**-18 * (len(copies) == 1))

    scores, votes = MaskedClassifier(OfItsSize(), BAND, Patch(1, 1)), SmoothedClassifier(OfItsSize(), BAND)
    manner = manner_of(votes, votes.engine(IMAGES), IMAGES, 128)
    assert manner.arithmetic == "float32" and manner.apart > 1e-4
    for classifier, of_scores in ((scores, True), (votes, False)):
        margin = manner.margin(of_scores)
        with pytest.warns(Note, match="since the network computes in float32, and its logits differed by"):
            (answer,) = certify(classifier, IMAGES, LABELS, Patch(1, 1)).answers
        assert answer.question["numerical_margin"] == margin > (1e-3 if of_scores else 1e-4)


class OfItsNumber(nn.Module):
    """Answers otherwise in batches of another size, by much of its logits or by little."""

    def __init__(self, much):
        super().__init__()
        self.network, self.much = small(), much

    def forward(self, copies):
        return 100 * self.network(copies) * (1 + self.much * len(copies))


def test_copies_asked_about_in_order_are_tried_in_batches_of_other_sizes_too():
    """Certificates ask in batches of 16, and predictions of a classifier with a small batch size in smaller ones."""
    patch = Patch(2, 2)
    windows = WindowPairs.for_patch(SIZE, SIZE, patch, 2)
    with pytest.raises(ValueError, match="the same answer whatever else is in the batch"):
        certify(MaskedClassifier(OfItsNumber(0.01), windows, patch, batch_size=4), IMAGES, LABELS)
    little = MaskedClassifier(OfItsNumber(2.0**-20), windows, patch, batch_size=4)
    with pytest.warns(Note, match="since the network computes in float32, and its logits differed by"):
        (answer,) = certify(little, IMAGES, LABELS).answers
    assert answer.question["numerical_margin"] > 2e-3
    assert manner_in_order(little, IMAGES, 128, rounded=True).apart == 0


LEVELS = {
    "fake_quantize": lambda maps: torch.fake_quantize_per_tensor_affine(maps, 0.02, 0, 0, 255),
    "round": lambda maps: (50 * maps).round() / 50,
    "floor": lambda maps: (50 * maps).floor().div_(50),
    "compare": lambda maps: (maps[..., None] > torch.arange(50) / 50).sum(-1) / 50,
}


@pytest.mark.parametrize("levels", LEVELS)
def test_jumps_of_networks_that_round_to_levels_raise_the_margin(levels):
    """Rounding in another order moves one copy in a thousand, and this one by levels, which few tries would show."""
    network = nn.Sequential(*(Function(LEVELS[levels]) if isinstance(part, nn.ReLU) else part for part in small()))
    scores, votes = MaskedClassifier(network, BAND, Patch(1, 1)), SmoothedClassifier(network, BAND)
    for classifier in (scores, votes):
        with pytest.warns(Note, match="since the network computes in float32 and rounds to levels: rounding moves"):
            (answer,) = certify(classifier, IMAGES, LABELS, Patch(1, 1)).answers
        assert answer.question["numerical_margin"] > 0.04
    plain = SmoothedClassifier(nn.Sequential(Function(LEVELS[levels]), *small()), BAND)  # pixels are not added up
    (answer,) = certify(plain, IMAGES, LABELS, Patch(1, 1)).answers
    assert answer.question["numerical_margin"] == 1e-4


@torch.no_grad()
def test_looking_at_answers_is_no_rounding_to_levels():
    """As whoever asks a network looks whether its answers are finite, or probabilities."""
    network, copies = small(), torch.rand(4, 2, SIZE, SIZE)
    assert not Comparison(lambda: finite(network(copies))).levels
    assert not Comparison(lambda: network(copies) if not are_probabilities(network(copies), 0.1) else copies).levels
    assert Comparison(lambda: finite(network((copies > 0.5).float()))).levels


@torch.no_grad()
def test_networks_that_compare_without_jumping_keep_their_margin():
    """A leaky ReLU of one's own: at zero, what it compares makes no difference."""
    torch.manual_seed(0)
    leaky = Function(lambda maps: torch.where(maps > 0, maps, maps / 4))
    layers = [(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), leaky) for _ in range(9)]
    network, copies = (
        nn.Sequential(*(part for layer in layers for part in layer), nn.Flatten()),
        torch.rand(8, 8, 12, 12),
    )
    for _ in range(30):
        network(copies)
    network.eval()
    seen = Comparison(lambda: network(copies))
    seen.note_jumps()
    assert seen.levels and not seen.jumps and seen.apart == 0


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, maps):
        return self.function(maps)


class NearlyTied(nn.Module):
    """Two classes whose logits are one sum, taken in two orders: rounding alone tells them apart."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(2 * SIZE * SIZE, 1), nn.Linear(2 * SIZE * SIZE, 1)
        self.order = torch.randperm(2 * SIZE * SIZE)
        self.second.weight.data, self.second.bias.data = self.first.weight[:, self.order], self.first.bias

    def forward(self, copies):
        pixels = copies.flatten(1)
        return 300 * torch.cat([self.first(pixels), self.second(pixels[:, self.order])], dim=1)


@pytest.mark.parametrize("make", [SmoothedClassifier, MaskedClassifier])
def test_what_rounding_decides_is_not_certified(make):
    """Without a margin much is, and then the answer of `predict`, in batches of another size, is another one."""
    classifier = make(NearlyTied(), BAND, *([Patch(1, 1), 0.5] if make is MaskedClassifier else []))
    (answer,) = certify(classifier, IMAGES, LABELS, Patch(1, 1)).answers
    (without,) = certify(classifier, IMAGES, LABELS, Patch(1, 1), numerical_margin=0).answers
    assert not answer.certified.any() and without.certified.any()


@pytest.mark.parametrize("patch", [Patch(1, 1), Patch(2, 5), Patch(4, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_patches_touch_the_copies_that_show_their_pixels(kind, patch):
    sizes = {"MultiBand": (2, 3), "MultiBlock": (2, 3), "WindowPairs": (7, 3), "BandsAndWindows": (2, 7, 3)}
    sizes |= {"RefinedPairs": (7, 3, 7, 5), "Whole": ()}
    require_masks(KINDS[kind](SIZE, SIZE, *sizes.get(kind, (3,))), [patch])


class Feathered(Band):
    """Shows a little of what lies beside each band."""

    def masks(self, indices=None):
        shown = super().masks(indices).float()
        return shown + 0.1 * shown.roll(1, dims=2)


class Drawn(Band):
    """Shows other bands each time."""

    def cells_shown(self, indices):
        return super().cells_shown((indices + torch.randint(self.count, indices.shape)) % self.count)


class Untouched(Band):
    def touching(self, patch_cells, indices):
        return super().touching(patch_cells, indices) & (indices > 0)


@pytest.mark.parametrize("kind", [Feathered, Drawn, Untouched])
@pytest.mark.parametrize("made", [SmoothedClassifier, MaskedClassifier])
def test_masks_that_show_other_pixels_than_they_say_are_refused(kind, made):
    torch.manual_seed(0)
    patch = Patch(2, 2)
    classifier = made(small(), kind(SIZE, SIZE, 3), *[patch] * (made is MaskedClassifier))
    with pytest.raises(ValueError, match=f"^{kind.__name__} has masks that show other pixels than patches of 2 are"):
        certify(classifier, IMAGES, LABELS, patch)


class OfTwoSizes(BandAndRow):
    """Its bands are wider than those into which it is divided."""

    def cells_shown(self, indices):
        return BandAndRow(self.height, self.width, self.band_size + 1).cells_shown(indices)


class Uncovered(WindowPairs):
    """Hides less than its windows."""

    def cells_shown(self, indices):
        return super().cells_shown(indices) | super().cells_shown(indices - 1)


@pytest.mark.parametrize(
    ("ablation", "what"), [(OfTwoSizes(SIZE, SIZE, 3), "families"), (Uncovered(SIZE, SIZE, 7, 3), "windows")]
)
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_double_masking_is_of_what_the_masks_show(ablation, what, threshold):
    """Which copies a patch touches follows from the masks, so that votes alone may be certified."""
    network, patch = small(), Patch(2, 2)
    with pytest.raises(
        ValueError, match=f"^{type(ablation).__name__} has masks that show other pixels than its {what}"
    ):
        certify(MaskedClassifier(network, ablation, patch, threshold), IMAGES, LABELS, patch)
    certify(SmoothedClassifier(network, ablation, threshold), IMAGES[:2], LABELS[:2], patch)


def test_a_classifier_has_one_engine_whoever_asks():
    network = small()
    windowed, dense = (SmoothedClassifier(network, BAND, 0.2, engine=name) for name in ("windowed", "dense"))
    logits = torch.cat([*windowed.every_copy(IMAGES, 128)])
    every = torch.arange(BAND.count)
    own = torch.cat([WindowedNetwork(network, BAND, 2).logits(encode(part), every) for part in IMAGES.split(10)])
    assert torch.equal(logits, own) and not torch.equal(logits, torch.cat([*dense.every_copy(IMAGES, 128)]))
    result = certify(windowed, IMAGES, LABELS, Patch(1, 1))
    assert result.config["engine"] == "WindowedNetwork" and result.answers[0].certified.any()
    votes = (logits.softmax(2) >= 0.2).sum(1)
    assert torch.equal(result.answers[0].predicted, votes.argmax(1)) and torch.equal(windowed(IMAGES), votes.float())
    assert torch.equal(windowed.predict(IMAGES), votes.argmax(1))


def test_the_windowed_engine_has_the_gradients_of_the_whole_network():
    network, weights = small(), torch.randn(20, 10)
    found = []
    for name in ("windowed", "dense"):
        classifier, images = SmoothedClassifier(network, BAND, 0.2, engine=name), IMAGES.clone().requires_grad_()
        for output in (classifier(images), classifier.soft()(images)):
            (gradient,) = torch.autograd.grad((output * weights).sum(), images)
            found.append((output.detach(), gradient))
    for (output, gradient), (expected, of_dense) in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(gradient, of_dense)
        assert gradient.any()


def test_the_engine_is_that_of_the_network_as_it_is_now():
    network = small()
    classifier = SmoothedClassifier(network, BAND, 0.2, engine="windowed")
    before = classifier(IMAGES)
    network[5].weight.data.neg_()
    assert not torch.equal(classifier(IMAGES), before)
    network.register_forward_hook(lambda module, inputs, logits: -logits)
    with pytest.raises(ValueError, match="the network uses a forward hook"):
        classifier(IMAGES)


def test_votes_near_the_threshold_are_the_adversarys_in_double_masking():
    """Against all ways in which they can be cast."""
    band, generator = Band(4, 5, 1), torch.Generator().manual_seed(3)
    masked = MaskedClassifier(nn.Flatten(), band, Patch(1, 1), threshold=0.4)
    probabilities = (torch.randn(150, 5, 3, generator=generator) * 0.8 + torch.tensor([0.9, 0, 0])).softmax(2)
    rule, margin = masked.rule, 0.04
    plain, safe = masked.verdicts(
        probabilities.log(),
        torch.zeros(150, 5),
        [Question(Patch(1, 1), rule, "masking", 1, nu) for nu in (0.0, margin)],
    )
    certain, possible = rule.bounds(probabilities, margin)
    flips = 0
    for image in range(150):
        copies, classes = (certain[image] != possible[image]).nonzero(as_tuple=True)
        for cast in product([False, True], repeat=len(copies)):
            votes = certain[image].clone()
            votes[copies, classes] = torch.tensor(cast, dtype=torch.bool)
            verdicts = masked.masking.verdicts(votes[None].float(), Margin(0.0))
            other = not verdicts.certified or verdicts.predicted != plain.predicted[image]
            assert not (other and safe.certified[image])
            flips += bool(other and plain.certified[image])
    assert flips > 5 and int(safe.certified.sum()) > 5
    assert torch.equal(safe.predicted, plain.predicted) and (safe.certified <= plain.certified).all()
    assert torch.equal(safe.within_margin, plain.certified & ~safe.certified)
