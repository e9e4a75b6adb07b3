"""What reports show of images with hidden windows: which windows an answer hangs on, and which ones dissent."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.classifiers import weak_spots
from patchcert.experiments import summaries
from patchcert.experiments.reporting import Subject
from patchcert.masking.answers import UNASKED, Answers, dissenting
from patchcert.masking.noted import pairs_of
from patchcert.reports.exhibits import Rectangle, Views, Windowed
from patchcert.votes.saved_answers import Family, SavedAnswers

SAID = ("predicted", "certified")
"""Columns that are shown of each question."""

LEADS_ARE = "lead without the worst windows that were tried"


def subject(
    saved: SavedAnswers,
    family: Family,
    number: int,
    questions: Sequence[dict],
    columns: Sequence[dict[str, Tensor]],
    pictures: Callable[[Tensor], Tensor | None],
) -> Subject:
    """The question of that `number` about saved answers.

    Args:
        family: the windows that it is about.
        questions: all that were asked, in JSON's types; those of the same size are shown beside it.
        columns: for each of them (N,) by name, see `windows.rows_of`.
        pictures: numbers (n,) of images to (n, C, H, W) uint8, if they are there.
    """
    asked, windows = questions[number], family.windows
    sizes = [question["size_to_certify"] for question in questions]
    beside = [other for other, size in enumerate(sizes) if size == asked["size_to_certify"]]
    singles_decide = asked["goal"] == "alert" and asked["patches"] == 1
    mapped = len(windows.shapes) == 1 and asked["confidence"] is None  # leads say nothing of confidences
    patch = windows.shapes[0] if mapped else None

    def look(chosen: Tensor) -> Views:
        spots, windowed = [], []
        for image, answers in zip(chosen.tolist(), saved.take(chosen).images(), strict=True):
            known = answers[family.questions]
            known = known[: windows.count] if singles_decide else known
            said = [
                (summaries.of_goal(questions[other]), *(columns[other][name][image].item() for name in SAID))
                for other in beside
            ]
            windowed.append(seen(windows, known, int(columns[number]["predicted"][image]), said))
            if patch:
                spots.append(weak_spots.by_place(windows, patch, torch.tensor(windowed[-1].leads)))
        return Views(pictures(chosen), torch.stack(spots) if spots else None, windowed=windowed)

    leads = columns[number].get("lead")
    about, margin = summaries.of_question(asked), asked["numerical_margin"]
    return Subject(about, "", patch, look, leads, margin, LEADS_ARE, "logits", str(windows))


def subject_of_rows(asked: dict, columns: dict[str, Tensor]) -> Subject:
    """The question `asked` where nothing but its rows per image, (N,) by name, is left."""
    about, margin = summaries.of_question(asked), asked["numerical_margin"]
    return Subject(about, "", None, lambda _: Views(), columns.get("lead"), margin, LEADS_ARE, "logits")


def seen(windows: HiddenWindows, known: Answers, predicted: int, said: list[tuple[str, int, bool]]) -> Windowed:
    """What is to be seen of one image.

    Args:
        known: (Q,), the answers to the questions of `noted`, or to the first M of them; of some there may be none.
        predicted: the class, or below 0 an alarm, in place of which the most frequent class counts.
        said: see `Windowed`.
    """
    singles, pairs = known[: windows.count].classes, pairs_of(windows.count)[: len(known)]
    usual = int(singles.bincount().argmax())
    leads = weak_spots.leads_of(known, predicted if predicted >= 0 else usual)
    of_windows = weak_spots.least_of_windows(windows.count, leads)
    dissenters = [_rectangle(windows, window) for window in dissenting(singles).nonzero().flatten().tolist()]
    weakest = [_rectangle(windows, window) for window in pairs[leads.argmin()].unique().tolist()]
    asked = int((known.classes != UNASKED).sum())
    return Windowed(of_windows.tolist(), [] if dissenters else weakest, dissenters, asked, len(known), said)


def _rectangle(windows: HiddenWindows, window: int) -> Rectangle:
    top, bottom, left, right = windows.rectangles[window].tolist()
    return top, left, bottom - top, right - left
