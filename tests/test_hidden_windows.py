"""Hidden windows: their geometry by brute force, the order of questions, alarms, and what an adversary can do."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcert.ablations.hidden_windows import HiddenWindows, even_spans
from patchcert.ablations.windows import WindowPairs
from patchcert.errors import UsageError
from patchcert.masking.alarms import ALARM, Alarms
from patchcert.masking.answers import Answers
from patchcert.masking.questions import WindowVerdict, ask_all, two_rounds
from patchcert.option_values import patch_sizes
from patchcert.patch import Patch
from patchcert.patch_sizes import Area, Share, shapes
from tests import oracle

CLASSES = 3


def held_everywhere(windows: HiddenWindows, patch: Patch) -> bool:
    """By brute force over pixels: at every place some window hides the whole patch."""
    hidden = windows.hidden(torch.arange(windows.count)[:, None].expand(-1, 2))
    return all(
        hidden[:, row : row + patch.height, column : column + patch.width].all(dim=(1, 2)).any()
        for row in range(windows.height - patch.height + 1)
        for column in range(windows.width - patch.width + 1)
    )


@pytest.mark.parametrize(
    "size, patch, per_side, window, starts",
    [
        (224, 32, 6, 64, [0, 32, 64, 96, 128, 160]),
        (224, 32, 3, 96, [0, 64, 128]),
        (32, 5, 6, 9, [0, 4, 9, 13, 18, 23]),
        (32, 5, 4, 11, [0, 7, 14, 21]),
    ],
)
def test_windows_are_those_of_the_specification(size, patch, per_side, window, starts):
    windows = HiddenWindows.for_patch(size, size, Patch(patch, patch), per_side)
    assert windows.count == per_side**2
    assert windows.rectangles[:per_side, 2].tolist() == starts
    assert ((windows.rectangles[:, 1::2] - windows.rectangles[:, ::2]) == window).all()


@given(st.integers(2, 14), st.integers(2, 14), st.integers(1, 14), st.integers(1, 14), st.integers(2, 6))
@settings(deadline=None, max_examples=80)
def test_windows_hold_the_patch_everywhere_and_no_smaller_ones_do(height, width, rows, columns, per_side):
    try:
        windows = HiddenWindows.for_patch(height, width, Patch(rows, columns), per_side)
    except UsageError:
        return
    assert held_everywhere(windows, Patch(rows, columns))
    top, bottom, left, right = windows.rectangles.T
    for size, patch, starts, ends in ((height, rows, top, bottom), (width, columns, left, right)):
        length = int((ends - starts)[0])
        assert ((ends - starts) == length).all() and starts.min() == 0 and ends.max() == size
        if length > patch:
            shorter = (size - length + 1) * torch.arange(per_side) // (per_side - 1)
            assert shorter.diff().max() > length - patch, "shorter windows would do"


@pytest.mark.parametrize("height, width, patch, per_side", [(9, 9, Patch(2, 2), 3), (8, 12, Patch(3, 1), 4)])
def test_square_windows_for_a_patch_hold_it_and_smaller_ones_do_not(height, width, patch, per_side):
    pairs = WindowPairs.for_patch(height, width, patch, per_side)
    pairs.require_fits("size_to_certify", patch)
    with pytest.raises(UsageError):
        WindowPairs(height, width, pairs.window_size - 1, per_side).require_fits("size_to_certify", patch)


def test_windows_that_do_not_hold_a_patch_name_those_that_would():
    with pytest.raises(UsageError, match=r"at most 19 × 19 pixels: .*; 4 windows .* 80 pixels"):
        WindowPairs(224, 224, 70, 4).places(Patch(32, 32))


def test_the_places_of_windows_on_large_images_are_few():
    pairs = WindowPairs.for_patch(224, 224, Patch(32, 32), 6)
    sets, numbers = pairs.distinct_places(Patch(32, 32))
    assert pairs.window_size == 64 and sets.numel() < 100_000 and len(numbers) == 193**2


@pytest.mark.parametrize("per_side, window", [(2, 5), (3, 4), (4, 3)])
def test_copies_without_windows_show_what_the_windows_leave(per_side, window):
    pairs = WindowPairs(7, 9, window, per_side) if per_side < 4 else WindowPairs(7, 8, window, per_side)
    spans = [even_spans(size, window, per_side).tolist() for size in (pairs.height, pairs.width)]
    hidden = torch.zeros(per_side**2, pairs.height, pairs.width, dtype=torch.bool)
    for number, ((top, bottom), (left, right)) in enumerate(itertools.product(*spans)):
        hidden[number, top:bottom, left:right] = True
    first, second = torch.tensor(oracle.pairs_and_singles(per_side**2)).T
    assert (pairs.masks() == ~(hidden[first] | hidden[second])).all()


@pytest.mark.parametrize("percent, side", [(1, 23), (2, 32), (3, 39)])
def test_shares_of_the_pixels_are_those_of_papers(percent, side):
    assert shapes(Share(percent), 224, 224) == [Patch(side, side)]


@pytest.mark.parametrize("percent", [0, -1, 100, float("nan"), "2", True])
def test_what_is_no_share_is_refused(percent):
    with pytest.raises(UsageError, match=f"percent {percent}: expected a share above 0 % and below 100 %"):
        Share(percent)


def test_a_share_that_is_a_whole_square_is_not_rounded_up():
    assert shapes(Share(6.25), 32, 32) == [Patch(8, 8)] and shapes(Share(1), 200, 200) == [Patch(20, 20)]


def test_the_smallest_share_is_a_pixel():
    assert shapes(Share(1e-9), 28, 28) == [Patch(1)]


def test_a_share_is_written_so_that_reading_it_gives_the_same_square():
    share = Share(2.0408163)  # a little less than 32 × 32 of 224 × 224 pixels; rounded to 2.04082, it is more
    (found,) = patch_sizes(share.size)
    assert shapes(found, 224, 224) == shapes(share, 224, 224) == [Patch(32)]


def test_every_shape_of_an_area_is_held():
    found = shapes(Area(6), 8, 10)
    windows = HiddenWindows.for_shapes(8, 10, found, 4)
    for rows, columns in itertools.product(range(1, 9), range(1, 11)):
        if rows * columns <= 6:
            assert held_everywhere(windows, Patch(rows, columns)), (rows, columns)
    assert not any(a != b and a.height <= b.height and a.width <= b.width for a in found for b in found)


def test_square_windows_of_an_area_hold_every_shape_and_no_smaller_ones_do():
    of_share, of_patch = (WindowPairs.for_patch(8, 10, size, 3).window_size for size in (Share(4), Patch(2)))
    assert of_share == of_patch and HiddenWindows.for_patch(8, 10, Share(4), 3).shapes == (Patch(2),)
    pairs, found = WindowPairs.for_patch(8, 10, Area(6), 4), shapes(Area(6), 8, 10)
    smaller = WindowPairs(8, 10, pairs.window_size - 1, 4)
    held = [all(windows.hidden().holds(shape) for shape in found) for windows in (pairs, smaller)]
    assert held == [True, False]


def test_what_no_windows_hold_is_refused_in_one_line():
    with pytest.raises(UsageError, match=r"patch 8: expected a patch that fits into 7 × 9 pixels"):
        HiddenWindows.for_patch(7, 9, Patch(8, 8), 3)
    with pytest.raises(UsageError, match="patch 8: expected a patch smaller than the image"):
        HiddenWindows.for_patch(8, 8, Patch(8, 8), 2)
    with pytest.raises(UsageError, match="per_side 1: expected a whole number from 2 to 16"):
        HiddenWindows.for_patch(8, 8, Patch(2, 2), 1)
    for kind in (HiddenWindows, WindowPairs):
        with pytest.raises(UsageError, match=r"patch 5: expected a Patch\(height, width\), a Share\(percent\) or an A"):
            kind.for_patch(8, 8, 5, 3)
    with pytest.raises(ValueError, match="patches of 3: at some place no window covers them"):
        HiddenWindows(4, 4, torch.tensor([[0, 2, 0, 4], [2, 4, 0, 4]]), [Patch(3, 3)])


WINDOWS = HiddenWindows.for_patch(5, 5, Patch(1, 1), 2)
PLACES = WINDOWS.covering(Patch(1, 1)).flatten(1).unique(dim=1)  # (M, L), places that differ in what hides them


def table(generator: torch.Generator, agreement: float) -> torch.Tensor:
    """(M, M, K): logits without every pair of windows, alike in both orders, mostly of one class."""
    size = WINDOWS.count
    agreed = torch.rand(size, size, generator=generator) < agreement
    classes = torch.randint(CLASSES, (size, size), generator=generator).masked_fill(agreed, 1)
    logits = torch.nn.functional.one_hot(classes, CLASSES) * torch.rand(size, size, 1, generator=generator)
    upper = torch.arange(size)[:, None] <= torch.arange(size)
    return torch.where(upper[..., None], logits, logits.transpose(0, 1))


def verdicts(tables: torch.Tensor, margin: float, batch_size: int = 7, certify: bool = True) -> list[WindowVerdict]:
    """On images that are numbers of `tables` (N, M, M, K)."""

    def network(images: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        return tables[images[:, 0].long(), pairs[:, 0], pairs[:, 1]]

    images = torch.arange(len(tables))[:, None].float()
    opened = ((image, two_rounds(WINDOWS.count, margin, certify)) for image in images)
    return list(ask_all(opened, lambda *asked: Answers.of(network(*asked)), batch_size))


def by_definition(logits: torch.Tensor, margin: float) -> tuple[int, bool]:
    """The two rounds and the certificate of one table (M, M, K), with everything asked."""
    answers = logits.argmax(dim=2)
    highest = logits.topk(2, dim=2).values
    singles = answers.diagonal()
    predicted = most = int(singles.bincount().argmax())
    for window, answer in enumerate(singles.tolist()):
        if answer != most and (answers[window] == answer).all():
            predicted = answer
    agreed = (answers == predicted) & (highest[..., 0] - highest[..., 1] > margin)
    return predicted, bool(agreed.all())


@pytest.mark.parametrize("batch_size", [1, 3, 64, 1000])
def test_asking_in_order_gives_what_asking_everything_gives(batch_size):
    generator = torch.Generator().manual_seed(0)
    tables = torch.stack([table(generator, agreement) for agreement in [0.6, 0.9, 0.95, 1.0] for _ in range(30)])
    found = verdicts(tables, 0.02, batch_size)
    assert [(v.predicted, v.certified) for v in found] == [by_definition(logits, 0.02) for logits in tables]
    assert 20 < sum(v.certified for v in found) < 100
    for verdict, logits in zip(found, tables, strict=True):
        own = logits[..., verdict.predicted]
        rivals = logits.masked_fill(torch.arange(CLASSES) == verdict.predicted, -torch.inf).amax(dim=2)
        worst = float((own - rivals).min())
        assert verdict.lead >= worst - 1e-5
        assert verdict.left_early or verdict.lead == pytest.approx(worst, abs=1e-5)
        singles = logits.argmax(dim=2).diagonal()
        assert verdict.dissenting.equal(singles != singles.bincount().argmax())


def test_a_prediction_where_all_agree_costs_the_single_windows_alone():
    tables = table(torch.Generator().manual_seed(1), 1.0)[None]
    (certified,), (predicted,) = verdicts(tables, 0.0), verdicts(tables, 0.0, certify=False)
    assert predicted.passes == WINDOWS.count and certified.passes == WINDOWS.count * (WINDOWS.count + 1) // 2
    assert predicted.predicted == certified.predicted and certified.certified and not predicted.certified


def test_pairs_are_asked_about_hardest_first():
    leads = [32.0, 1.0, 16.0, 2.0, 8.0, 4.0]  # no two sums of two are the same
    questions, asked = two_rounds(len(leads), 0.0), []
    next(questions)
    pairs = questions.send(Answers.of(torch.tensor([[lead, 0.0] for lead in leads])))
    with pytest.raises(StopIteration) as end:
        while True:
            asked += pairs.tolist()
            pairs = questions.send(Answers.of(torch.tensor([[99.0, 0.0]]).expand(len(pairs), 2)))
    hardest_first = sorted(itertools.combinations(range(len(leads)), 2), key=lambda pair: sum(leads[i] for i in pair))
    assert asked == [list(pair) for pair in hardest_first] and end.value.value.certified


@pytest.mark.parametrize("batch_size", [3, 7, 64])
def test_no_batch_is_half_empty_before_all_images_have_come(batch_size):
    generator = torch.Generator().manual_seed(9)
    tables = torch.stack([table(generator, agreement) for agreement in [0.6, 1.0, 0.9] for _ in range(40)])
    batches, come = [], []

    def opened():
        for number in range(len(tables)):
            yield torch.tensor([float(number)]), two_rounds(WINDOWS.count, 0.02)
        come.append(True)

    def answers(images: torch.Tensor, pairs: torch.Tensor) -> Answers:
        batches.append((len(images), len(images.unique()), bool(come)))
        return Answers.of(tables[images[:, 0].long(), pairs[:, 0], pairs[:, 1]])

    found = list(ask_all(opened(), answers, batch_size))
    assert [(v.predicted, v.certified) for v in found] == [by_definition(logits, 0.02) for logits in tables]
    before = [(size, shared) for size, shared, last in batches if not last]
    assert {size for size, _ in before} == {batch_size} and len(before) > 2
    assert any(shared > 1 for _, shared in before)


def attacked(logits: torch.Tensor, place: int, generator: torch.Generator, rounding: float) -> torch.Tensor:
    """A table in which a patch at `place` set every answer that it can, and rounding moved all others."""
    shown = ~(PLACES[:, None, place] | PLACES[None, :, place])
    rounded = logits + rounding * (2 * torch.rand(logits.shape, generator=generator) - 1)
    target = int(torch.randint(CLASSES, (1,), generator=generator))
    wished = torch.rand(logits.shape, generator=generator)
    if torch.rand(1, generator=generator) < 0.7:
        wished[..., target] += 1
    return torch.where(shown[..., None], wished, rounded)


def flips(certified: list[torch.Tensor], margin: float, tries: int = 3) -> int:
    """How many attacks change the prediction of tables that are said to be certified."""
    generator = torch.Generator().manual_seed(2)
    clean = [v.predicted for v in verdicts(torch.stack(certified), margin)]
    changed = 0
    for place in range(PLACES.shape[1]):
        for _ in range(tries):
            tables = torch.stack([attacked(logits, place, generator, margin / 2 * 0.999) for logits in certified])
            changed += sum(v.predicted != own for v, own in zip(verdicts(tables, margin), clean, strict=True))
    return changed


def near_ties(generator: torch.Generator, margin: float) -> torch.Tensor:
    """A table of one answer whose leads are of one to two times the margin."""
    size = WINDOWS.count
    logits = torch.zeros(size, size, CLASSES)
    logits[..., 1] = margin * (1.001 + torch.rand(size, size, generator=generator))
    return torch.maximum(logits, logits.transpose(0, 1))


def test_no_attack_changes_a_certified_prediction():
    generator = torch.Generator().manual_seed(3)
    tables = [table(generator, 0.97) for _ in range(80)] + [near_ties(generator, 0.02) for _ in range(10)]
    kept = [t for t, v in zip(tables, verdicts(torch.stack(tables), 0.02), strict=True) if v.certified]
    assert len(kept) > 20
    assert flips(kept, 0.02) == 0


def test_a_certificate_of_single_windows_alone_is_caught():
    generator = torch.Generator().manual_seed(4)
    tables = [table(generator, 0.9) for _ in range(60)]
    broken = [t for t in tables if t.argmax(dim=2).diagonal().unique().numel() == 1]
    assert flips(broken, 0.02) > 0


def test_a_certificate_that_forgets_the_margin_is_caught():
    generator = torch.Generator().manual_seed(5)
    tied = [near_ties(generator, 0.02) / 4 for _ in range(5)]
    assert flips(tied, 0.02) > 0


def test_answers_refuse_what_is_not_finite_and_count_rounding_of_huge_logits():
    with pytest.raises(FloatingPointError, match="not finite"):
        Answers.of(torch.tensor([[0.0, torch.inf]]))
    huge = torch.tensor([[1e5, 1e5 + 0.2, 0.0]])
    small = torch.tensor([[0.0, 0.2, -1.0]])
    assert Answers.of(huge).leads.item() < 0 < Answers.of(small).leads.item()
    near = torch.tensor([[30.0, 30.1]])
    with torch.autocast("cpu", torch.bfloat16):
        assert Answers.of(near).leads.item() < 0
    assert Answers.of(near).leads.item() > 0
    exact = Answers.of(torch.tensor([[1.0, 3.0, 3.0]]))
    assert exact.classes.item() == 1 and exact.leads.item() <= 0


def outputs(tables: torch.Tensor, whole: torch.Tensor, threshold: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a defence with alarms, by single windows: from tables (N, M, M, K) and logits of whole images (N, K)."""
    singles = tables.diagonal(dim1=1, dim2=2).transpose(1, 2)
    answers = Answers.of(singles.flatten(0, 1))
    shape = singles.shape[:2]
    names = ("classes", "leads", "confidences", "certain")
    parts = [getattr(answers, name).view(shape) for name in names]
    alarms = Alarms.of(*parts, whole.argmax(dim=1))
    return alarms.strict(0.02) if threshold is None else alarms.by_confidence(threshold, 0.02)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.36])
def test_no_attack_makes_a_certified_image_another_class_without_an_alarm(threshold):
    generator = torch.Generator().manual_seed(6)
    tables = torch.stack([table(generator, 0.97) for _ in range(60)])
    whole = torch.nn.functional.one_hot(torch.ones(60, dtype=torch.int64), CLASSES).float()
    output, certified = outputs(tables, whole, threshold)
    kept = certified.nonzero().flatten()
    assert len(kept) > 5 and (output[kept] == 1).all()
    raised = 0
    for place in range(PLACES.shape[1]):
        for _ in range(5):
            found, _ = outputs(
                torch.stack([attacked(tables[i], place, generator, 0.009) for i in kept]),
                torch.rand(len(kept), CLASSES, generator=generator),  # the patch is in the whole image
                threshold,
            )
            assert ((found == output[kept]) | (found == ALARM)).all()
            raised += int((found == ALARM).sum())
    assert raised > 0


def test_an_alarm_that_is_certified_by_the_whole_image_alone_is_caught():
    generator = torch.Generator().manual_seed(7)
    tables = torch.stack([table(generator, 0.5) for _ in range(30)])
    changed = 0
    for place in range(PLACES.shape[1]):
        hit = torch.stack([attacked(logits, place, generator, 0.0) for logits in tables])
        found, _ = outputs(hit, torch.rand(30, CLASSES, generator=generator), 0.5)
        changed += int(((found != 1) & (found != ALARM)).sum())
    assert changed > 0


def test_larger_thresholds_raise_fewer_alarms_and_certify_less():
    generator = torch.Generator().manual_seed(8)
    tables = torch.stack([table(generator, 0.8) for _ in range(300)])
    whole = torch.nn.functional.one_hot(torch.ones(300, dtype=torch.int64), CLASSES).float()
    found = [outputs(tables, whole, threshold) for threshold in (0.0, 0.4, 0.45, 0.5, 0.9)]
    alarms = [int((output == ALARM).sum()) for output, _ in found]
    certified = [int(flags.sum()) for _, flags in found]
    assert alarms == sorted(alarms, reverse=True) and alarms[0] > alarms[-1]
    assert certified == sorted(certified, reverse=True) and certified[0] > certified[-1]
