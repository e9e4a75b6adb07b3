"""Certifying a network that somebody pretrained, as it is, by hidden windows, as options describe it."""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from patchcert import distributed, results
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.classifiers import window_goals
from patchcert.classifiers.window_goals import ALERT, RECOVER, Goal
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.cli import Parser, configuration
from patchcert.data import splits
from patchcert.data.folders import Images
from patchcert.errors import UsageError
from patchcert.experiments import summaries
from patchcert.experiments.evaluation import evaluation_parser, first, journal_of, write_and_print
from patchcert.experiments.masking import add_numerical_margin, settle_numerical_margin
from patchcert.experiments.pretrained import add_pretrained, fold, pretrained
from patchcert.experiments.setting import ANY, precision, set_up
from patchcert.journal import Journal
from patchcert.masking.alarms import Alarms
from patchcert.masking.questions import WindowVerdict
from patchcert.option_values import alarm_thresholds, patch_sizes, positive_int, several_of
from patchcert.patch_sizes import Area, PatchSize, shapes
from patchcert.progress import progress_bar

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
    parser = evaluation_parser(description, ANY, report=False)
    parser.set_defaults(dataset="folder", all=True)
    add_pretrained(parser)
    parser.certificate.add_argument(
        "--size_to_certify",
        type=patch_sizes,
        default="2%",
        help="patch sizes: 32, 2x8 (rows × columns), 2%% of the pixels, area:100 (every rectangle of at most so many "
        "pixels), or several: 1%%,2%%,3%%",
    )
    parser.certificate.add_argument(
        "--per_side",
        type=positive_int,
        default=6,
        help="k, of k × k hidden windows; more of them hide less each and cost more passes",
    )
    parser.certificate.add_argument(
        "--goal",
        type=several_of((RECOVER, ALERT), "recover, alert or both: recover,alert"),
        default=RECOVER,
        help="recover: the right class; alert: the right class or an alarm",
    )
    parser.certificate.add_argument(
        "--confidence",
        type=alarm_thresholds,
        default="strict",
        metavar="TAU",
        help="of alarms: strict (any other class raises one), or τ (only another class with more confidence), or "
        "several: strict,0,0.5,0.9",
    )
    parser.certificate.add_argument(
        "--patches", type=int, choices=(1, 2), default=1, help="how many such patches, anywhere; 2 with --goal alert"
    )
    add_numerical_margin(parser)
    parser.engine.add_argument(
        "--batch_size", type=positive_int, default=4, help="masked images per call of the network"
    )
    return parser


def certify_windows(options: argparse.Namespace) -> None:
    """Certify as the options of `windows_certification_parser` say."""
    if options.patches == 2 and RECOVER in options.goal:
        raise UsageError("patches", 2, "expected 1 to recover; --goal alert is for two")
    if options.compile:
        raise UsageError("compile", True, "expected none: the network is certified as it is, and as it was tried")
    settle_numerical_margin(options)
    set_up(options)
    network, dataset, _ = pretrained(options)
    height, width = dataset.image_shape[1:]
    windows = {size: _windows(size, height, width, options.per_side) for size in options.size_to_certify}
    dataset = _chosen(options, dataset)
    questions = [asked for size in windows for asked in _questions(options, size)]
    classifiers = {
        size: WindowMaskedClassifier(network.to(options.device), found, batch_size=options.batch_size)
        for size, found in windows.items()
    }
    with journal_of(options, network, dataset) as journal:
        engine = fold(network, dataset)
        columns = _columns(options, classifiers, questions, dataset, journal)
        seconds = journal.seconds()
        arithmetic = results.computed_with(precision(options), engine, journal.processors)
        if not distributed.is_first():
            return
        answers = [
            (_as_json(options, asked, windows[asked.size]), _counts(asked, rows, dataset.labels.cpu()))
            for asked, rows in zip(questions, columns, strict=True)
        ]
        about = summaries.of_windows(options, len(dataset), windows)
        last_of_size = {asked.size: int(rows["passes"].sum()) for asked, rows in zip(questions, columns, strict=True)}
        passes = results.Passes(len(dataset), sum(last_of_size.values()))  # all questions about a size share them
        write_and_print(options, about, dataset, answers, columns, seconds, arithmetic, passes)


def _counts(asked: Asked, rows: dict[str, Tensor], labels: Tensor) -> results.Counts:
    kind = results.Counts if asked.goal.kind == RECOVER else results.AlarmCounts
    return kind.of(rows["predicted"], rows["certified"], labels)


def _windows(size: PatchSize, height: int, width: int, per_side: int) -> HiddenWindows:
    return HiddenWindows.for_shapes(height, width, shapes(size, height, width), per_side)


def _chosen(options: argparse.Namespace, dataset: Images) -> Images:
    """Those of the images that the options choose."""
    if options.test or options.split_file:
        options.all = False
        dataset = splits.choose_half(dataset, options.test, options.split_file)
    dataset = first(options, dataset.take(slice(None, None, options.skip)), configuration(options)).to(options.device)
    distributed.require_images(len(dataset))
    return dataset


def _questions(options: argparse.Namespace, size: PatchSize) -> list[Asked]:
    """What is asked about one size of patches."""
    if options.patches == 2:
        return [Asked(size, Goal(ALERT, patches=2))]
    by_confidence = [Asked(size, Goal(ALERT, confidence)) for confidence in options.confidence]
    return [Asked(size, Goal())] * (RECOVER in options.goal) + by_confidence * (ALERT in options.goal)


def _columns(
    options: argparse.Namespace,
    classifiers: dict[PatchSize, WindowMaskedClassifier],
    questions: list[Asked],
    dataset: Images,
    journal: Journal,
) -> list[dict[str, Tensor]]:
    """For each question the rows per image, (N,) by name; each process looks at its share of the images."""

    def look(images: Tensor, _labels: Tensor) -> list[dict[str, Tensor]]:
        goals = list(dict.fromkeys(asked.goal for asked in questions))
        found = {size: _look(options, classifier, images, goals) for size, classifier in classifiers.items()}
        return [asked.goal.rows(*found[asked.size], options.numerical_margin) for asked in questions]

    parts = []
    with progress_bar(len(dataset), "certifying") as bar:
        for found, labels in journal.over(dataset, IMAGES_AT_ONCE, look):
            parts.append(found)
            bar.update(len(labels) * distributed.world())
    return [
        {name: distributed.merge(torch.cat([rows[name] for rows in of_one]), len(dataset)) for name in of_one[0]}
        for of_one in zip(*parts, strict=True)
    ]


def _look(
    options: argparse.Namespace, classifier: WindowMaskedClassifier, images: Tensor, goals: list[Goal]
) -> tuple[list[WindowVerdict], Alarms | None]:
    """What the two rounds and, against one patch, alarms say of the images."""
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        return window_goals.look(classifier, images, goals, options.numerical_margin)


def _as_json(options: argparse.Namespace, asked: Asked, windows: HiddenWindows) -> dict[str, object]:
    """What was asked."""
    size = asked.size if isinstance(asked.size, Area) else windows.shapes[0]
    question = {"size_to_certify": size.size, "certificate": "masking", "windows": str(windows)}
    return question | {"numerical_margin": options.numerical_margin} | asked.goal.as_json()
