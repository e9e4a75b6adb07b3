"""Double masking of images with hidden windows, asked for in the order in which it is over soonest.

Some window w* hides the patch. So what the network says of the image without w*, and without w* and any other window,
no patch can change. The prediction is that of PatchCleanser's two rounds (Xiang, Mahloujifar and Mittal, USENIX
Security 2022, algorithm 1): if the answers without one window agree, that is it. Otherwise a window that dissents from
the most frequent answer is believed if every second window besides it leaves its answer as it is. If every pair of
windows gives the same class, it stays the prediction whatever a patch shows.

Each image is a generator: it yields pairs of windows and is sent the answers. It ends with a verdict, as soon as one is
certain. `ask_all` puts the questions of many images into full batches.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from patchcert.masking.answers import Answers, dissenting

AT_ONCE = 4
"""Pairs of windows that an image asks for before it looks at the answers."""


@dataclass(frozen=True)
class WindowVerdict:
    """What the two rounds say of one image.

    Attributes:
        predicted: the class.
        lead: the least lead of the prediction that was seen; where the image was left early, the worst is at most that.
        passes: of the network.
        singles: the answers without one window, from which alarms follow, too.
        certified: whether every pair of windows gives the prediction, by a lead above the numerical margin.
        left_early: whether some pair was not asked for.
        within_margin: certified but for the numerical margin.
        answers: all that the network gave, by `noted.numbers_of`, where they were noted.
    """

    predicted: int
    lead: float
    passes: int
    singles: Answers
    certified: bool = False
    left_early: bool = True
    within_margin: bool = False
    answers: Answers | None = None

    @property
    def dissenting(self) -> Tensor:
        """(M,) bool: windows without which the answer is another than without most.

        Where they lie, the image may have been tampered with. A hint and no certificate.
        """
        return dissenting(self.singles.classes)


Heard = TypeVar("Heard", Answers, Tensor)
Found = TypeVar("Found")

Questions = Generator[Tensor, Answers, WindowVerdict]
"""Yields pairs of windows (B, 2), is sent their answers, returns the verdict."""


def two_rounds(windows: int, numerical_margin: float, certify: bool = True, known: Tensor | None = None) -> Questions:
    """The questions about one image.

    Args:
        windows: M, how many there are.
        certify: whether pairs are asked for where all windows agree, too; the prediction needs none then.
        known: (M, M) bool, pairs that are asked for before others, since their answers are known.
    """
    known = torch.zeros(windows, windows, dtype=torch.bool) if known is None else known
    singles = yield torch.arange(windows)[:, None].expand(windows, 2)
    passes = windows
    predicted = int(singles.classes.bincount().argmax())
    hardest_first = singles.leads.argsort(stable=True)
    dissenters = dissenting(singles.classes).nonzero().flatten().tolist()
    for window in dissenters:
        others, own = hardest_first[hardest_first != window], int(singles.classes[window])
        for some in _in_parts(others, known[window, others]):
            found = yield torch.stack([torch.full_like(some, window), some], dim=1)
            passes += len(some)
            if (found.classes != own).any():
                break
        else:
            predicted = own  # no window of another answer is confirmed as well: without both there is one answer
            break
    if dissenters:
        lead = float(-singles.leads[singles.classes != predicted].amax())
        return WindowVerdict(predicted, lead, passes, singles)
    lead = float(singles.leads.amin())
    if not certify:
        return WindowVerdict(predicted, lead, passes, singles)
    every = _pairs_hardest_first(singles.leads)
    for pairs in _in_parts(every, known[*every.T]):
        found = yield pairs
        passes += len(pairs)
        others = found.classes != predicted
        if others.any():
            lead = float(-found.leads[others].amax())
            return WindowVerdict(predicted, lead, passes, singles)
        lead = min(lead, float(found.leads.amin()))
    certified = lead > numerical_margin
    return WindowVerdict(predicted, lead, passes, singles, certified, False, not certified)


def _in_parts(questions: Tensor, known: Tensor) -> Iterator[Tensor]:
    """Yield the `questions` (Q, …) some at a time, the `known` ones (Q,) bool first."""
    for part in (questions[known], questions[~known]):
        if len(part):
            yield from part.split(AT_ONCE)


def _pairs_hardest_first(leads: Tensor) -> Tensor:
    """(M(M−1)/2, 2): all pairs of two windows, those first without which the answers led by least."""
    first, second = torch.triu_indices(len(leads), len(leads), offset=1)
    order = (leads[first] + leads[second]).argsort(stable=True)
    return torch.stack([first, second], dim=1)[order]


def ask_all(
    images: Iterable[tuple[Tensor, Generator[Tensor, Heard, Found]]],
    answers: Callable[[Tensor, Tensor], Heard],
    batch_size: int,
) -> Iterator[Found]:
    """Yield what is found of images in their order; no batch but the last ones is left half empty.

    Args:
        images: (C, H, W), each with the questions about it.
        answers: from images (B, C, H, W) and one question about each (B, …).
        batch_size: B at most.
    """
    waiting, opened, finished = deque(), 0, {}
    arriving, next_out = iter(images), 0
    while True:
        while sum(len(image.missing) for image in waiting) < batch_size:
            arrived = next(arriving, None)
            if arrived is None:
                break
            waiting.append(_Opened(opened, *arrived))
            opened += 1
        if not waiting:
            return
        batch = _fill(waiting, batch_size)
        pixels = torch.stack([image.pixels for image, pairs in batch for _ in pairs])
        heard = answers(pixels, torch.cat([pairs for _, pairs in batch]))
        start = 0
        for image, pairs in batch:
            image.hear(heard[start : start + len(pairs)])
            start += len(pairs)
        for image in [image for image in waiting if image.ended]:
            waiting.remove(image)
            finished[image.number] = image.found
        while next_out in finished:
            yield finished.pop(next_out)
            next_out += 1


class _Opened:
    """An image whose questions are being asked."""

    def __init__(self, number: int, pixels: Tensor, questions: Generator):
        self.number, self.pixels, self.questions = number, pixels, questions
        self.found, self.ended = None, False
        self.missing, self.heard = next(questions), []

    def hear(self, answers: Answers | Tensor) -> None:
        """Take the answers to the first of the `missing` questions; go on when all are there."""
        self.heard.append(answers)
        self.missing = self.missing[len(answers) :]
        if len(self.missing):
            return
        heard, self.heard = _together(self.heard), []
        try:
            self.missing = self.questions.send(heard)
        except StopIteration as end:
            self.found, self.ended = end.value, True


def _together(parts: list) -> Answers | Tensor:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else Answers.concatenate(parts)


def _fill(waiting: Iterable[_Opened], batch_size: int) -> list[tuple[_Opened, Tensor]]:
    """The first questions that wait, at most `batch_size`, with the images that they are about."""
    batch = []
    for image in waiting:
        some = image.missing[:batch_size]
        if len(some):
            batch.append((image, some))
            batch_size -= len(some)
    return batch
