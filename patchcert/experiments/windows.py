"""Certifying a network that somebody pretrained, as it is, by hidden windows, as options describe it."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from patchcert import distributed, results
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.classifiers import window_goals
from patchcert.classifiers.probing import TRIED, manner_of_windows
from patchcert.classifiers.window_goals import RECOVER, Goal, Seen
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.cli import Parser, configuration
from patchcert.data import splits
from patchcert.data.folders import Images
from patchcert.errors import UsageError
from patchcert.experiments import reporting, summaries, window_galleries
from patchcert.experiments.evaluation import evaluation_parser, first, journal_of, write_and_print
from patchcert.experiments.masking import (
    add_goals,
    add_numerical_margin,
    add_saving,
    goals_of,
    require_saving,
    settle_numerical_margin,
)
from patchcert.experiments.pretrained import add_pretrained, fold, pretrained, refuse_compiling
from patchcert.experiments.reporting import Subject
from patchcert.experiments.setting import ANY, set_up
from patchcert.files import what_fits
from patchcert.journal import Batched, Journal
from patchcert.masking.answers import Answers
from patchcert.option_values import patch_sizes, positive_int
from patchcert.patch_sizes import Area, PatchSize, shapes, without_repeats
from patchcert.progress import progress_bar
from patchcert.votes import saved_answers

IMAGES_AT_ONCE = 16
"""That share their batches; so many are kept as one piece of an interrupted run."""


@dataclass(frozen=True)
class Asked:
    """One question about all images.

    Attributes:
        size: of the patch, as the option has it.
        goal: what the defence promises.
    """

    size: PatchSize
    goal: Goal


def windows_certification_parser(description: str) -> Parser:
    """The options of certifying any network by hidden windows."""
    parser = evaluation_parser(description, ANY)
    parser.set_defaults(dataset="folder", all=True)
    add_pretrained(parser)
    parser.certificate.add_argument(
        "--size_to_certify",
        type=patch_sizes,
        default="2%",
        help="patch sizes: 32, 2x8 (rows × columns), 2%% of the pixels, area:100 (every rectangle of at most 100 "
        "pixels), or several: 1%%,2%%,3%%",
    )
    add_hidden_windows(parser)
    add_goals(parser)
    parser.certificate.add_argument(
        "--patches",
        type=int,
        choices=(1, 2),
        default=1,
        help="number of such patches, anywhere in the image; 2 needs --goal alert",
    )
    add_saving(parser)
    return parser


def add_hidden_windows(parser: Parser) -> None:
    """How many windows there are, how exactly leads are known, and how many masked images are asked about at once."""
    parser.certificate.add_argument(
        "--per_side",
        type=positive_int,
        default=6,
        help="k: there are k × k hidden windows; if there are more, each hides less, but certifying takes more passes",
    )
    add_numerical_margin(parser)
    parser.engine.add_argument(
        "--batch_size", type=positive_int, default=4, help="masked images for each call of the network"
    )


def certify_windows(options: argparse.Namespace) -> None:
    """Certify as the options of `windows_certification_parser` say."""
    if options.patches == 2 and RECOVER in options.goal:
        raise UsageError("patches", 2, "expected 1 to recover; --goal alert is for two")
    refuse_compiling(options)
    require_saving(options)
    goals, nobody_named_it = goals_of(options), options.numerical_margin is None
    settle_numerical_margin(options)
    set_up(options)
    network, dataset, described = pretrained(options)
    height, width = dataset.image_shape[1:]
    sizes = without_repeats(options.size_to_certify, height, width)
    windows = {size: _windows(size, height, width, options.per_side) for size in sizes}
    dataset = chosen(options, dataset)
    questions = [Asked(size, goal) for size in windows for goal in goals]
    classifiers = {
        size: WindowMaskedClassifier(network.to(options.device), found, batch_size=options.batch_size)
        for size, found in windows.items()
    }

    def look(images: Tensor, _labels: Tensor) -> dict:
        goals = list(dict.fromkeys(asked.goal for asked in questions))
        seen = {size: _look(options, classifier, images, goals) for size, classifier in classifiers.items()}
        rows = [asked.goal.rows(seen[asked.size], options.numerical_margin) for asked in questions]
        return {"rows": rows, "answers": _answers(options, list(seen.values()), precision)}

    with journal_of(options, network, dataset) as journal:
        engine = fold(options, network, dataset)
        precision = require_least_margin(options, next(iter(classifiers.values())), dataset, nobody_named_it)
        columns, saved = columns_of(dataset, IMAGES_AT_ONCE, look, journal)
        seconds = journal.seconds()
        arithmetic = results.computed_with(precision, engine, journal.processors)
        if _noted(options):
            saved = saved_answers.Asked.concatenate([saved_answers.Asked(**part) for part in saved]).gathered()
        if not distributed.is_first():
            return
        answers = answers_of(questions, columns, dataset.labels.cpu(), windows, options)
        about = summaries.of_windows(options, len(dataset), windows)
        last_of_size = {asked.size: int(rows["passes"].sum()) for asked, rows in zip(questions, columns, strict=True)}
        passes = results.Passes(len(dataset), sum(last_of_size.values()))  # all questions about a size share them
        config = configuration(options)

        def subject(number: int) -> Subject:
            kept = saved_answers.SavedAnswers.of_run(saved, dataset, windows, described["classes"], config, arithmetic)
            asked, shown = [question for question, _ in answers], partial(reporting.pictures, dataset)
            return window_galleries.subject(kept, kept.family(questions[number].size), number, asked, columns, shown)

        with what_fits() as attempt:
            if options.save_votes:
                path = options.save_votes
                attempt(saved_answers.write, path, saved, dataset, windows, described["classes"], config, arithmetic)
            attempt(write_and_print, options, about, dataset, answers, columns, seconds, arithmetic, passes, subject)


def require_least_margin(
    options: argparse.Namespace, classifier: WindowMaskedClassifier, dataset: Images, nobody_named_it: bool
) -> str:
    """The arithmetic in which the network computes, by its name in `NUMERICAL_MARGINS`.

    Raises:
        UsageError: it does not answer as certificates presume, as far as it was seen; or nobody named the numerical
            margin, and it does not cover that arithmetic, and what batches of several sizes change.
    """
    images = next(splits.spread(dataset, TRIED).batches(TRIED))[0]
    try:
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
            _, manner = manner_of_windows(classifier, images)
    except ValueError as error:
        raise UsageError("model", options.model, str(error)) from error
    margin = manner.margin(of_scores=True)
    if nobody_named_it and margin > options.numerical_margin:
        raise UsageError("numerical_margin", "auto", f"expected {margin:.2g} or more, since {manner}")
    return manner.arithmetic


def _noted(options: argparse.Namespace) -> bool:
    """Whether all answers are kept."""
    return bool(options.save_votes or options.report)


def answers_of(
    questions: list[Asked],
    columns: list[dict[str, Tensor]],
    labels: Tensor,
    windows: dict[PatchSize, HiddenWindows],
    options: argparse.Namespace,
) -> list[tuple[dict, results.Counts]]:
    """What was asked, in JSON's types, with what was counted."""
    return [
        (_as_json(options, asked, windows[asked.size]), _counts(asked, rows, labels))
        for asked, rows in zip(questions, columns, strict=True)
    ]


def _counts(asked: Asked, rows: dict[str, Tensor], labels: Tensor) -> results.Counts:
    kind = results.Counts if asked.goal.kind == RECOVER else results.AlarmCounts
    return kind.of(rows["predicted"], rows["certified"], labels)


def _windows(size: PatchSize, height: int, width: int, per_side: int) -> HiddenWindows:
    return HiddenWindows.for_shapes(height, width, shapes(size, height, width), per_side)


def chosen(options: argparse.Namespace, dataset: Images) -> Images:
    """Those of the images that the options choose."""
    if options.test or options.split_file:
        options.all = False
        dataset = splits.choose_half(dataset, options.test, options.split_file)
    dataset = first(options, dataset.take(slice(None, None, options.skip)), configuration(options)).to(options.device)
    distributed.require_images(len(dataset))
    return dataset


def columns_of(
    dataset: Batched, at_once: int, look: Callable[..., dict], journal: Journal
) -> tuple[list[dict[str, Tensor]], list]:
    """For each question the rows per image, (N,) by name; each process looks at its share of the images.

    Args:
        look: a batch and its labels to `rows`, for each question those of the batch, and to `answers`.

    Returns:
        The rows, and all `answers` of this process.
    """
    parts = []
    with progress_bar(len(dataset.labels), "certifying") as bar:
        for found, labels in journal.over(dataset, at_once, look):
            parts.append(found)
            bar.update(len(labels) * distributed.world())
    rows = [
        {name: distributed.merge(torch.cat([rows[name] for rows in of_one]), len(dataset.labels)) for name in of_one[0]}
        for of_one in zip(*(part["rows"] for part in parts), strict=True)
    ]
    return rows, [part["answers"] for part in parts]


def _look(options: argparse.Namespace, classifier: WindowMaskedClassifier, images: Tensor, goals: list[Goal]) -> Seen:
    """What is to be seen of the images."""
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        noted = _noted(options)
        return window_goals.look(classifier, images, goals, options.numerical_margin, noted, options.ask_all)


def _answers(options: argparse.Namespace, seen: list[Seen], precision: str) -> dict[str, Tensor]:
    """What --save_votes and --report keep of some images: of the whole, and of the windows for each size."""
    if not _noted(options):
        return {}
    whole = seen[0].whole
    of_images = zip(*([verdict.answers for verdict in of_size.verdicts] for of_size in seen), strict=True)
    tables = [Answers.concatenate([whole[i : i + 1], *families]) for i, families in enumerate(of_images)]
    return vars(saved_answers.Asked.of(tables, precision))


def _as_json(options: argparse.Namespace, asked: Asked, windows: HiddenWindows) -> dict[str, object]:
    """What was asked."""
    size = asked.size if isinstance(asked.size, Area) else windows.shapes[0]
    question = {"size_to_certify": size.size, "certificate": "masking", "windows": str(windows)}
    return question | {"numerical_margin": options.numerical_margin} | asked.goal.as_json()
