"""Copies asked for in order: the verdicts of asking for everything, with fewer passes."""

import pytest
import torch
from torch import nn

from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.classifiers.in_order import CopiesInOrder
from patchcert.classifiers.masked_goals import wanted_for
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.rounds import AT_ONCE, Rounds, Wanted, _expected
from patchcert.classifiers.window_goals import ALERT, Goal
from patchcert.engines.joint import JointNetwork
from patchcert.masking.linked import LinkedMasking, masking_of
from patchcert.masking.margins import Margin
from patchcert.masking.score_alarms import of_scores
from patchcert.patch import Patch

CLASSES, IMAGES, WEIGHT, SURE = 3, 100, 2.0, 4.0

JOINT = [
    (BandsAndWindows(6, 6, 1, 4, 3), [Patch(2, 2), Patch(1, 2)]),
    (BandsAndWindows(7, 5, 3, 4, 2), [Patch(1, 1)]),
    (BandsAndWindows(7, 7, 2, 5, 2, 4, 3), [Patch(2, 2), Patch(1, 2), Patch(1, 1)]),
    (BandsAndWindows(8, 8, 2, 5, 3, 4, 4), [Patch(1, 2), Patch(2, 2)]),
]
ALONE = [(WindowPairs(6, 6, 4, 3), [Patch(2, 2), Patch(1, 2)]), (WindowPairs(7, 5, 4, 2), [Patch(1, 1)])]


def whole_numbers(generator, questions, agreement):
    """(N, Q, K): logits of images, each of which mostly has one class ahead, by few whole numbers: ties abound."""
    logits = torch.randint(-1, 3, (IMAGES, questions, CLASSES), generator=generator).float()
    leading = torch.randint(CLASSES, (IMAGES,), generator=generator)
    ahead = torch.rand(IMAGES, questions, generator=generator) < agreement[:, None]
    by = torch.tensor([3.0, 3.0, 3.0, 6.0]).repeat(IMAGES // 4)[:, None]
    logits[torch.arange(IMAGES)[:, None], torch.arange(questions), leading[:, None]] += by * ahead
    return logits


class Looked(nn.Module):
    """Copies of images that are all of one shade, their number, to the logits (N, Q, K) that a table has of them.

    It counts passes without those that only fill a batch: they repeat the copy before them, as no questions do.
    """

    def __init__(self, masks, table):
        super().__init__()
        self.masks, self.table, self.passes = masks, table, torch.zeros(len(table), dtype=torch.int64)
        self.batches = []

    def forward(self, copies):
        shown = (copies[:, 0] + copies[:, 1]) > 0
        image = (copies[:, 0].flatten(1).amax(dim=1) * 255).round().long()
        question = (self.masks == shown[:, None]).flatten(2).all(dim=2).int().argmax(dim=1)
        again = torch.cat([torch.zeros(1).bool(), (copies[1:] == copies[:-1]).flatten(1).all(dim=1)])
        self.passes += image[~again].bincount(minlength=len(self.table))
        self.batches.append(len(copies))
        return self.table[image, question]


class LookedBands(nn.Module):
    """The same for bands, of all of them at once."""

    limited_reach, description = True, {}

    def __init__(self, table):
        super().__init__()
        self.table = table

    def require(self, ablation):
        pass

    def forward(self, images):
        return self.table[(images[:, 0, 0, 0] * 255).round().long()]


def case(ablation, seed=0):
    """A classifier of looked up logits, the network that counts, and images."""
    generator = torch.Generator().manual_seed(seed)
    agreement = torch.tensor([0.8, 0.95, 1.0, 1.0]).repeat(IMAGES // 4)
    joint = isinstance(ablation, BandsAndWindows)
    windows = ablation.windows if joint else ablation
    kinds = [windows.coarse, windows.fine] if hasattr(windows, "coarse") else [windows]
    masks = torch.cat([kind.masks() for kind in kinds] + [torch.ones(1, ablation.height, ablation.width).bool()])
    network = Looked(masks, whole_numbers(generator, len(masks), agreement))
    images = (torch.arange(IMAGES) / 255).view(-1, 1, 1, 1).expand(-1, 1, ablation.height, ablation.width).clone()
    if not joint:
        return SmoothedClassifier(network, ablation), network, images
    bands = LookedBands((whole_numbers(generator, ablation.bands.count, agreement) / 2).round())
    both = JointNetwork(bands, network, ablation, WEIGHT, SURE).eval()
    return SmoothedClassifier(both, ablation), network, images


def everything(classifier, maskings, images, margin):
    scores, magnitudes = of_all_copies(classifier, images)
    return [masking.verdicts(scores, margin, magnitudes) for masking in maskings]


def of_all_copies(classifier, images):
    return map(torch.cat, zip(*classifier.logits_and_magnitudes(images, 1000), strict=True))


def differing(found, wanted):
    """How many verdicts are others; leads may only be larger where an image was left early."""
    leads = torch.where(found.left_early, found.lead >= wanted.lead, found.lead == wanted.lead)
    same = leads & (found.predicted == wanted.predicted) & (found.certified == wanted.certified)
    return int((~(same & (found.within_margin == wanted.within_margin))).sum())


@pytest.mark.parametrize(
    ("margin", "batch_size"), [(Margin(0.0), 500), (Margin(1.0), 3), (Margin.of_scores(1e-3, "bfloat16"), 100)]
)
@pytest.mark.parametrize(("ablation", "patches"), [*JOINT, *ALONE])
def test_verdicts_are_those_of_asking_for_everything(ablation, patches, margin, batch_size):
    classifier, network, images = case(ablation)
    maskings = [masking_of(ablation, patch) for patch in patches]
    wanted = everything(classifier, maskings, images, margin)
    network.passes.zero_()
    found = [verdicts for verdicts, _ in CopiesInOrder(classifier, batch_size).look(images, maskings, margin)]
    for own, plain in zip(found, wanted, strict=True):
        assert differing(own, plain) == 0
        assert 0 < plain.certified.sum() < IMAGES and len(plain.predicted.unique()) == CLASSES
        assert torch.equal(own.passes, network.passes)
        assert not (own.certified & own.left_early).any() and own.left_early.any()
    early, passes = found[-1].left_early, network.passes.float()
    assert passes[early].mean() < passes[~early].mean() and passes.amax() < len(network.masks)


@pytest.mark.parametrize(("ablation", "patches"), [JOINT[0], ALONE[0]])
def test_images_share_full_batches(ablation, patches):
    classifier, network, images = case(ablation)
    CopiesInOrder(classifier, 32).look(images, [masking_of(ablation, patches[0])], Margin(0.0))
    assert set(network.batches) == {16}
    assert network.passes.sum() > 0.9 * sum(network.batches)


@pytest.mark.parametrize("ablation", [ALONE[0][0], JOINT[0][0]])
@pytest.mark.parametrize("dissenting", [False, True])
def test_pairs_are_asked_about_hardest_first(ablation, dissenting):
    """The pair that refutes is the last one of its kind, and the first one that leads without one window point to."""
    classifier, network, images = case(ablation)
    windows = ablation.windows if isinstance(ablation, BandsAndWindows) else ablation
    numbers, last = windows.copy_numbers(), windows.side**2 - 1
    logits = torch.tensor([10.0, 0.0, 0.0]).repeat(len(network.masks), 1)
    if dissenting:  # the first window, beside every other one but the last
        logits[numbers[0]] = torch.tensor([0.0, 10.0, 0.0])
        logits[numbers[last, last]] = torch.tensor([20.0, 0.0, 0.0])
        logits[numbers[0, last]] = torch.tensor([10.0, 0.0, 0.0])
    else:
        logits[numbers[[last - 1, last], [last - 1, last]]] = torch.tensor([1.0, 0.0, 0.0])
        logits[numbers[last - 1, last]] = torch.tensor([0.0, 10.0, 0.0])
    network.table[:] = logits
    if ablation is not windows:
        classifier.network.bands.table.zero_()
    ((verdicts, _),) = CopiesInOrder(classifier, 64).look(images, [masking_of(ablation, Patch(2, 2))], Margin(0.0))
    assert (verdicts.predicted == 0).all() and verdicts.left_early.all()
    assert (verdicts.passes == windows.side**2 + AT_ONCE).all()


def test_dissenters_that_are_confirmed_become_the_prediction():
    confirmed = 0
    for ablation, patches in (*JOINT, *ALONE):
        classifier, _, images = case(ablation, seed=1)
        masking = masking_of(ablation, patches[0])
        ((verdicts, _),) = CopiesInOrder(classifier, 100).look(images, [masking], Margin(0.0))
        (wanted,) = everything(classifier, [masking], images, Margin(0.0))
        assert torch.equal(verdicts.predicted, wanted.predicted)
        confirmed += int((verdicts.left_early & (verdicts.lead < 0)).sum())
    assert confirmed > 0


@pytest.mark.parametrize(("ablation", "patches"), [JOINT[0], *ALONE])
def test_predictions_cost_one_pass_for_each_window_where_all_agree(ablation, patches):
    classifier, network, images = case(ablation)
    maskings = [masking_of(ablation, patch) for patch in patches]
    wanted = everything(classifier, maskings, images, Margin(0.0))
    network.passes.zero_()
    found = CopiesInOrder(classifier, 64).look(images, maskings, Margin(0.0), Wanted(pairs=False))
    for (own, _), plain in zip(found, wanted, strict=True):
        assert torch.equal(own.predicted, plain.predicted) and not own.certified.any()
    windows = ablation.windows if isinstance(ablation, BandsAndWindows) else ablation
    assert (network.passes[wanted[0].certified] == windows.side**2).all()


@pytest.mark.parametrize("margin", [Margin(1.0), Margin.of_scores(1e-3, "float32")])
@pytest.mark.parametrize(("ablation", "patches"), [*JOINT, ALONE[0]])
def test_alarms_cost_one_pass_for_each_window_and_one_for_the_whole_image(ablation, patches, margin):
    classifier, network, images = case(ablation)
    maskings = [masking_of(ablation, patch) for patch in patches]
    scores, magnitudes = of_all_copies(classifier, images)
    whole = network.table[:, -1]
    if isinstance(ablation, BandsAndWindows):
        whole = scores[:, : ablation.bands.count].sum(dim=1) + WEIGHT * whole
    network.passes.zero_()
    found = CopiesInOrder(classifier, 64).look(images, maskings, margin, Wanted(False, False, whole=True))
    for (verdicts, alarms), masking in zip(found, maskings, strict=True):
        wanted = of_scores(masking, scores, margin, magnitudes, whole.argmax(dim=1))
        assert not verdicts.certified.any() and torch.equal(verdicts.passes, network.passes)
        for threshold in (0.9, 0.6, 0.0, None):
            own, plain = (
                given.strict(margin.numerical)
                if threshold is None
                else given.by_confidence(threshold, margin.numerical)
                for given in (alarms, wanted)
            )
            assert torch.equal(own[0], plain[0]) and torch.equal(own[1], plain[1])
        assert 0 < own[1].sum() < IMAGES
    windows = ablation.windows if isinstance(ablation, BandsAndWindows) else ablation
    if not hasattr(windows, "coarse"):
        assert (network.passes == windows.side**2 + 1).all()


@pytest.mark.parametrize(("ablation", "patches"), [*JOINT, ALONE[0]])
def test_alarms_by_confidence_against_two_patches_take_every_copy(ablation, patches):
    classifier, network, images = case(ablation)
    maskings, margin = [masking_of(ablation, patch) for patch in patches], Margin.of_scores(0.5, "float32")
    scores, magnitudes = of_all_copies(classifier, images)
    whole = network.table[:, -1]
    if isinstance(ablation, BandsAndWindows):
        whole = scores[:, : ablation.bands.count].sum(dim=1) + WEIGHT * whole
    network.passes.zero_()
    wanted = wanted_for([Goal(ALERT, 0.5, patches=2), Goal(ALERT, patches=2)])
    found = CopiesInOrder(classifier, 64).look(images, maskings, margin, wanted)
    assert (network.passes == len(network.masks)).all()
    for (verdicts, alarms), masking in zip(found, maskings, strict=True):
        plain = of_scores(masking, scores, margin, magnitudes, whole.argmax(dim=1), at_once=2)
        for name, tensor in vars(plain).items():
            assert name == "steepest" or tensor.equal(getattr(alarms, name))
        assert 0 < alarms.by_confidence(0.5, 0.5)[1].sum() < IMAGES
        assert verdicts.certified.equal(alarms.strict(0.5)[1])


def test_alarms_do_not_depend_on_what_else_is_asked():
    ablation, patches = JOINT[2]
    classifier, _, images = case(ablation)
    classifier.network.of_windows.sure = 0.5  # so little that the largest logit of any copy widens the margin
    masking, margin = masking_of(ablation, patches[0]), Margin.of_scores(1e-3, "bfloat16")
    leads = [
        CopiesInOrder(classifier, 64).look(images, [masking], margin, wanted)[0][1].lead
        for wanted in (Wanted(False, False, whole=True), Wanted(whole=True), Wanted(whole=True, everything=True))
    ]
    assert torch.equal(leads[0], leads[1]) and torch.equal(leads[0], leads[2])


class WithoutBands(LinkedMasking):
    """Broken: forgets what bands say of pairs."""

    def bands_ahead(self, winner, bands):
        return 0 * super().bands_ahead(winner, bands)


class FirstPlaceAlone(LinkedMasking):
    """Broken: of the bands of two windows, those that hurt least."""

    def bands_ahead(self, winner, bands):
        return -super().bands_ahead(winner, [-family for family in bands])


def _early(rounds, winner):
    """Broken: believes what it expects of pairs instead of asking for them."""
    copies = rounds.copies
    class_ = torch.tensor([winner])
    first, second = rounds.masking.windows.windows_hidden()
    bands = rounds.masking.bands_ahead(class_, rounds.bands)[0, first, second]
    singles = rounds._ahead(class_, rounds.numbers.diagonal())
    expected = _expected(singles, first, second, bands, winner)
    if (expected < 0).any():
        return float(expected.amin()), True
    yield from copies.ask(torch.arange(len(first)))
    return float(expected.amin()), False


@pytest.mark.parametrize("broken", [WithoutBands, FirstPlaceAlone, _early])
def test_orders_that_decide_by_something_else_are_told(broken, monkeypatch):
    wrong = 0
    for ablation, patches in JOINT:
        classifier, _, images = case(ablation)
        wanted = everything(classifier, [masking_of(ablation, patches[0])], images, Margin(0.0))
        if broken is _early:
            monkeypatch.setattr(Rounds, "_unanimous", broken)
            masking = masking_of(ablation, patches[0])
        else:
            masking = broken(ablation, patches[0])
        ((found, _),) = CopiesInOrder(classifier, 64).look(images, [masking], Margin(0.0))
        wrong += differing(found, wanted[0])
    assert wrong > 0
