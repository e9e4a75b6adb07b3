"""Certifying by hidden windows from answers that a network gave before, as options describe it; no network runs."""

import argparse

import torch
from torch import Tensor

from patchcert import checkpoint, distributed, results
from patchcert.classifiers.window_goals import ALERT, RECOVER, Goal, Seen
from patchcert.classifiers.window_masked import alarms_of
from patchcert.errors import UsageError
from patchcert.experiments import reporting, summaries, window_galleries
from patchcert.experiments.evaluation import first, write_and_print
from patchcert.experiments.masking import goals_of
from patchcert.experiments.reporting import Subject
from patchcert.experiments.windows import Asked, answers_of, columns_of
from patchcert.journal import Journal
from patchcert.masking.alarms import ALARM
from patchcert.masking.answers import UNASKED, Answers
from patchcert.masking.noted import from_known
from patchcert.masking.questions import WindowVerdict
from patchcert.option_values import patch_sizes
from patchcert.patch_sizes import PatchSize, without_repeats
from patchcert.reports.exhibits import Gallery
from patchcert.votes.saved_answers import WHOLE, Family, SavedAnswers

OF_VOTES = ("threshold", "top_one", "certificate")
"""Options that say how copies vote."""

IMAGES_AT_ONCE = 64


def certify_saved_windows(options: argparse.Namespace, saved: SavedAnswers) -> None:
    """Answer what the options of `votes_parser` ask of saved answers, as `certify_windows` does with a network."""
    _settle(options, saved)
    distributed.start(torch.device("cpu"))
    saved = first(options, saved, saved.config)
    distributed.require_images(len(saved))
    height, width = saved.families[0].windows.height, saved.families[0].windows.width
    sizes = without_repeats(options.size_to_certify, height, width)
    families = {size: saved.family(size) for size in sizes}
    questions = [Asked(size, goal) for size in families for goal in goals_of(options)]

    def look(part: SavedAnswers, _labels: Tensor) -> dict:
        return {"rows": rows_of(part, families, questions, options.numerical_margin), "answers": {}}

    with Journal.of_run(options, votes=checkpoint.sha256(options.votes)) as journal:
        columns, _ = columns_of(saved, IMAGES_AT_ONCE, look, journal)
        seconds = journal.seconds()
        if not distributed.is_first():
            return
        options.config_of_votes = saved.config
        windows = {size: family.windows for size, family in families.items()}
        about = summaries.of_windows(_looked_at(options, saved), len(saved), windows)
        answers = answers_of(questions, columns, saved.labels, windows, options)
        not_known = results.NotKnown([int(rows["not_known"].sum()) for rows in columns])

        def subject(number: int) -> Subject:
            asked, family = [question for question, _ in answers], families[questions[number].size]
            return window_galleries.subject(saved, family, number, asked, columns, no_pictures)

        write_and_print(options, about, saved, answers, columns, seconds, saved.arithmetic, not_known, subject)


def gallery(saved: SavedAnswers, answers: list[dict], classes: list[str], most: int) -> Gallery:
    """The gallery of a result, of whose `answers` it has those that saved answers give."""
    answers = [Goal().as_json() | answer for answer in answers]  # where nobody asked for alarms, some say no goal
    goals = [Goal(answer["goal"], answer["confidence"], answer["patches"]) for answer in answers]
    sizes = [patch_sizes(str(answer["size_to_certify"]))[0] for answer in answers]
    questions = [Asked(size, goal) for size, goal in zip(sizes, goals, strict=True)]
    families = {size: saved.family(size) for size in sizes}
    columns = rows_of(saved, families, questions, answers[0]["numerical_margin"])
    number = reporting.most_telling(answers)
    subject = window_galleries.subject(saved, families[sizes[number]], number, answers, columns, no_pictures)
    return reporting.gallery(subject, saved, columns[number], classes, most)


def no_pictures(_chosen: Tensor) -> None:
    """None: only the network's own transform makes them, and no network is here."""


def rows_of(
    saved: SavedAnswers, families: dict[PatchSize, Family], questions: list[Asked], numerical_margin: float
) -> list[dict[str, Tensor]]:
    """(N,) by name for each question."""
    answers = list(saved.images())
    seen = {size: _seen(answers, family, numerical_margin) for size, family in families.items()}
    return [_rows(asked.goal, *seen[asked.size], numerical_margin) for asked in questions]


def _settle(options: argparse.Namespace, saved: SavedAnswers) -> None:
    """Put in place of options that were not given what the file says.

    Raises:
        UsageError: an option is about votes.
    """
    for option in OF_VOTES:
        if getattr(options, option):
            right = "the file has answers about hidden windows; --goal and --confidence ask about these"
            raise UsageError(option, _as_given(getattr(options, option)), right)
    if options.goal is None:
        options.goal = [RECOVER] if options.patches == 1 else [ALERT]
    if options.patches == 2 and RECOVER in options.goal:
        raise UsageError("patches", 2, "expected 1 to recover; --goal alert is for two")
    options.confidence = options.confidence or [None]
    options.size_to_certify = options.size_to_certify or [family.size for family in saved.families]
    if options.numerical_margin is None:
        options.numerical_margin = saved.numerical_margin


def _as_given(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _looked_at(options: argparse.Namespace, saved: SavedAnswers) -> argparse.Namespace:
    """The options of the run that looked at the images, and what is asked now."""
    asked = {name: getattr(options, name) for name in ("patches", "goal", "numerical_margin")}
    fewer = {name: getattr(options, name) for name in ("limit", "per_class") if getattr(options, name)}
    return argparse.Namespace(**saved.config | asked | fewer)


def _seen(answers: list[Answers], family: Family, numerical_margin: float) -> tuple[Seen, Tensor, Tensor]:
    """What is to be seen of the images, and of which ones some pair that decides, or any pair, is not known, (N,)."""
    count = family.windows.count
    of_family = [given[family.questions] for given in answers]
    found = [from_known(count, known, numerical_margin) for known in of_family]
    verdicts = [
        _of_prediction(count, known) if verdict is None else verdict
        for known, verdict in zip(of_family, found, strict=True)
    ]
    whole = torch.cat([given.classes[WHOLE : WHOLE + 1] for given in answers])
    masked = {1: [known[:count] for known in of_family], 2: of_family}
    alarms = {patches: alarms_of(of_images, whole) for patches, of_images in masked.items()}
    undecided = torch.tensor([verdict is None for verdict in found])
    return Seen(verdicts, alarms), undecided, torch.tensor([bool((a.classes == UNASKED).any()) for a in of_family])


def _of_prediction(count: int, known: Answers) -> WindowVerdict:
    """That of an image about which too little is known to certify it; no class where its prediction is not known."""
    verdict = from_known(count, known, 0.0, certify=False)
    return verdict or WindowVerdict(ALARM, 0.0, 0, known[:count])


def _rows(goal: Goal, seen: Seen, undecided: Tensor, incomplete: Tensor, numerical_margin: float) -> dict[str, Tensor]:
    """(N,) by name: what one question says of the images."""
    rows = goal.rows(seen, numerical_margin)
    del rows["passes"]  # none here
    if not goal.needs_everything:
        return rows | {"not_known": undecided & goal.needs_pairs}
    not_known = incomplete & (rows["predicted"] != ALARM)  # a pair that was not tried might raise the alarm
    return rows | {"predicted": rows["predicted"].where(~not_known, ALARM), "not_known": not_known}
