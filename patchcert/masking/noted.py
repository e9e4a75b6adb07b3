"""What a network answers to an image without one and without two windows, kept so that it need not be asked again.

The questions about M windows have numbers: w is that without window w alone, 0 … M − 1. After them come the pairs of
two windows v < w, row by row: (0, 1), (0, 2), …, (0, M − 1), (1, 2), …
"""

from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from patchcert.masking.answers import UNASKED, Answers
from patchcert.masking.questions import Questions, WindowVerdict, two_rounds


def count_of(windows: int) -> int:
    """M + M(M − 1)/2: how many questions there are about so many windows."""
    return windows * (windows + 1) // 2


def numbers_of(pairs: Tensor, windows: int) -> Tensor:
    """(B,) int64: the numbers of the questions `pairs` (B, 2); a window twice is that window alone."""
    first, second = pairs.amin(dim=1), pairs.amax(dim=1)
    before = windows + first * (2 * windows - first - 1) // 2  # all singles, and the pairs of windows below `first`
    return torch.where(first == second, first, before + second - first - 1)


def pairs_of(windows: int) -> Tensor:
    """(Q, 2) int64: all questions in the order of their numbers."""
    alone = torch.arange(windows)[:, None].expand(-1, 2)
    return torch.cat([alone, torch.triu_indices(windows, windows, offset=1).T])


def noted(questions: Questions, windows: int, known: Answers | None = None, all_of_them: bool = False) -> Questions:
    """The same questions but for those whose answers are known; the verdict has all answers.

    Args:
        known: (Q,), the answers so far; they are added to.
        all_of_them: whether all that is not known at the end is asked for, too.
    """
    known = Answers.none(count_of(windows)) if known is None else known
    verdict = yield from _asking(questions, windows, known)
    missing = (known.classes == UNASKED).nonzero().flatten()
    if all_of_them and len(missing):
        known.put(missing, (yield pairs_of(windows)[missing]))
        verdict = replace(verdict, passes=count_of(windows))
    return replace(verdict, answers=known)


def _asking(questions: Questions, windows: int, known: Answers) -> Generator[Tensor, Answers, WindowVerdict]:
    """Ask for what is not known, answer the `questions` from what is, and return their verdict."""
    try:
        wanted = next(questions)
        while True:
            numbers = numbers_of(wanted, windows)
            missing = known.classes[numbers] == UNASKED
            if missing.any():
                known.put(numbers[missing], (yield wanted[missing]))
            wanted = questions.send(known[numbers])
    except StopIteration as end:
        return end.value


def from_known(windows: int, known: Answers, numerical_margin: float, certify: bool = True) -> WindowVerdict | None:
    """The verdict of `two_rounds` that follows from the `known` answers (Q,) alone; None if another question decides.

    In which order they were given does not matter.
    """
    first, second = pairs_of(windows).T
    given = torch.zeros(windows, windows, dtype=torch.bool)
    given[first, second] = given[second, first] = known.classes != UNASKED
    try:
        next(noted(two_rounds(windows, numerical_margin, certify, given), windows, known))
    except StopIteration as end:
        return end.value
    return None
