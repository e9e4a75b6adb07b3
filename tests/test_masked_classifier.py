"""`MaskedClassifier` from Python: copies asked for in order, alarms and areas, against asking for everything."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from patchcert import (
    Area,
    Band,
    HiddenWindows,
    MaskedClassifier,
    Patch,
    PlainNetwork,
    Share,
    SmoothedClassifier,
    WindowMaskedClassifier,
    attack,
    certify,
    encode,
)
from patchcert.ablations.ablation import BandAndRow
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.classifiers.probing import manner_of
from patchcert.engines.added_up import parted
from patchcert.engines.joint import JointNetwork
from patchcert.masking.alarms import ALARM
from patchcert.masking.linked import masking_of
from patchcert.masking.margins import Margin
from patchcert.masking.score_alarms import of_scores

SIDE, IMAGES = 6, 240
PATCH = Patch(2, 2)
WINDOWS = WindowPairs(SIDE, SIDE, 4, 3)
COPIES = {
    "windows": WINDOWS,
    "bands and windows": BandsAndWindows(SIDE, SIDE, 1, 4, 3),
    "bands and refined windows": BandsAndWindows(SIDE, SIDE, 2, 4, 3, 4, 2),
    "bands": BandAndRow(SIDE, SIDE, 1),
}
MARGINS = [0.0, 1e-3, 0.5]


class Exact(nn.Module):
    """A network of copies whose sums are exact in any order, so that ties and near-ties are the same in every batch.

    Pixels are sixteenths and weights small whole numbers. It counts the copies that it is asked about.
    """

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        weights = torch.randint(-1, 2, (3, 2 * SIDE**2), generator=generator).float()
        weights[0, SIDE**2 :] += 1  # of dark pixels, and of bright ones
        weights[1, : SIDE**2] += 1
        self.register_buffer("weights", weights)
        self.asked = 0

    def forward(self, copies):
        self.asked += len(copies)
        return copies.flatten(1) @ self.weights.T


class ExactBands(nn.Module):
    """The same of all bands of images at once."""

    limited_reach, description = True, {}

    def __init__(self, bands):
        super().__init__()
        self.bands, self.network = bands, Exact()

    def require(self, ablation):
        pass

    def forward(self, images):
        shown = encode(images)[:, None] * self.bands.masks()[:, None]
        return self.network(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])


def of(ablation, patch=PATCH, network=None, **named):
    """The classifier, and the network for windows, or of all copies."""
    network = network or Exact()
    if not isinstance(ablation, BandsAndWindows):
        return MaskedClassifier(network, ablation, patch, **named), network
    joint = JointNetwork(ExactBands(ablation.bands), network, ablation, weight=2.0, sure=4.0)
    return MaskedClassifier(joint, ablation, patch, **named), network


def pictures(count=IMAGES):
    """(N, 1, H, W) of sixteenths, from dark to bright ones: of those between the two nearly every answer is a tie."""
    generator = torch.Generator().manual_seed(1)
    levels = torch.linspace(5, 11, count).round()[:, None, None, None]
    noise = torch.randint(-3, 4, (count, 1, SIDE, SIDE), generator=generator)
    return ((levels + noise).clamp(0, 16) / 16).contiguous()


def dissenting_by_hand(classifier, images, threshold=None):
    """(N, M) bool: windows at places without which the answer is another than without most; a place of windows alone
    is a window, else that of the patch, which has the first window that covers it there.
    """
    copies, covering = classifier.ablation, classifier.windows.covering(PATCH).flatten(1)  # (M, L)
    joint = isinstance(copies, BandsAndWindows)
    windows, bands = (copies.windows, copies.bands.count) if joint else (copies, 0)
    window_at = covering.int().argmax(dim=0).tolist() if joint else list(range(len(covering)))
    kept = ~copies.touched_by(PATCH)[:, :bands] if joint else torch.zeros(len(window_at), 0, dtype=torch.bool)
    hidden = list(zip(*windows.windows_hidden().tolist(), strict=True))
    alone = [bands + hidden.index((window, window)) for window in window_at]
    with torch.no_grad():
        scores = torch.cat(list(classifier.every_copy(images, 10_000))).double()
    scores = scores if threshold is None else (scores.softmax(dim=2) >= threshold).double()
    found = torch.zeros(len(images), len(covering), dtype=torch.bool)
    for image, own in enumerate(scores):
        of_bands = [own[:bands][some].sum(dim=0) for some in kept]
        answers = [int((some + own[copy]).argmax()) for some, copy in zip(of_bands, alone, strict=True)]
        most = max(sorted(set(answers)), key=answers.count)
        for window, answer in zip(window_at, answers, strict=True):
            found[image, window] |= answer != most
    return found


def everything(classifier, images, margin, arithmetic="float32", at_once=1):
    """The verdicts, and the alarms, from the scores of all copies."""
    with torch.no_grad():
        found = zip(*classifier.logits_and_magnitudes(images, 10_000), strict=True)
        (scores, magnitudes), masking = map(torch.cat, found), classifier.masking
        margin = Margin.of_scores(margin, arithmetic)
        if isinstance(classifier.ablation, WindowPairs):
            whole = classifier.network(encode(images))
        elif isinstance(classifier.ablation, BandsAndWindows):
            bands = scores[:, : classifier.ablation.bands.count].sum(dim=1)
            whole = bands + classifier.network.weight * parted(classifier.network.of_copy(encode(images)))[0]
        else:
            whole = scores.sum(dim=1)
        verdicts = masking.verdicts(scores, margin, magnitudes)
        return verdicts, of_scores(masking, scores, margin, magnitudes, whole.argmax(dim=1), at_once)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("copies", COPIES)
def test_answers_are_those_of_asking_for_everything(copies, margin):
    classifier, _ = of(COPIES[copies], batch_size=50)
    images = pictures()
    wanted, _ = everything(classifier, images, margin)
    (answer,) = certify(classifier, images, numerical_margin=margin, batch_size=77).answers
    assert answer.predicted.equal(wanted.predicted) and answer.certified.equal(wanted.certified)
    assert classifier.predict(images).equal(wanted.predicted) and classifier(images).argmax(1).equal(wanted.predicted)
    assert 10 < int(answer.certified.sum()) < IMAGES - 10 and len(wanted.predicted.unique()) > 1
    assert int((wanted.lead.abs() <= 0.5).sum()) > 5, "there are near-ties"
    assert ("passes" in answer.verdicts) == (copies != "bands")
    if copies != "bands":
        early = answer.verdicts["left_early"]
        assert early.any() and not (early & answer.certified).any()
        assert answer.verdicts["lead"][~early].equal(wanted.lead[~early])
        assert (answer.verdicts["lead"] >= wanted.lead).all()


@pytest.mark.parametrize("copies", ["windows", "bands and windows"])
def test_no_more_is_asked_than_an_answer_takes(copies):
    classifier, network = of(COPIES[copies])
    images = pictures()
    wanted, _ = everything(classifier, images, 1e-3)
    agreed = images[wanted.certified]
    network.asked = 0
    classifier.predict(agreed)
    filling = network.asked - len(agreed) * WINDOWS.side**2
    assert 0 <= filling < 2 * 16, "of 64 images, and of the others, the last batch of 16 is filled up"
    network.asked = 0
    result = certify(classifier, images, torch.zeros(IMAGES, dtype=torch.int64), batch_size=64)
    passes = result.answers[0].verdicts["passes"]
    assert int(passes.sum()) <= network.asked <= int(passes.sum()) + 1500  # which `probing` asks before all images
    assert (passes[wanted.certified] == WINDOWS.count).all() and (passes[~wanted.certified] < WINDOWS.count).any()
    assert result.passes.equal(passes) and result.to_dict()["passes"] == int(passes.sum())


@pytest.mark.parametrize("copies", COPIES)
def test_places_that_dissent_name_their_windows(copies):
    if copies == "bands":
        with pytest.raises(ValueError, match="where True: expected False: the copies of this classifier hide no wind"):
            of(COPIES[copies])[0].predict(pictures(3), where=True)
        return
    (classifier, network), images = of(COPIES[copies]), pictures(80)
    predicted, windows = classifier.predict(images, where=True)
    asked, network.asked = network.asked, 0
    assert predicted.equal(classifier.predict(images)) and network.asked == asked
    assert windows.equal(dissenting_by_hand(classifier, images))
    assert windows.any(dim=1).any() and not windows.any(dim=1).all()
    for answer in certify(classifier, images, goal=["recover", "alert"], confidence=["strict", 0.5]).answers:
        assert answer.verdicts["dissenting"].equal(windows)


def test_places_dissent_in_votes_as_well():
    classifier, images = MaskedClassifier(Exact(), WINDOWS, PATCH, 0.4), pictures(80)
    predicted, windows = classifier.predict(images, where=True)
    assert predicted.equal(classifier.predict(images)) and windows.any() and not windows.any(dim=1).all()
    assert windows.equal(dissenting_by_hand(classifier, images, threshold=0.4))


def test_a_table_has_the_numbers_of_windows():
    pytest.importorskip("pandas")
    classifier, images = of(WINDOWS)[0], pictures(80)
    _, windows = classifier.predict(images, where=True)
    numbers = [" ".join(str(w) for w in range(9) if row[w]) for row in windows.tolist()]
    assert certify(classifier, images).to_dataframe()["dissenting"].tolist() == numbers and len(set(numbers)) > 2


@pytest.mark.parametrize("copies", COPIES)
def test_alarms_are_those_of_all_copies(copies):
    classifier, _ = of(COPIES[copies])
    images = pictures()
    labels = classifier.predict(images)
    wanted, alarms = everything(classifier, images, 0.1)
    rules = {"strict": alarms.strict(0.1), 0.0: alarms.by_confidence(0.0, 0.1), 0.5: alarms.by_confidence(0.5, 0.1)}
    asked = {"goal": ["alert", "recover"], "confidence": list(rules), "numerical_margin": 0.1}
    *raised, recovered = certify(classifier, images, labels, **asked).answers
    for answer, (rule, (output, certified)) in zip(raised, rules.items(), strict=True):
        assert answer.predicted.equal(output) and answer.certified.equal(certified)
        assert answer.counts.false_alarms == int((output == ALARM).sum())
        assert answer.question["confidence"] == (None if rule == "strict" else rule)
    assert recovered.predicted.equal(wanted.predicted) and recovered.certified.equal(wanted.certified)
    assert (recovered.certified <= raised[0].certified).all()
    assert recovered.certified.sum() < raised[0].certified.sum() and raised[0].counts.false_alarms > 0
    own = classifier.alarms(images)
    for output, plain in zip(own.strict(0.1), rules["strict"], strict=True):
        assert output.equal(plain)


@pytest.mark.parametrize("copies", COPIES)
def test_against_two_patches_an_alarm_is_promised(copies):
    classifier, _ = of(COPIES[copies])
    images = pictures()
    labels, rules = classifier.predict(images), {"confidence": ["strict", 0.0, 0.5], "numerical_margin": 0.1}
    two, *by_confidence = certify(classifier, images, labels, goal="alert", at_once=2, **rules).answers
    (alone,) = certify(classifier, images, goal="alert", at_once=2, numerical_margin=0.1).answers
    (one,) = certify(classifier, images, numerical_margin=0.1).answers
    assert two.certified.equal(one.certified) and two.question["patches"] == 2
    assert (two.predicted == ALARM).any() and not (two.certified & (two.predicted == ALARM)).any()
    assert alone.predicted.equal(two.predicted) and alone.certified.equal(two.certified)
    alarms, own = everything(classifier, images, 0.1, at_once=2)[1], classifier.alarms(images, at_once=2)
    for answer, threshold in zip(by_confidence, (0.0, 0.5), strict=True):
        assert answer.question["confidence"] == threshold and answer.question["patches"] == 2
        for found in (alarms, own):
            output, certified = found.by_confidence(threshold, 0.1)
            assert answer.predicted.equal(output) and answer.certified.equal(certified)
        assert 0 < int(answer.certified.sum()) <= int(two.certified.sum())


@pytest.mark.filterwarnings("ignore:the gradient is exactly zero")  # in the middle, which all windows hide
def test_certified_answers_stand_under_attack():
    classifier, _ = of(WINDOWS)
    images = pictures()[20:100:4]
    labels = classifier.predict(images)
    certified = certify(classifier, images, labels).answers[0].certified
    found = attack(classifier, images, labels, PATCH, restarts=12, steps=6)
    assert found.predicted_after.equal(classifier.predict(found.images))
    assert certified.any() and found.flipped.any() and not (found.flipped & certified).any()


def test_every_rectangle_of_an_area_is_one_question():
    area, shapes = Area(2), [Patch(1, 2), Patch(2, 1)]
    images, bands = pictures(), Band(SIDE, SIDE, 1)
    votes = SmoothedClassifier(Exact(), bands, 0.5)
    of_area, *of_shapes = (answer.certified for answer in certify(votes, images, patches=[area, *shapes]).answers)
    assert of_area.equal(torch.stack(of_shapes).all(dim=0)) and of_area.any()
    for ablation in (COPIES["bands"], WindowPairs(SIDE, SIDE, 5, 3)):
        for patch in (Area(3), Patch(1, 3)):
            classifier, _ = of(ablation, patch)
            wanted, _ = everything(classifier, images, 1e-3)
            (answer,) = certify(classifier, images, patches=patch).answers
            assert answer.patch == patch and answer.question["size_to_certify"] == patch.size
            assert answer.certified.equal(wanted.certified) and answer.certified.any() and not answer.certified.all()
    with pytest.raises(ValueError, match=r"patch area:4: expected sizes such as 5 or 2x8"):
        of(COPIES["bands and windows"], Area(4))
    with pytest.raises(ValueError, match="patch area:2: expected a Patch"):
        attack(votes, images, torch.zeros(IMAGES, dtype=torch.int64), area)


def test_a_share_of_the_pixels_is_the_square_that_it_is():
    share, patch = Share(350 / SIDE**2), Patch(2)  # 3.5 pixels
    images, labels, bands = pictures(), torch.zeros(IMAGES, dtype=torch.int64), Band(SIDE, SIDE, 1)
    votes = SmoothedClassifier(Exact(), bands, 0.5)
    ordinary = PlainNetwork(nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 3)).eval())
    windows = WindowMaskedClassifier(ordinary, HiddenWindows.for_patch(SIDE, SIDE, share, 3))
    masked = MaskedClassifier(Exact(), bands, share)
    assert masked.patch == patch and windows.windows.shapes == (patch,)
    for classifier in (votes, masked, windows):
        of_share, of_patch = (certify(classifier, images, patches=size).answers[0] for size in (share, patch))
        assert of_share.patch == patch and of_share.question == of_patch.question
        assert of_share.certified.equal(of_patch.certified)
        found = attack(classifier, images[:2], labels[:2], share, restarts=1, steps=1)
        assert found.patch == patch and str(found).startswith("patch 2: ")
    with pytest.raises(ValueError, match="patches 6: expected one that fits into 2, which these windows hide"):
        certify(windows, images, patches=Share(90))


def test_windows_hide_every_rectangle_of_an_area():
    windows = HiddenWindows.for_patch(SIDE, SIDE, Area(4), 3)
    for shape in (Patch(1, 4), Patch(2, 2), Patch(4, 1)):
        assert windows.holds(shape)
    assert windows.count > HiddenWindows.for_patch(SIDE, SIDE, Patch(2, 2), 3).count


@pytest.mark.parametrize("area", [0, -1, 2.5, "four"])
def test_what_is_no_area_is_refused(area):
    with pytest.raises(ValueError, match=f"pixels {area!r}: expected a whole number from 1"):
        Area(area)


def test_what_votes_cannot_promise_is_refused():
    classifier = MaskedClassifier(Exact(), WINDOWS, PATCH, 0.4)
    images = pictures(4)
    assert not classifier.in_order and "passes" not in certify(classifier, images).answers[0].verdicts
    assert certify(classifier, images).passes is None
    with pytest.raises(ValueError, match="goal alert: expected recover and strict; alarms are of hidden windows, or"):
        certify(classifier, images, goal="alert")
    with pytest.raises(ValueError, match=r"threshold 0.4: expected none: alarms need scores"):
        classifier.alarms(images)
    with pytest.raises(ValueError, match="at_once 2: expected goal='alert' for two: only an alarm is promised"):
        certify(of(WINDOWS)[0], images, goal=["recover", "alert"], at_once=2)
    with pytest.raises(ValueError, match="at_once 3: expected 1, for which this classifier is made, or 2"):
        of(WINDOWS)[0].alarms(images, at_once=3)
    with pytest.raises(TypeError, match="positional"):
        of(WINDOWS)[0].alarms(images, 2)  # which might be meant as two patches, or as a batch size


def test_a_classifier_made_for_two_patches_says_who_raises_alarms():
    classifier, _ = of(COPIES["bands"], Patch(1), at_once=2)
    for at_once in (None, 2):
        with pytest.raises(ValueError, match="goal alert: expected recover: alarms, against two patches too, are of a"):
            certify(classifier, pictures(4), goal="alert", at_once=at_once)


def test_masking_of_an_area_is_that_of_scripts():
    classifier, _ = of(COPIES["bands"], Area(4))
    wanted = masking_of(COPIES["bands"], Area(4))
    assert type(classifier.masking) is type(wanted) and classifier.masking.shape_count == wanted.shape_count == 3


class OfHalves(Exact):
    """It computes in bfloat16 by itself, which is exact here."""

    def forward(self, copies):
        return super().forward(copies).bfloat16().float()


def test_alarms_know_in_which_arithmetic_a_network_computes():
    classifier, _ = of(WINDOWS, network=OfHalves())
    images = pictures()
    for margin in (0.0, 0.1):
        output, certified = classifier.alarms(images).strict(margin)
        wanted, certain = everything(classifier, images, margin, "bfloat16")[1].strict(margin)
        plain = everything(classifier, images, margin)[1].strict(margin)[1]
        assert output.equal(wanted) and certified.equal(certain) and certified.sum() < plain.sum()


class Uneven(Exact):
    """Its logits depend on how many copies are asked about at once."""

    def forward(self, copies):
        return super().forward(copies) + 0.1 * len(copies) * torch.tensor([0.0, 1.0, 0.0])


class RoundedByItsBatch(Exact):
    """Its logits depend in their last bits on how many copies are asked about at once, as those of fast kernels do."""

    def forward(self, copies):
        return super().forward(copies) * (1 + 2.0**-21 * (len(copies) % 5))


def test_refined_windows_may_be_rounded_in_batches_of_other_sizes():
    """How many small windows are asked about depends on the other images. The margin is then a larger one."""
    classifier, _ = of(COPIES["bands and refined windows"], network=RoundedByItsBatch())
    images = pictures()
    manner = manner_of(classifier, classifier.engine(images), images, batch_size=64)
    assert 0 < manner.apart < 1e-3


def test_forward_gives_the_answers_of_predict_even_where_these_nearly_tie():
    classifier = MaskedClassifier(Uneven(), WINDOWS, PATCH)
    images = pictures()
    predicted = classifier.predict(images)
    from_all = torch.cat([classifier.decide(scores) for scores in classifier.every_copy(images, classifier.batch_size)])
    assert classifier(images).argmax(1).equal(predicted) and not from_all.equal(predicted)


@pytest.mark.parametrize(("copies", "added_up"), [("windows", 1), ("bands", 12), ("bands and windows", 13)])
def test_the_margin_grows_with_the_copies_that_a_lead_adds_up(copies, added_up):
    """Of windows that is one copy, so that what differs between batches counts twice and not once for each copy."""
    classifier, _ = of(COPIES[copies])
    images = pictures(3)
    manner = manner_of(classifier, classifier.engine(images), images, batch_size=64)
    assert manner.copies == added_up
    assert replace(manner, apart=0.1).margin(of_scores=True) == pytest.approx(0.2 * added_up)
