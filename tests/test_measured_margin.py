"""--numerical_margin measured: what is the same to the bit in every row, beside anything, takes float32's margins."""

import argparse
import json
import signal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from patchcert import Band, MaskedClassifier, Patch, SmoothedClassifier, certify, journal
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.classifiers import probing
from patchcert.classifiers.in_order import CopiesInOrder
from patchcert.classifiers.masked_goals import MaskedLook
from patchcert.classifiers.probing import Manner, manner_in_order
from patchcert.classifiers.rounds import Wanted
from patchcert.data.dataset import Dataset
from patchcert.engines.equal_batches import in_equal_batches
from patchcert.engines.joint import JointNetwork
from patchcert.errors import Note, UsageError
from patchcert.experiments.masking import require_measurable, settle_margin
from patchcert.masking.linked import masking_of
from patchcert.masking.margins import Margin
from patchcert.stopping import Stopped
from tests.helpers import rewrite_votes, run_here, succeed
from tests.small_windows import NAME, PICTURES

SIZE, CLASSES, LITTLE = 12, 3, 2**-12
WINDOWS = WindowPairs(SIZE, SIZE, 7, 3)
IMAGES = torch.randint(0, 9, (20, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(0)) / 8
SMALL, LARGE = Margin.of_scores(1e-3, "float32"), Margin.of_scores(1.0, "bfloat16")


class Exact(nn.Module):
    """Adds up eighths, without rounding in any order; and then what is wrong (B, 1), which is given the copies."""

    def __init__(self, wrong=lambda copies: torch.zeros(len(copies), 1)):
        super().__init__()
        self.weight = nn.Parameter(torch.randint(-3, 4, (CLASSES, 2 * SIZE**2), generator=torch.manual_seed(0)).float())
        self.wrong, self.sizes = wrong, []

    def forward(self, copies):
        self.sizes.append(len(copies))
        return F.linear(copies.flatten(1), self.weight) + self.wrong(copies) * torch.arange(CLASSES)


def of_last_row(copies):
    return LITTLE * (torch.arange(len(copies)) == len(copies) - 1).float()[:, None]


def of_neighbour(copies):
    return LITTLE * (copies.roll(1, 0)[:, :, 0, -1].sum(dim=1) > 0).float()[:, None]


def of_noise(copies):
    return LITTLE * (copies[:, 0] * 8 % 1).amax().ceil().expand(len(copies), 1)


def of_size(copies):
    return LITTLE * torch.full((len(copies), 1), len(copies))


def apart(classifier, batch_size):
    return manner_in_order(classifier, IMAGES, batch_size, rounded=True).apart


@pytest.mark.parametrize("wrong", [of_last_row, of_neighbour, of_noise])
@pytest.mark.parametrize("batch_size", [3, 32])
def test_what_depends_on_the_batch_is_seen(wrong, batch_size):
    assert apart(SmoothedClassifier(Exact(), WINDOWS), batch_size) == 0
    assert 0 < apart(SmoothedClassifier(Exact(wrong), WINDOWS), batch_size) <= 2 * LITTLE


def test_what_depends_on_the_size_of_the_batch_is_always_the_same():
    """By construction, for predictions, too."""
    network = Exact(of_size)
    classifier = MaskedClassifier(network, WINDOWS, Patch(2, 2))
    assert apart(classifier, 32) == 0
    together = classifier.predict(IMAGES)
    alone = torch.cat([classifier.predict(image[None], batch_size=100) for image in IMAGES])
    look = MaskedLook(classifier, [masking_of(WINDOWS, Patch(2, 2))], SMALL, Wanted(), 32)
    (certified,) = look(IMAGES[:7])
    assert set(network.sizes) == {16}
    assert together.equal(alone) and certified.verdicts.predicted.equal(together[:7])


def test_what_certify_tries_is_what_runs():
    """Batches of one size, so that the margin need not grow; what stands beside a copy may change nothing."""
    network = Exact(of_size)
    (answer,) = certify(MaskedClassifier(network, WINDOWS, Patch(2, 2)), IMAGES, patches=Patch(2, 2)).answers
    assert set(network.sizes) == {16} and answer.question["numerical_margin"] == 1e-3
    with pytest.raises(ValueError, match="the same answer whatever else is in the batch"):
        certify(MaskedClassifier(Exact(of_noise), WINDOWS, Patch(2, 2)), IMAGES)


def test_bands_are_asked_about_one_image_at_a_time():
    """On CPUs, whose answers then cannot depend on other images."""

    class Bands(nn.Module):
        description, sizes = {}, []

        def require(self, ablation):
            pass

        def forward(self, images):
            self.sizes.append(len(images))
            return images.new_zeros(len(images), 2 * SIZE, CLASSES)

    bands, ablation = Bands(), BandsAndWindows(SIZE, SIZE, 2, 7, 3)
    classifier = SmoothedClassifier(JointNetwork(bands, Exact(), ablation, 2.0, 4.0).eval(), ablation)
    masking = masking_of(ablation, Patch(2, 2))
    CopiesInOrder(classifier, 256).look(IMAGES, [masking], SMALL)
    assert apart(classifier, 32) == 0
    assert set(bands.sizes) == {1} and set(classifier.network.windows.sizes) == {16}


@pytest.mark.parametrize(("count", "size"), [(1, 4), (3, 4), (4, 4), (9, 4), (3, 1)])
def test_batches_are_filled_up_and_answers_keep_their_order(count, size):
    asked, shown = [], torch.arange(count)[:, None].float()

    def ask(part):
        asked.append(len(part))
        return part.mul_(2)

    assert in_equal_batches(ask, shown, size).equal(2 * torch.arange(count)[:, None])
    assert set(asked) == {size} and shown.equal(torch.arange(count)[:, None]), "what is shown is not written into"


def settled(classifier, amp):
    options = argparse.Namespace(
        numerical_margin="measured", amp=amp, tf32=False, device=torch.device("cpu"), batch_size=32
    )
    dataset = Dataset((255 * IMAGES).byte(), torch.zeros(20, dtype=torch.int64), torch.arange(20))
    require_measurable(options, [classifier])
    margin, said = settle_margin(options, [classifier], dataset, None)
    assert options.numerical_margin == margin.numerical
    return margin, said


def test_the_margins_are_those_of_what_was_measured(monkeypatch):
    asked_under_autocast = []

    def look(copies):
        asked_under_autocast.append(torch.is_autocast_enabled("cpu"))
        return torch.zeros(len(copies), 1)

    assert settled(SmoothedClassifier(Exact(look), WINDOWS), amp=True) == (SMALL, {"margins": "float32"})
    assert set(asked_under_autocast) == {True}
    with pytest.warns(Note, match=r"measured stays with the larger margin, since logits differed between batch"):
        assert settled(SmoothedClassifier(Exact(of_neighbour), WINDOWS), amp=True) == (LARGE, {"margins": "bfloat16"})
    with pytest.raises(UsageError, match=r"^numerical_margin measured: expected auto or a number: only copies with"):
        settled(SmoothedClassifier(Exact(), Band(SIZE, SIZE, 3)), amp=False)
    monkeypatch.setattr(probing, "manner_in_order", None)  # float32 needs none
    assert settled(SmoothedClassifier(Exact(of_neighbour), WINDOWS), amp=False) == (SMALL, {"margins": "float32"})
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"numerical_margin measured: a network must give .* whatever else is in the"):
        settled(SmoothedClassifier(Exact(lambda copies: 1e5 * of_neighbour(copies)), WINDOWS), amp=True)


@pytest.mark.parametrize(("wrong", "certified"), [(None, [False, True, True]), (of_neighbour, [False, False, True])])
@pytest.mark.filterwarnings("ignore::patchcert.errors.Note")
def test_leads_within_the_margin_are_not_certified(wrong, certified):
    margin, _ = settled(SmoothedClassifier(Exact(*[wrong] * bool(wrong)), WINDOWS), amp=True)

    class Leading(nn.Module):
        def forward(self, copies):
            return self.by * F.one_hot(torch.ones(len(copies), dtype=torch.int64), CLASSES).float()

    for lead, expected in zip([5e-4, 0.01, 1.1], certified, strict=True):
        network = Leading()
        network.by = lead
        masking = masking_of(WINDOWS, Patch(2, 2))
        (found,) = MaskedLook(SmoothedClassifier(network, WINDOWS), [masking], margin, Wanted(), 32)(IMAGES)
        assert (found.verdicts.predicted == 1).all() and (found.verdicts.certified == expected).all()


ASK = [*PICTURES, "--all", "--amp", "--checkpoint", NAME, "--numerical_margin", "measured", "--output", "run.json"]
SCRIPT = "certify_cifar_windows.py"


@pytest.fixture(scope="module")
def folder(small_windows):
    return small_windows("measured")


@pytest.mark.parametrize(("apart", "margins", "number"), [(0.0, "float32", 1e-3), (1e-4, "bfloat16", 1.0)])
def test_results_say_which_margins_were_taken(folder, apart, margins, number, monkeypatch, capsys):
    monkeypatch.setattr(probing, "manner_in_order", lambda *_, rounded: Manner("bfloat16", apart, 1))
    succeed(SCRIPT, *ASK, folder=folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["results"][0]["numerical_margin"] == record["config"]["numerical_margin"] == number
    assert record["arithmetic"]["precision"] == "bfloat16" and record["arithmetic"]["margins"] == margins
    note = "--numerical_margin measured stays with the larger margin, since logits differed between batches, by 0.0001"
    assert (note in capsys.readouterr().err) == bool(apart)


def test_saved_answers_are_read_with_the_margins_that_were_measured(folder, monkeypatch, capsys):
    monkeypatch.setattr(probing, "manner_in_order", lambda *_, rounded: Manner("bfloat16", 0.0, 1))
    succeed(SCRIPT, *ASK, "--save_votes", "measured.npz", folder=folder)

    def enlarge(about, arrays):
        assert about["arithmetic"]["margins"] == "float32"
        arrays["magnitudes"] *= 1000  # so that the share of bfloat16 exceeds all leads, and that of float32 few

    def certified():
        succeed("certify_votes.py", "--votes", "measured.npz", "--output", "read.json", folder=folder)
        counts = json.loads((folder / "read.json").read_text())
        return counts["certified_correct"] + counts["certified_wrong"]

    rewrite_votes(folder / "measured.npz", enlarge)
    assert certified() > 0
    rewrite_votes(folder / "measured.npz", lambda about, arrays: about["arithmetic"].pop("margins"))
    assert certified() == 0
    rewrite_votes(folder / "measured.npz", lambda about, arrays: about["arithmetic"].update(margins="exact"))
    assert run_here("certify_votes.py", "--votes", "measured.npz", folder=folder) == 2
    assert "margins is exact, expected one of float32, tf32, bfloat16" in capsys.readouterr().err


def test_a_run_goes_on_with_as_many_threads(folder, monkeypatch, capsys):
    """Margins that were measured hold for these alone."""
    look, looked, threads = MaskedLook.__call__, [], torch.get_num_threads()

    def stopping(*given):
        if looked:
            raise Stopped(signal.SIGINT)
        looked.append(True)
        return look(*given)

    monkeypatch.setattr(journal, "EVERY", 0)
    monkeypatch.setattr(MaskedLook, "__call__", stopping)
    ask = [*ASK, "--batch_size", 3]
    assert run_here(SCRIPT, *ask, folder=folder) == 130
    monkeypatch.setattr(MaskedLook, "__call__", look)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert run_here(SCRIPT, *ask, folder=folder) == 2
    assert f"is of an interrupted run with threads {threads}, not {threads + 1}" in capsys.readouterr().err
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    succeed(SCRIPT, *ask, folder=folder)
