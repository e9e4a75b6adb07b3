"""What users may hand over: what can be an answer is one, by every way to ask; all else is a ValueError of one line."""

import contextlib
import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from patchcert import (
    Band,
    BandAndRow,
    MaskedClassifier,
    Patch,
    Row,
    SmoothedClassifier,
    certify,
    encode,
    interval_bounds,
)
from patchcert.errors import Note
from tests.helpers import UPWARD, needs_x86, rounding_mode

HEIGHT, WIDTH = 2, 7
BAND, PATCH = Band(HEIGHT, WIDTH, 2), Patch(1, 2)
IMAGES, LABELS = torch.rand(5, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 3
EVERY = torch.arange(5)
"""Image, and copy, of each question to `logits`."""

WAYS = {
    "predict": lambda classifier, images: classifier.predict(images),
    "forward": lambda classifier, images: classifier(images).argmax(1),
    "soft": lambda classifier, images: classifier.soft()(images).argmax(1),
    "certify": lambda classifier, images: certify(classifier, images, patches=PATCH).answers[0].predicted,
}


def linear(scale=1.0, classes=3):
    """A base classifier of copies with logits of about this size."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * HEIGHT * WIDTH, classes))
    network[1].weight.data *= 4 * scale
    network[1].bias.data *= scale
    return network


def of_maps():
    """One that shuffles pixels, in a way that windows do not know, before a linear layer."""
    return nn.Sequential(nn.PixelUnshuffle(1), *linear())


class Of(nn.Module):
    """A network whose forward is a function of what it is shown and of a linear one."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.network, self.function = linear(), function
        vars(self).update(attributes)

    def forward(self, shown):
        return self.function(self.network, shown)


CLASSIFIERS = {
    "votes": lambda network: SmoothedClassifier(network, BAND, 0.4),
    "top one": lambda network: SmoothedClassifier(network, BAND),
    "masked votes": lambda network: MaskedClassifier(network, BAND, PATCH, 0.4),
    "masked scores": lambda network: MaskedClassifier(network, BAND, PATCH),
}


@pytest.mark.parametrize("scale", [1, 1e6, 1e9, 6e37])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_largest_number_of_forward_is_the_answer_at_every_scale(name, scale):
    """At the last one sums of log-probabilities have no number in float32."""
    classifier = CLASSIFIERS[name](linear(scale))
    images = torch.rand(300, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5)).requires_grad_()
    totals, answers = classifier(images), classifier.predict(images)
    assert torch.equal(totals.argmax(1), answers) and totals.isfinite().all()
    (gradient,) = torch.autograd.grad(totals[:, 0].sum(), images)
    assert gradient.isfinite().all() and (gradient.any() or (scale > 1e6 and name != "masked scores"))
    logits = torch.cat(list(classifier.every_copy(images.detach(), 64)))
    added = logits.log_softmax(dim=-1) if name == "masked scores" else classifier.ballots(logits)
    sums = added.double().sum(dim=1)
    assert ((sums == sums.amax(1, keepdim=True)).sum(1) > 1).any() or name == "masked scores"  # ties
    assert sums.float().isinf().any() == (scale > 1e9 and name == "masked scores")
    assert (sums.argmax(1) != answers).any() or not name.startswith("masked")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["votes", "masked scores"])
def test_what_certify_takes_all_take(name, way):
    classifier, ask = CLASSIFIERS[name](linear()), WAYS[way]
    by_bytes, by_halves = (255 * IMAGES).to(torch.uint8), IMAGES.half()
    for images, same in ((by_bytes, by_bytes / 255), (by_halves, by_halves.float()), (IMAGES.double(), IMAGES)):
        assert torch.equal(ask(classifier, images), ask(classifier, same))
        assert torch.equal(ask(classifier, images.numpy()), ask(classifier, same))


@needs_x86
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_nobody_answers_unless_numbers_are_rounded_to_nearest(name, way):
    classifier = CLASSIFIERS[name](linear())
    with rounding_mode(UPWARD), pytest.raises(FloatingPointError, match="not rounded to nearest"):
        WAYS[way](classifier, IMAGES)
    WAYS[way](classifier, IMAGES)


@needs_x86
def test_a_loader_may_not_change_how_numbers_are_rounded():
    """As the import of a decoder does that reads the images."""

    def batches():
        yield IMAGES
        stack.enter_context(rounding_mode(UPWARD))
        yield IMAGES

    with contextlib.ExitStack() as stack, pytest.raises(FloatingPointError, match="not rounded to nearest"):
        certify(CLASSIFIERS["votes"](linear()), batches(), patches=PATCH)


def test_what_copies_hide_leaves_no_trace_of_its_sign():
    """−0 is in [0, 1] too, and −0 times 0 is −0, which the angle of (x, 1 − x) tells from 0."""
    angles = Of(lambda network, copies: network(copies.atan2(copies.flip(1))))
    classifier = SmoothedClassifier(angles, BAND)
    zeros, negative = IMAGES.clone(), IMAGES.clone()
    zeros[..., 3], negative[..., 3] = 0.0, -0.0
    zeros, negative = (torch.cat(list(classifier.every_copy(images, 64))) for images in (zeros, negative))
    assert torch.equal(zeros, negative)


class Mirrored(SmoothedClassifier):
    """Its predictions are of mirror images, and so no certificate is of them."""

    def predict(self, images, batch_size=None):
        return super().predict(images.flip(3), batch_size)


def with_hook(classifier):
    classifier.register_forward_pre_hook(lambda module, images: (1 - images[0],))
    return classifier


def with_method(classifier):
    classifier.decide = lambda ballots: ballots.sum(dim=1).argmin(dim=1)
    return classifier


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mirrored(linear(), BAND), "classifier Mirrored: has a `predict` of its own; certificates are of the"),
        (lambda: with_hook(CLASSIFIERS["votes"](linear())), "classifier SmoothedClassifier: has a forward pre-hook, "),
        (lambda: with_method(CLASSIFIERS["masked votes"](linear())), "classifier MaskedClassifier: has a `decide` set"),
    ],
)
def test_a_classifier_that_answers_in_a_way_of_its_own_has_no_certificates(make, message):
    refused(message, lambda: certify(make(), IMAGES, patches=PATCH))


def test_hooks_on_all_modules_are_on_classifiers_too():
    def negated(module, inputs, answers):
        return -answers if isinstance(module, SmoothedClassifier) else None

    classifier = CLASSIFIERS["votes"](linear())
    hook = nn.modules.module.register_module_forward_hook(negated)
    try:
        assert not torch.equal(classifier(IMAGES).argmax(1), classifier.predict(IMAGES))
        refused("has a forward hook on all modules", lambda: certify(classifier, IMAGES, patches=PATCH))
    finally:
        hook.remove()
    certify(classifier, IMAGES, patches=PATCH)


@pytest.mark.parametrize("change", [{"patch": Patch(2)}, {"at_once": 2}, {"ablation": Band(HEIGHT, WIDTH, 1)}])
def test_the_masks_of_a_classifier_are_of_what_it_says_it_is_for(change):
    classifier = CLASSIFIERS["masked scores"](linear())
    ((name, value),) = change.items()
    refused(f"^{name} .*: expected none: the masks are made already", lambda: setattr(classifier, name, value))
    assert copy.deepcopy(classifier).patch == pickle.loads(pickle.dumps(classifier)).patch == PATCH


def test_limited_reach_is_that_of_the_network_as_it_is_now():
    classifier = SmoothedClassifier(linear(), BAND)
    every = Of(lambda network, images: images.flatten(1)[:, None, :3].expand(-1, BAND.count, -1), limited_reach=True)
    classifier.network = every
    refused("a copy's answer must come from its own pixels alone", lambda: certify(classifier, IMAGES, patches=PATCH))


BRIGHTEST = IMAGES.amax() == IMAGES
JUST_ABOVE, JUST_BELOW = 1 + torch.finfo().eps, -torch.finfo().smallest_normal


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["votes", "masked scores"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES * 255, "images have pixels from .* expected floats in .0, 1., or uint8 up to 255"),
        (IMAGES.masked_fill(BRIGHTEST, JUST_ABOVE), "images have pixels from .* to 1.00000012, expected"),
        (IMAGES.masked_fill(BRIGHTEST, JUST_BELOW), "images have pixels from -1.17549435e-38 to "),
        (IMAGES.masked_fill(BRIGHTEST, torch.nan), "images have pixels from nan to nan"),
        ((255 * IMAGES).long(), "images are torch.int64, expected floats in"),
        (IMAGES.permute(0, 2, 3, 1), r"images are \(5, 2, 7, 1\), expected \(N, C, 2, 7\)"),
        (IMAGES[0], r"images are \(1, 2, 7\), expected"),
        (IMAGES[:0], r"images are \(0, 1, 2, 7\), expected"),
        (IMAGES.expand(5, 3, HEIGHT, WIDTH), "network fails on copies with channels .x, 1 − x., .*RuntimeError"),
        (IMAGES.to_sparse(), "images are sparse, quantised or without values, expected a tensor or array"),
        (IMAGES.to("meta"), "images are sparse, quantised or without values, expected a tensor or array"),
        ((IMAGES, LABELS), "images are a tuple, expected a tensor or array"),
        ({"images": IMAGES}, "images are a dict, expected a tensor or array"),
        (["a.png"], "images are a list of <U5"),
        (None, "images are a NoneType, expected"),
    ],
)
def test_what_certify_refuses_all_refuse(name, way, images, message):
    refused(message, lambda: WAYS[way](CLASSIFIERS[name](linear()), images))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "certify"])
def test_only_certify_takes_a_loader(way):
    loader = DataLoader(TensorDataset(IMAGES, LABELS))
    message = "images are a DataLoader, .*; torch.cat joins the batches of a loader"
    refused(message, lambda: WAYS[way](CLASSIFIERS["votes"](linear()), loader))


def refused(message, ask):
    """Holds if `ask` is refused in one line that names arguments and no options."""
    with pytest.raises(ValueError, match=message) as error:
        ask()
    assert "\n" not in str(error.value) and "--" not in str(error.value)


NETWORKS = {
    "a tuple for copies": lambda network, shown: (network(shown),),
    "a dict for copies": lambda network, shown: {"logits": network(shown)},
    "a NoneType for copies": lambda network, shown: None,
    r"expected logits \(\d+, K\), floats": lambda network, shown: network(shown).long(),
    r"gives \(\d+, 1\) for copies .* expected logits of at least two classes": lambda network, shown: network(shown)[
        :, :1
    ],
    "fails on copies with .*: KeyError": lambda network, shown: network({}[0]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("message", NETWORKS)
def test_networks_that_give_no_logits_are_refused(message, way):
    refused(message, lambda: WAYS[way](CLASSIFIERS["votes"](Of(NETWORKS[message])), IMAGES))


@pytest.mark.parametrize("way", WAYS)
def test_exported_programs_have_no_eval_mode(way):
    exported = torch.export.export(linear().eval(), (encode(IMAGES),))
    refused("GraphModule that has no eval mode", lambda: WAYS[way](CLASSIFIERS["votes"](exported.module()), IMAGES))
    refused("network ExportedProgram: expected a torch.nn.Module", lambda: CLASSIFIERS["votes"](exported))


class Returning(Of):
    """A network with an `eval` of its own, which returns something else than the network."""

    def eval(self):
        super().eval()
        return self.returned


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["votes", "masked scores"])
def test_the_network_that_was_handed_over_answers_whatever_its_eval_returns(name, way):
    """Otherwise one network would be tried, and another one asked."""
    expected = WAYS[way](CLASSIFIERS[name](linear()), IMAGES)
    for returned in (None, linear(-1)):
        network = Returning(lambda network, shown: network(shown), returned=returned)
        assert torch.equal(WAYS[way](CLASSIFIERS[name](network), IMAGES), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["cat"] * 5}, "labels are a list of <U3"),
        ({"labels": {"cat": 1}}, "labels are a dict, expected a tensor or array of whole numbers"),
        ({"labels": LABELS[:, None].expand(5, 2)}, r"labels are torch.int64 \(5, 2\), expected whole numbers \(5,\)"),
        ({"labels": Patch(1)}, "labels are a Patch"),
        ({"patches": 5}, "patches 5: expected a Patch"),
        ({"patches": [5]}, "patches .5.: expected a Patch"),
        ({"patches": "5"}, "patches 5: expected a Patch"),
        ({"patches": []}, "patches .*: expected a Patch"),
        ({"patches": Patch(3)}, "patches 3: expected a patch that fits into 2 × 7 pixels"),
        ({"certificate": 5}, "certificate 5: expected the name of one"),
        ({"at_once": "2"}, "at_once '2': expected a whole number from 1 to 2"),
        ({"numerical_margin": "0.1"}, "numerical_margin '0.1': expected a number of at least 0"),
        ({"batch_size": 2.5}, "batch_size 2.5: expected a whole number from 1"),
        ({"classifier": SmoothedClassifier(of_maps(), BAND, engine="windowed")}, "; dense always works"),
    ],
)
def test_what_is_no_question_is_refused_by_the_names_of_arguments(change, message):
    asked = {"classifier": CLASSIFIERS["votes"](linear()), "images": IMAGES, "labels": LABELS, "patches": PATCH}
    refused(message, lambda: certify(**(asked | change)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Patch(0, 5), "height 0: expected a whole number from 1 on"),
        (lambda: Patch(5, -1), "width -1: expected a whole number from 1 on"),
        (lambda: Patch("5"), "height '5': expected a whole number from 1 on"),
        (lambda: Patch(5, 2.5), "width 2.5: expected a whole number from 1 on"),
        (lambda: SmoothedClassifier(lambda copies: copies, BAND), "network function: expected a torch.nn.Module"),
        (lambda: SmoothedClassifier(linear(), 4), "ablation 4: expected one such as Band"),
        (lambda: SmoothedClassifier(linear(), BAND, "0.3"), "threshold '0.3': expected a number from 0 to 1"),
        (lambda: SmoothedClassifier(linear(), BAND, engine=5), "engine 5: expected dense or windowed"),
        (lambda: SmoothedClassifier(linear(), BAND, batch_size=0), "batch_size 0: expected a whole number from 1"),
        (lambda: CLASSIFIERS["votes"](linear()).predict(IMAGES, 0), "batch_size 0: expected a whole number from 1"),
        (lambda: MaskedClassifier(linear(), BAND, 5), "patch 5: expected a Patch"),
        (lambda: MaskedClassifier(linear(), BAND, Patch(5)), "patch 5: expected a patch that fits"),
        (lambda: MaskedClassifier(linear(), BAND, PATCH, at_once=3), "at_once 3: expected a whole number from 1 to 2"),
        (lambda: Band("28", 28, 4), "height '28': expected a whole number from 1 on"),
        (lambda: encode((255 * IMAGES).to(torch.uint8)), "images are torch.uint8 .* of floats in .0, 1."),
    ],
)
def test_what_cannot_be_made_is_refused_by_the_names_of_arguments(make, message):
    refused(message, make)


def test_a_patch_of_one_side_is_a_square():
    assert (
        Patch(5) == Patch(5, 5) == Patch(np.int64(5)) and Patch(5).size == 5 and type(Patch(np.int64(5)).height) is int
    )


@pytest.mark.parametrize(
    "labels", [LABELS.tolist(), LABELS.numpy().astype(">i4"), LABELS.numpy().astype(object), LABELS.to(torch.uint16)]
)
def test_labels_of_any_whole_numbers_are_taken(labels):
    asked = CLASSIFIERS["votes"](linear()), IMAGES
    expected, found = (certify(*asked, given, PATCH) for given in (LABELS, labels))
    assert torch.equal(found.labels, LABELS) and found.clean_accuracy == expected.clean_accuracy


def test_results_keep_labels_of_their_own():
    labels, network = LABELS.clone(), nn.Sequential(nn.Flatten(), nn.Linear(HEIGHT * WIDTH, 3))
    certified = certify(CLASSIFIERS["votes"](linear()), IMAGES, labels, PATCH)
    bounded = interval_bounds(network, IMAGES, labels, PATCH)
    before = [result.clean_accuracy for result in (certified, bounded)]
    labels += 1
    assert [result.clean_accuracy for result in (certified, bounded)] == before
    assert torch.equal(certified.labels, LABELS) and torch.equal(bounded.labels, LABELS)


def test_certificates_need_no_labels():
    ordinary = nn.Sequential(nn.Flatten(), nn.Linear(HEIGHT * WIDTH, 3))
    for ask in (
        lambda labels: certify(CLASSIFIERS["votes"](linear()), IMAGES, labels, PATCH),
        lambda labels: interval_bounds(ordinary, IMAGES, labels, PATCH),
    ):
        with_labels, without = ask(LABELS), ask(None)
        (answer,) = without.answers
        assert torch.equal(answer.certified, with_labels.answers[0].certified) and without.labels is None
        assert str(without).endswith(f"{int(answer.certified.sum())} of 5 answers certified, right or wrong")
        for asked in (
            lambda without=without: without.certified_accuracy,
            lambda without=without: without.clean_accuracy,
            lambda answer=answer: answer.counts,
            without.to_dict,
        ):
            refused("^without labels there are .* no counts or accuracies$", asked)


def test_tables_without_labels_have_none():
    pytest.importorskip("pandas")
    table = certify(CLASSIFIERS["votes"](linear()), IMAGES, patches=[PATCH, Patch(1)]).to_dataframe()
    assert len(table) == 10 and "label" not in table and table["index"].tolist() == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize("limited", [False, True])
def test_a_network_may_write_into_what_it_is_shown(limited):
    """It gets copies: neither the caller's pictures change, nor what others are asked about, nor the answers."""

    def of_every_band(network, images):
        shown = encode(images)[:, None] * BAND.masks()[:, None]
        return network(shown.flatten(0, 1)).view(len(images), BAND.count, -1)

    def of_one(network, copies):
        return network(copies)

    def writing(network, shown):
        answer = of_one_or_every(network, shown)
        shown.mul_(0).add_(0.5)
        return answer

    of_one_or_every = of_every_band if limited else of_one
    plain, written = (
        CLASSIFIERS["masked scores"](Of(function, limited_reach=limited)) for function in (of_one_or_every, writing)
    )
    images = IMAGES.clone()
    for ask in WAYS.values():
        assert torch.equal(ask(written, images), ask(plain, IMAGES)) and torch.equal(images, IMAGES)
    assert torch.equal(written.logits(images, EVERY, EVERY), plain.logits(IMAGES, EVERY, EVERY))
    encoded, engine = encode(images), written.engine(images)
    first, again = (engine.logits(encoded, EVERY) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(encoded, encode(IMAGES)) and torch.equal(images, IMAGES)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "soft"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_network_may_give_the_same_tensor_each_time(name, way):
    """As networks do that others have compiled to a graph with memory of its own."""
    own = torch.empty(600, 3)

    def into_the_same(network, copies):
        return own[: len(copies)].copy_(network(copies))

    with torch.no_grad():
        one, other = (CLASSIFIERS[name](network) for network in (linear(), Of(into_the_same)))
        one.batch_size = other.batch_size = 2 * BAND.count
        assert torch.equal(WAYS[way](one, IMAGES), WAYS[way](other, IMAGES))


def test_probabilities_in_place_of_logits_get_a_note():
    probabilities = nn.Sequential(*linear(), nn.Softmax(dim=1))
    with pytest.warns(
        Note, match="^the network gives probabilities, which are taken for logits.*; let it give logits$"
    ):
        certify(CLASSIFIERS["votes"](probabilities), IMAGES, patches=PATCH)
    with warnings.catch_warnings(action="error"):
        for network in (linear(), nn.Sequential(*linear(), nn.LogSoftmax(dim=1)), nn.Sequential(*linear(), nn.ReLU())):
            certify(CLASSIFIERS["votes"](network), IMAGES, patches=PATCH)


def without_grad(network, shown):
    with torch.no_grad():
        return network(shown)


def in_inference_mode(network, shown):
    with torch.inference_mode():
        return network(shown)


@pytest.mark.parametrize(
    "function",
    [
        without_grad,
        in_inference_mode,
        lambda network, shown: network(shown).detach(),
        lambda network, shown: network(shown.detach()),  # weights get a gradient, pixels none
    ],
)
def test_networks_without_gradient_are_refused_where_one_is_wanted(function):
    for name in ("votes", "masked scores"):
        classifier, images = CLASSIFIERS[name](Of(function)), IMAGES.clone().requires_grad_()
        for ask in (classifier, classifier.soft(), lambda images, ask=classifier: ask.logits(images, EVERY, EVERY)):
            refused("^the network passes no gradient on", lambda ask=ask, images=images: ask(images))
            with torch.no_grad():
                ask(images)
            ask(IMAGES)
        assert torch.equal(classifier.predict(images), CLASSIFIERS[name](linear()).predict(IMAGES))


@pytest.mark.parametrize("ablation", [BAND, Row(HEIGHT, WIDTH, 1), BandAndRow(HEIGHT, WIDTH, 2)])
def test_networks_that_write_in_place_hand_their_gradient_on(ablation):
    classifier = SmoothedClassifier(Of(lambda network, shown: network(shown.mul_(0.5))), ablation)
    images = IMAGES.clone().requires_grad_()
    for totals in (classifier(images), classifier.soft()(images), classifier.logits(images, EVERY, EVERY)):
        assert torch.autograd.grad(totals[:, 0].sum(), images)[0].any()
