"""Certifying a network that somebody pretrained, as it is, by hidden windows, as options describe it."""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from patchcert import distributed, results
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.cli import Parser
from patchcert.data import splits
from patchcert.data.folders import Images
from patchcert.engines.plain import PlainNetwork
from patchcert.experiments import summaries
from patchcert.experiments.evaluation import evaluation_parser, journal_of, write_and_print
from patchcert.experiments.masking import add_numerical_margin, settle_numerical_margin
from patchcert.experiments.pretrained import add_pretrained, pretrained
from patchcert.experiments.setting import ANY, set_up
from patchcert.journal import Journal
from patchcert.masking.alarms import Alarms
from patchcert.masking.questions import WindowVerdict
from patchcert.option_values import alarm_thresholds, patch_sizes, positive_int, several_of
from patchcert.patch_sizes import PatchSize, shapes
from patchcert.progress import progress_bar

RECOVER, ALERT = "recover", "alert"

IMAGES_AT_ONCE = 16
"""That share their batches; so many are kept as one piece of an interrupted run."""

ROUNDING_OF_CONFIDENCE = 1e-4
"""By which a confidence may differ in another batch; of probabilities in float32 it is far less."""


@dataclass(frozen=True)
class Asked:
    """One question about all images.

    Attributes:
        size: of the patch, as the option has it.
        goal: the right class (`RECOVER`), or that class or an alarm (`ALERT`).
        confidence: τ of alarms by confidence; None for the strict rule.
    """

    size: PatchSize
    goal: str
    confidence: float | None = None


def windows_certification_parser(description: str) -> Parser:
    """The options of certifying any network by hidden windows."""
    parser = evaluation_parser(description, ANY)
    parser.set_defaults(dataset="folder")
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
        "--patches", type=int, choices=(1, 2), default=1, help="how many such patches, anywhere; two only raise alarms"
    )
    add_numerical_margin(parser)
    parser.engine.add_argument("--batch_size", type=positive_int, default=4, help="masked images per call of the network")
    return parser


def certify_windows(options: argparse.Namespace) -> None:
    """Certify as the options of `windows_certification_parser` say."""
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
        columns = _columns(options, classifiers, questions, dataset, journal)
        seconds = journal.seconds()
        if not distributed.is_first():
            return
        answers = [
            (_as_json(options, asked, windows[asked.size]), _counts(asked, found, dataset.labels))
            for asked, found in zip(questions, columns, strict=True)
        ]
        about = summaries.of_windows(options, len(dataset), windows)
        write_and_print(options, about, dataset, answers, columns, seconds, results.Passes.of(columns))


def _windows(size: PatchSize, height: int, width: int, per_side: int) -> HiddenWindows:
    return HiddenWindows.for_shapes(height, width, shapes(size, height, width), per_side)


def _chosen(options: argparse.Namespace, dataset: Images) -> Images:
    """Those of the images that the options choose."""
    if options.dataset != "folder" and not options.all:
        dataset = splits.choose_half(dataset, options.test, options.split_file)
    dataset = dataset.take(slice(options.limit)).to(options.device)
    distributed.require_images(len(dataset))
    return dataset


def _questions(options: argparse.Namespace, size: PatchSize) -> list[Asked]:
    """What is asked about one size of patches."""
    asked = [Asked(size, RECOVER)] if RECOVER in options.goal and options.patches == 1 else []
    if options.patches == 2:
        return [Asked(size, ALERT)]
    return asked + [Asked(size, ALERT, confidence) for confidence in options.confidence if ALERT in options.goal]


def _columns(
    options: argparse.Namespace,
    classifiers: dict[PatchSize, WindowMaskedClassifier],
    questions: list[Asked],
    dataset: Images,
    journal: Journal,
) -> list[dict[str, Tensor]]:
    """For each question the rows per image, (N,) by name; each process looks at its share of the images."""

    def look(images: Tensor, _labels: Tensor) -> list[dict[str, Tensor]]:
        found = {size: _look(options, classifier, images) for size, classifier in classifiers.items()}
        return [_answer(options, asked, *found[asked.size]) for asked in questions]

    parts = []
    with progress_bar(len(dataset), "certifying") as bar:
        for found, labels in journal.over(dataset, IMAGES_AT_ONCE, look):
            parts.append(found)
            bar.update(len(labels) * distributed.world())
    merged = []
    for of_question in zip(*parts, strict=True):
        names = of_question[0].keys()
        merged.append({n: distributed.merge(torch.cat([part[n] for part in of_question]), len(dataset)) for n in names})
    return merged


def _look(
    options: argparse.Namespace, classifier: WindowMaskedClassifier, images: Tensor
) -> tuple[list[WindowVerdict], Alarms | None]:
    """What two rounds and alarms say of the images."""
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        pairs = RECOVER in options.goal or options.patches == 2
        verdicts = list(classifier.verdicts(images, options.numerical_margin, certify=pairs))
        alarms = classifier.alarms(images, verdicts) if ALERT in options.goal and options.patches == 1 else None
    return verdicts, alarms


def _answer(
    options: argparse.Namespace, asked: Asked, verdicts: list[WindowVerdict], alarms: Alarms | None
) -> dict[str, Tensor]:
    """The rows per image of one question."""
    predicted = torch.tensor([verdict.predicted for verdict in verdicts])
    certified = torch.tensor([verdict.certified for verdict in verdicts])
    passes = torch.tensor([verdict.passes for verdict in verdicts])
    dissenting = torch.tensor([len(verdict.dissenting) for verdict in verdicts])
    if asked.goal == RECOVER:
        lead = torch.tensor([verdict.lead for verdict in verdicts], dtype=torch.float64)
        left_early = torch.tensor([verdict.left_early for verdict in verdicts])
        within = torch.tensor([verdict.within_margin for verdict in verdicts])
        more = {"lead": lead, "left_early": left_early, "within_margin": within, "dissenting": dissenting}
        return {"predicted": predicted, "certified": certified, "passes": passes} | more
    if alarms is None:  # two patches: all pairs, which the two rounds ask for, too
        agreed = torch.tensor([not verdict.left_early for verdict in verdicts])
        predicted = predicted.where(agreed, ALARM)
    elif asked.confidence is None:
        predicted, certified = alarms.strict(options.numerical_margin)
    else:
        predicted, certified = alarms.by_confidence(
            asked.confidence, options.numerical_margin, ROUNDING_OF_CONFIDENCE
        )
    return {"predicted": predicted, "certified": certified, "passes": passes, "dissenting": dissenting}
