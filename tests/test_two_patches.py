"""Alarms of hidden windows against an adversary with two patches, who chooses every answer that these can change."""

from itertools import combinations_with_replacement, product

import pytest
import torch
from torch import Tensor, nn

from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.classifiers.window_goals import ALERT, Goal, look
from patchcert.classifiers.window_masked import NOTHING, WindowMaskedClassifier
from patchcert.masking.alarms import ALARM
from patchcert.masking.noted import pairs_of
from patchcert.patch import Patch

WINDOWS = HiddenWindows.for_patch(3, 4, Patch(1), 2)
QUESTIONS = torch.cat([pairs_of(WINDOWS.count), torch.full((1, 2), NOTHING)])
"""Without one window, without two, and the whole image."""

MASKS = WINDOWS.hidden(QUESTIONS)
SHOW_EACH = [~MASKS[:, row, column] for row, column in product(range(3), range(4))]
TOUCHED = torch.stack([one | other for one, other in combinations_with_replacement(SHOW_EACH, 2)]).unique(dim=0)
"""(P, Q): which questions show one of two patches of a pixel, wherever these lie."""

CLASSES, MARGIN, SURE = 3, 0.1, 12.0
SHADES = 1 << 12
RULES = [None, 0.0, 0.5, 0.9]


class Answered(nn.Module):
    """Looks up its logits (N, Q, K): the shade of an image is its number, what is hidden is the question."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        same = (hidden[:, None] == MASKS).flatten(2).all(dim=2)
        assert (same.sum(dim=1) == 1).all()
        return self.logits[(images[:, 0, 0, 0] * SHADES).round().long(), same.int().argmax(dim=1)]


def outputs(logits: Tensor, rule: float | None, patches: int = 2, margin: float = MARGIN) -> tuple[Tensor, Tensor]:
    """What the defence answers to images with these logits (N, Q, K), and what it certifies."""
    goal, shades = Goal(ALERT, rule, patches), torch.arange(len(logits)) / SHADES
    classifier = WindowMaskedClassifier(Answered(logits).eval(), WINDOWS, batch_size=512)
    rows = goal.rows(look(classifier, shades.view(-1, 1, 1, 1).expand(-1, 1, 3, 4), [goal], margin), margin)
    return rows["predicted"], rows["certified"]


def clean(count: int = 36) -> Tensor:
    """(N, Q, K): most answers are class 1, more or less surely; of two in three images all are, or all but one."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(count, len(QUESTIONS), CLASSES, generator=generator) / 100
    logits[..., 1] += torch.linspace(0, 5, count)[:, None]
    for number in range(0, count, 3):
        question = torch.randint(len(QUESTIONS), (1,), generator=generator)
        logits[number, question, 2] += 6 if number % 2 else 0.3
    return logits


def attacks(logits: Tensor, rounding: float = 0.0) -> Tensor:
    """(V, Q, K): one image's logits (Q, K), where two patches somewhere make another class of all that shows them.

    All else is rounded to the harm of class 1.
    """
    kept = logits.clone()
    kept[:, 1] -= rounding
    found = []
    for touched, wished in product(TOUCHED, (0, 2)):
        answers = kept.clone()
        answers[touched] = SURE * torch.eye(CLASSES)[wished]
        found.append(answers)
    return torch.stack(found)


def flips(logits: Tensor, decide, rounding: float = 0.0) -> int:
    """How many attacks on these images (N, Q, K) end in another class than 1 without an alarm."""
    flipped = 0
    for some in torch.cat([attacks(own, rounding) for own in logits]).split(SHADES):
        found = decide(some)
        flipped += int(((found != 1) & (found != ALARM)).sum())
    return flipped


@pytest.mark.parametrize("rule", RULES)
def test_outputs_and_certificates_are_those_of_the_definition(rule):
    logits = clean()
    logits[::7, -1] = logits[::7, -1].roll(1, dims=1)  # the whole image is answered otherwise
    predicted, certified = outputs(logits, rule, margin=0.0)
    for own, output, certain in zip(logits, predicted.tolist(), certified.tolist(), strict=True):
        classes, (*confidences, _) = own.argmax(dim=1).tolist(), own.softmax(dim=1).amax(dim=1).tolist()
        *masked, whole = classes
        if rule is None:
            expected = masked[0] if len(set(masked)) == 1 else ALARM
            promised = expected != ALARM
        else:
            against = [c for k, c in zip(masked, confidences, strict=True) if k != whole]
            expected = whole if all(c <= rule for c in against) else ALARM
            promised = set(masked) == {whole} and all(c > rule for c in confidences)
        assert (output, certain) == (expected, promised)
    assert 5 < int(certified.sum()) < 33 and (predicted == ALARM).any()


@pytest.mark.parametrize("rule", RULES)
def test_no_two_patches_make_a_certified_image_another_class_without_an_alarm(rule):
    logits = clean()
    predicted, certified = outputs(logits, rule)
    assert (predicted[certified] == 1).all() and 5 < int(certified.sum()) < 33

    def decide(attacked):
        return outputs(attacked, rule)[0]

    assert flips(logits[certified], decide) == 0
    assert flips(logits[certified], decide, rounding=0.999 * MARGIN) == 0
    assert flips(logits[~certified], decide) > 0


@pytest.mark.parametrize("rule", [None, 0.5])
def test_rounding_flips_what_is_certified_without_a_margin(rule):
    logits = clean(300)
    certified = outputs(logits, rule, margin=0.0)[1] & ~outputs(logits, rule)[1]
    assert certified.any() and flips(logits[certified], lambda hit: outputs(hit, rule)[0], MARGIN) > 0


@pytest.mark.parametrize("rule", RULES)
def test_certificates_that_look_at_less_are_told(rule):
    logits = clean()
    of_singles, of_pairs = (outputs(logits, rule, patches)[1] for patches in (1, 2))
    assert flips(logits[of_singles], lambda hit: outputs(hit, rule, 1)[0]) > 0, "single windows alone"
    assert flips(logits[of_singles], lambda hit: outputs(hit, rule)[0]) > 0, "certified by single windows"
    assert flips(logits[of_pairs], lambda hit: outputs(hit, rule, 1)[0]) > 0, "answered by single windows"
    if rule:
        whatever_confidence = outputs(logits, None)[1]
        assert flips(logits[whatever_confidence], lambda hit: outputs(hit, rule)[0]) > 0
