"""`certify` of a `WindowMaskedClassifier`, against what the class itself says of images."""

import pytest
import torch
from torch import nn

from patchcert import (
    HiddenWindows,
    Patch,
    PlainNetwork,
    WindowMaskedClassifier,
    WindowPairs,
    certify,
    result_format,
)
from patchcert.classifiers.probing import manner_of_windows
from patchcert.errors import Note
from patchcert.masking.alarms import ALARM
from tests.helpers import UPWARD, needs_x86, rounding_mode
from tests.test_window_masked import WINDOWS, Majority, attacks, pictures

IMAGES, LABELS = pictures(40), (torch.arange(40) > 19).long()


def classifier(network=None, **named):
    return WindowMaskedClassifier((network or Majority()).eval(), WINDOWS, **named)


def test_recovery_is_that_of_the_class():
    (answer,) = certify(classifier(), IMAGES, LABELS).answers
    verdicts = list(classifier().verdicts(IMAGES, 1e-3))
    assert answer.predicted.tolist() == [verdict.predicted for verdict in verdicts]
    assert answer.certified.tolist() == [verdict.certified for verdict in verdicts]
    assert 10 < int(answer.certified.sum()) < 40
    assert answer.verdicts["dissenting"].equal(classifier().predict(IMAGES, where=True)[1])
    passes = [verdict.passes for verdict in verdicts]
    result = certify(classifier(), IMAGES, LABELS)
    assert result.passes.tolist() == passes and result.to_dict()["passes"] == sum(passes)
    assert answer.patch == Patch(1) and answer.counts.certified_wrong == 0 < answer.clean_accuracy


def test_alarms_are_those_of_the_class():
    goals = {"goal": ["alert", "recover"], "confidence": ["strict", 0.9]}
    result = certify(classifier(), IMAGES, LABELS, **goals)
    strict, sure, recovered = result.answers
    alarms = classifier().alarms(IMAGES)
    for answer, (output, certain) in ((strict, alarms.strict(1e-3)), (sure, alarms.by_confidence(0.9, 1e-3))):
        assert answer.predicted.equal(output) and answer.certified.equal(certain)
        assert answer.counts.false_alarms == int((output == ALARM).sum())
    assert strict.counts.false_alarms > sure.counts.false_alarms == 0
    assert (recovered.certified <= strict.certified).all() and recovered.certified.sum() < strict.certified.sum()
    for number, attacked in enumerate(map(attacks, IMAGES)):
        (hit,) = certify(classifier(), attacked, goal="alert").answers
        assert not strict.certified[number] or set(hit.predicted.tolist()) <= {ALARM, int(strict.predicted[number])}
    assert str(strict).startswith(f"patch 1, masking, alarms (strict; {strict.counts.false_alarms} of 40 raise one): ")
    assert "(τ = 0.9; " in str(sure) and len(str(result).splitlines()) == 3


def test_against_two_patches_only_an_alarm_is_promised():
    (two,) = certify(classifier(), IMAGES, LABELS, goal="alert", at_once=2).answers
    (one,) = certify(classifier(), IMAGES, LABELS).answers
    assert two.certified.equal(one.certified) and int((two.predicted == ALARM).sum()) > 0
    assert not (two.certified & (two.predicted == ALARM)).any()
    assert ", two patches; " in str(two)
    with pytest.raises(ValueError, match="at_once 2: expected goal='alert' for two: only an alarm is promised"):
        certify(classifier(), IMAGES, at_once=2)


def test_both_rules_for_alarms_are_answered_against_two_patches():
    result = certify(classifier(), IMAGES, LABELS, goal="alert", confidence=["strict", 0.0, 0.9], at_once=2)
    strict, *by_confidence = result.answers
    alarms = classifier().alarms(IMAGES, at_once=2)
    assert strict.certified.equal(alarms.strict(1e-3)[1]) and strict.predicted.equal(alarms.strict(1e-3)[0])
    for answer, threshold in zip(by_confidence, (0.0, 0.9), strict=True):
        output, certified = alarms.by_confidence(threshold, 1e-3)
        assert answer.predicted.equal(output) and answer.certified.equal(certified)
    counts = [(int(answer.certified.sum()), answer.counts.false_alarms) for answer in result.answers]
    assert counts[0][0] >= counts[1][0] > counts[2][0] > 0 and counts[1][1] > counts[2][1]
    assert "τ = 0.9, two patches; " in str(result.answers[2])
    assert (result.passes == 1 + 4 + 6).all(), "any pair might contradict"
    with pytest.raises(ValueError, match="at_once 3: expected a whole number from 1 to 2"):
        classifier().alarms(IMAGES, at_once=3)
    with pytest.raises(TypeError, match="positional"):
        classifier().alarms(IMAGES, 2)


def test_what_comes_back_is_written_as_by_scripts():
    result = certify(classifier(batch_size=4), IMAGES, LABELS, goal=["recover", "alert"], numerical_margin=0.5)
    record = result.to_dict()
    result_format.require(record, "found")
    assert [entry["goal"] for entry in record["results"]] == ["recover", "alert"]
    assert record["results"][1]["false_alarms"] > 0 == record["results"][0]["certified_wrong"]
    assert record["config"]["windows"] == "4 windows of 2 × 2 pixels" and record["config"]["batch_size"] == 4
    assert record["config"]["network"] == {"name": "Majority"}
    assert {entry["numerical_margin"] for entry in record["results"]} == {0.5}


def test_smaller_patches_that_the_windows_hide_are_certified_as_well():
    windows = HiddenWindows.for_patch(3, 4, Patch(2), 2)
    defended = WindowMaskedClassifier(Majority().eval(), windows)
    small, large = certify(defended, IMAGES, patches=[Patch(1), Patch(2)]).answers
    assert small.certified.equal(large.certified) and (small.patch, large.patch) == (Patch(1), Patch(2))
    with pytest.raises(ValueError, match="patches 3: expected one that fits into 2, which these windows hide"):
        certify(defended, IMAGES, patches=[Patch(1), Patch(3)])


class Drifting(Majority):
    """Its logits depend on what is asked beside."""

    def forward(self, images, hidden):
        return super().forward(images, hidden) + images.mean()


class DriftingInLight(Majority):
    """The same, but not on black images."""

    def forward(self, images, hidden):
        return super().forward(images, hidden) + images.mean() * images.amax(dim=(1, 2, 3))[:, None]


class Halved(Majority):
    def forward(self, images, hidden):
        return super().forward(images, hidden).bfloat16().float()


class Alone(Majority):
    """Its logits depend a little on how much is asked at once."""

    def forward(self, images, hidden):
        return super().forward(images, hidden) + 1e-5 * len(images) * torch.tensor([0.0, 1.0])


class Peeking(Majority):
    """Looks at what is hidden, too."""

    def forward(self, images, hidden):
        return super().forward(images, torch.zeros_like(hidden))


def uncovered():
    """A network whose pixels somebody shows again."""
    plain = PlainNetwork(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval())
    plain.register_forward_pre_hook(lambda module, inputs: (inputs[0], None))
    return plain


class Writing(Majority):
    def forward(self, images, hidden):
        logits = super().forward(images, hidden)
        images.zero_()
        return logits


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_network_may_write_into_what_it_is_shown(batch_size):
    images = IMAGES.clone()
    defended = (classifier(network, batch_size=batch_size) for network in (Majority(), Writing()))
    plain, written = (certify(one, images, goal=["alert", "recover"]).answers for one in defended)
    for one, other in zip(plain, written, strict=True):
        assert one.predicted.equal(other.predicted) and one.certified.equal(other.certified)
    assert images.equal(IMAGES)


def test_the_margin_grows_with_what_batches_change():
    _, manner = manner_of_windows(classifier(Alone(), batch_size=9), IMAGES)
    assert 7e-5 < manner.apart < 9e-5
    (answer,) = certify(classifier(Alone(), batch_size=9), IMAGES, LABELS).answers
    assert answer.question["numerical_margin"] == 1e-3


class Levels(nn.Module):
    def forward(self, features):
        return (20 * features).round() / 20


def test_the_margin_grows_with_jumps():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 400), nn.Sigmoid(), Levels(), nn.Linear(400, 2)).eval()
    defended = WindowMaskedClassifier(PlainNetwork(network), WINDOWS)
    with pytest.warns(Note, match="since the network computes in float32 and rounds to levels: rounding moves"):
        (answer,) = certify(defended, IMAGES, LABELS).answers
    assert answer.question["numerical_margin"] > 2e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES * 255}, "images have pixels from 0 to 255"),
        ({"images": IMAGES[:, :, 1:]}, r"images are \(40, 1, 2, 4\), expected \(N, C, 3, 4\)"),
        ({"labels": LABELS + 1}, "labels go from 1 to 2, expected 0 to 1"),
        ({"certificate": "exact"}, "certificate exact: a WindowMaskedClassifier is certified by masking alone"),
        ({"goal": "win"}, "goal win: expected recover, alert or both"),
        ({"goal": "alert", "confidence": 2}, "confidence 2: expected a number from 0 to 1"),
        ({"goal": "alert", "confidence": "sure"}, "confidence 'sure': expected a number from 0 to 1"),
        ({"numerical_margin": -1}, "numerical_margin -1: expected a number of at least 0"),
        ({"patches": 1}, "patches 1: expected a Patch"),
        (
            {"classifier": WindowMaskedClassifier(Majority().eval(), HiddenWindows(3, 4, WINDOWS.rectangles, []))},
            "patches None: expected a Patch",
        ),
        ({"classifier": WindowMaskedClassifier(Majority().train(), WINDOWS)}, "the network is in training mode"),
        ({"classifier": classifier(Drifting())}, "the same answer whatever else is in the batch"),
        ({"classifier": classifier(DriftingInLight())}, "the same answer whatever else is in the batch"),
        ({"classifier": classifier(Peeking())}, "the same answer whatever the hidden pixels show; here logits"),
        ({"classifier": classifier(uncovered())}, "the same answer whatever the hidden pixels show; here logits"),
        ({"classifier": classifier(Halved())}, "computes in bfloat16 or float16 by itself, expected float32"),
        (
            {"classifier": classifier(PlainNetwork(nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).eval()))},
            "the network fails on images",
        ),
    ],
)
def test_what_is_no_question_is_refused_in_one_clear_line(change, message):
    asked = {"classifier": classifier(), "images": IMAGES, "labels": LABELS} | change
    with pytest.raises(ValueError, match=message) as refused:
        certify(**asked)
    assert "\n" not in str(refused.value)


PATCH = Patch(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlainNetwork(lambda images: images), "network function: expected a torch.nn.Module"),
        (lambda: PlainNetwork(None), "network NoneType: expected a torch.nn.Module"),
        (lambda: PlainNetwork(nn.Flatten().eval(), size=7), "size 7: expected .height, width."),
        (lambda: PlainNetwork(nn.Flatten().eval(), size=(7, 2.5)), "size .7, 2.5.: expected .height, width."),
        (lambda: WindowMaskedClassifier(len, WINDOWS), "network builtin_function_or_method: expected a torch.nn.Mod"),
        (lambda: WindowMaskedClassifier(nn.Flatten(), PATCH), "windows Patch: expected HiddenWindows"),
        (lambda: classifier(batch_size=0), "batch_size 0: expected a whole number from 1"),
        (lambda: classifier(batch_size="4"), "batch_size '4': expected a whole number from 1"),
        (lambda: classifier().verdicts(IMAGES, torch.nan), "numerical_margin nan: expected a number of at least 0"),
        (lambda: classifier().verdicts(IMAGES, -1), "numerical_margin -1: expected a number of at least 0"),
        (lambda: classifier().alarms(IMAGES).strict(-1), "numerical_margin -1: expected a number of at least 0"),
        (lambda: classifier().alarms(IMAGES).by_confidence(0.5, "1"), "numerical_margin '1': expected a number of"),
        (
            lambda: classifier().alarms(IMAGES).by_confidence(torch.nan, 1),
            "threshold nan: expected a number from 0 to 1",
        ),
        (lambda: HiddenWindows.for_patch("3", 4, PATCH, 2), "height '3': expected a whole number from 1 on"),
        (lambda: WindowPairs.for_patch("3", 4, PATCH, 2), "height '3': expected a whole number from 1 on"),
        (lambda: HiddenWindows(3, 0, WINDOWS.rectangles, [PATCH]), "width 0: expected a whole number from 1 on"),
        (lambda: HiddenWindows(3, 4, [[0, 2, 0, 3]], [PATCH]), "rectangles a list: expected a tensor .M, 4. of int64"),
        (lambda: HiddenWindows(3, 4, WINDOWS.rectangles / 1, [PATCH]), "rectangles torch.float32 .4, 4.: expected"),
        (lambda: HiddenWindows(3, 4, WINDOWS.rectangles[:0], [PATCH]), "rectangles torch.int64 .0, 4.: expected"),
        (lambda: HiddenWindows(3, 4, WINDOWS.rectangles, PATCH), "shapes 1: expected a list of Patch"),
    ],
)
def test_what_cannot_be_made_is_refused_by_the_names_of_arguments(make, message):
    with pytest.raises(ValueError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value) and "--" not in str(refused.value)


def test_certificates_of_the_class_are_of_float32_as_well():
    """Or of what PyTorch is set to, from which margins follow. Predictions have none."""
    halved = classifier(Halved())
    for ask in (lambda images: list(halved.verdicts(images, 1e-3)), halved.alarms, halved.weak_spots):
        with pytest.raises(ValueError, match="the network computes in bfloat16 or float16 by itself"):
            ask(IMAGES)
        with torch.autocast("cpu", torch.bfloat16):
            ask(IMAGES[:2])
    assert len(halved.predict(IMAGES)) == len(IMAGES)


@needs_x86
def test_nobody_answers_unless_numbers_are_rounded_to_nearest():
    one = classifier()
    for ask in (one.predict, one.alarms, one.weak_spots, lambda images: certify(one, images)):
        with rounding_mode(UPWARD), pytest.raises(FloatingPointError, match="not rounded to nearest"):
            ask(IMAGES[:2])
        ask(IMAGES[:2])


def test_alarms_are_of_windows_alone():
    from tests.test_batches import CLASSIFIERS, PATCH
    from tests.test_batches import IMAGES as OTHERS

    for change, message in (({"goal": "alert"}, "goal alert: "), ({"confidence": 0.5}, "confidence 0.5: ")):
        with pytest.raises(ValueError, match=message):
            certify(CLASSIFIERS["threshold"](PATCH), OTHERS, patches=PATCH, **change)
