"""Certifying by double masking of bands' scores, as options describe it."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from patchcert import distributed, results
from patchcert.ablations.ablation import Ablation
from patchcert.arithmetic import NUMERICAL_MARGINS
from patchcert.classifiers import weak_spots
from patchcert.classifiers.in_order import OrderedVerdicts
from patchcert.classifiers.masked_goals import MaskedFound, MaskedLook, asks_in_order, wanted_for
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.probing import Manner, note_numerical_margin
from patchcert.classifiers.window_goals import ALERT, RECOVER, Goal
from patchcert.cli import Parser, configuration
from patchcert.data import splits
from patchcert.data.folders import Images
from patchcert.errors import UsageError
from patchcert.experiments import reporting, summaries
from patchcert.experiments.any_network import arithmetic_of, is_the_same_in_order, manner_of
from patchcert.experiments.evaluation import add_save_votes, evaluation_parser, journal_of, prepare, write_and_print
from patchcert.experiments.networks import Part
from patchcert.experiments.setting import SIZES, class_count, precision, set_up
from patchcert.files import what_fits
from patchcert.journal import Journal
from patchcert.masking.alarms import Alarms
from patchcert.masking.double_masking import DoubleMasking, MaskedVerdicts
from patchcert.masking.linked import masking_of
from patchcert.masking.margins import Margin
from patchcert.option_values import (
    MEASURED,
    alarm_thresholds,
    goals,
    numerical_margin,
    numerical_margin_or_measured,
    patch_sizes,
    positive_int,
)
from patchcert.patch import Patch
from patchcert.patch_sizes import Area, in_pixels
from patchcert.progress import progress_bar
from patchcert.reports.exhibits import Views
from patchcert.votes import saved_answers

BATCH = "ablated copies in a batch, or images if the network answers for all their copies in one pass"


def masked_certification_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every script that certifies by double masking; the checkpoint knows the network."""
    parser = evaluation_parser(description, data_sets)
    parser.certificate.add_argument("--size_to_certify", type=patch_sizes, default="5", help=SIZES)
    add_goals(parser)
    parser.certificate.add_argument(
        "--patches",
        type=int,
        choices=(1, 2),
        default=1,
        help="number of such patches, anywhere in the image; where windows are hidden, 2 needs --goal alert",
    )
    add_numerical_margin(parser, measured=True)
    parser.engine.add_argument("--batch_size", type=positive_int, default=32, help=BATCH)
    return parser


def add_saving(parser: Parser) -> None:
    """--save_votes of scripts about hidden windows, and how much is asked for it."""
    add_save_votes(parser)
    parser.output.add_argument(
        "--ask_all",
        action="store_true",
        help="try every pair of windows, so that the file of --save_votes can answer every question; this is slower",
    )


def require_saving(options: argparse.Namespace) -> None:
    """Raise UsageError if everything is asked for and nothing saved."""
    if getattr(options, "ask_all", False) and not options.save_votes:
        raise UsageError("ask_all", True, "expected --save_votes FILE.npz, too: nothing else needs every pair")


def add_goals(parser: Parser) -> None:
    """What a defence is asked for."""
    parser.certificate.add_argument(
        "--goal",
        type=goals,
        default=RECOVER,
        help="recover: the right class; alert: the right class or an alarm; or both: recover,alert",
    )
    parser.certificate.add_argument(
        "--confidence",
        type=alarm_thresholds,
        default="strict",
        metavar="TAU",
        help="when an alarm is raised: strict, if masked images get different classes; a number τ, if a masked "
        "image gets another class than the whole image, with a confidence above τ; or several: "
        "strict,0,0.5,0.9",
    )


def goals_of(options: argparse.Namespace) -> list[Goal]:
    """What the options of `add_goals` and --patches ask for."""
    if ALERT not in options.goal:
        return [Goal(patches=options.patches)]
    alerts = [Goal(ALERT, confidence, options.patches) for confidence in options.confidence]
    return [Goal()] * (RECOVER in options.goal) + alerts


def require_shapes_for_pages(options: argparse.Namespace) -> None:
    """Raise UsageError if a page is to be drawn of patches that have no one shape."""
    areas = [size for size in options.size_to_certify if isinstance(size, Area)]
    if options.report and areas:
        raise UsageError(
            "report", options.report, f"expected sizes such as 5 or 2x8 beside it; {areas[0]} is no one shape"
        )


def add_numerical_margin(parser: Parser, measured: bool = False) -> None:
    """ν, in units of the network's logits; with `MEASURED` among its values if it can be `measured`."""
    by_arithmetic = "auto is {float32:g}, {tf32:g} with --tf32 and {bfloat16:g} with --amp".format(**NUMERICAL_MARGINS)
    if measured:
        by_arithmetic += (
            "; measured is for hidden windows: it takes the margins of float32 with --amp, too, if a test at the "
            "beginning finds the same answers, to the bit, in every batch. Certificates then hold for this number of "
            "threads alone"
        )
    parser.certificate.add_argument(
        "--numerical_margin",
        type=numerical_margin_or_measured if measured else numerical_margin,
        default="auto",
        metavar="NU",
        help="certify only leads above NU plus a share of what was added up, so that rounding cannot undo them; "
        f"{by_arithmetic}",
    )


def require_measurable(options: argparse.Namespace, classifiers: list[SmoothedClassifier]) -> None:
    """Raise UsageError if a margin is to be measured of classifiers for which there is nothing to measure."""
    if options.numerical_margin == MEASURED and not all(map(asks_in_order, classifiers)):
        right = "expected auto or a number: only copies with hidden windows are asked about in batches of one size"
        raise UsageError("numerical_margin", MEASURED, right)


def settle_margin(
    options: argparse.Namespace, classifiers: list[SmoothedClassifier], dataset: Images, manner: Manner | None
) -> tuple[Margin, dict[str, str]]:
    """Both margins that the options ask for, and if they were to be measured, what results say of them.

    Args:
        options: get the numerical margin as a number.
        classifiers: what will run.
        manner: see `settle_numerical_margin`.

    Raises:
        UsageError: answers depend on more than the copy.
    """
    arithmetic, measured = arithmetic_of(options, manner), {}
    if options.numerical_margin == MEASURED:
        options.numerical_margin = None
        if arithmetic != "float32" and all(is_the_same_in_order(options, one, dataset) for one in classifiers):
            arithmetic = "float32"
            options.numerical_margin = NUMERICAL_MARGINS[arithmetic]
        measured = {"margins": arithmetic}
    settle_numerical_margin(options, manner)
    return Margin.of_scores(options.numerical_margin, arithmetic), measured


def settle_numerical_margin(options: argparse.Namespace, manner: Manner | None = None) -> None:
    """Put the number in place of `--numerical_margin auto`, so that it is the one that results name.

    Args:
        manner: in which a network of the user's own was seen to answer; where that asks for more, it is said.
    """
    if options.numerical_margin is None:
        options.numerical_margin = NUMERICAL_MARGINS[precision(options)]
        if manner and manner.margin(of_scores=True) > options.numerical_margin:
            options.numerical_margin = manner.margin(of_scores=True)
            note_numerical_margin(options.numerical_margin, manner)


@dataclass(frozen=True)
class _OfSize:
    """What answers questions about one patch size.

    Attributes:
        found: what `masking` of the copies of `classifier` says of all images.
    """

    classifier: SmoothedClassifier
    masking: DoubleMasking
    found: MaskedFound


def certify_masked(options: argparse.Namespace, network: nn.Module, ablation: Ablation) -> None:
    """Certify as the options of `masked_certification_parser` say, all patch sizes from one pass.

    Args:
        network: base classifier, or one of limited reach, that of `ablation`.
    """
    certify_parts(options, [Part(options.size_to_certify, network, ablation)])


def certify_parts(options: argparse.Namespace, parts: list[Part]) -> None:
    """The same with a network for each part of the patch sizes, one after the other."""
    asked_for = _goals(options)
    require_saving(options)
    set_up(options)
    at_once = options.patches if RECOVER in options.goal else 1  # two alarms follow from pairs of places of one patch
    ablation, (network, *others) = parts[0].ablation, [part.network for part in parts]
    pixels = {size: in_pixels(size, ablation.height, ablation.width) for size in options.size_to_certify}
    maskings = [
        {pixels[size]: masking_of(part.ablation.to(options.device), pixels[size], at_once) for size in part.sizes}
        for part in parts
    ]
    classifiers = [SmoothedClassifier(part.network, part.ablation) for part in parts]
    require_measurable(options, classifiers)
    dataset, _ = prepare(options, network, ablation, others)
    manner = manner_of(options, classifiers[0], dataset, in_order=asks_in_order(classifiers[0]))
    margin, measured = settle_margin(options, classifiers, dataset, manner)
    threads = {"threads": str(torch.get_num_threads())} if measured else {}
    with journal_of(options, nn.ModuleList([network, *others]), dataset, **measured, **threads) as journal:
        of_size: dict[Patch | Area, _OfSize] = {}
        for classifier, of_part in zip(classifiers, maskings, strict=True):
            found, saved = _found(options, classifier, dataset, list(of_part.values()), margin, journal)
            answers_of = map(_OfSize, [classifier] * len(found), of_part.values(), found)
            of_size |= zip(of_part, answers_of, strict=True)
        seconds, computed = journal.seconds(), (arithmetic_of(options, manner), classifiers[0].engine_name)
        arithmetic = results.computed_with(*computed, journal.processors) | measured
        if not distributed.is_first():
            return
        of_size = {patch: of_size[patch] for patch in pixels.values()}
        asked = [(size, goal) for size in of_size for goal in asked_for]
        columns = [of_size[size].found.rows(goal, options.numerical_margin) for size, goal in asked]
        answers = [
            (_as_json(options, size, goal), _counts(goal, rows, dataset.labels))
            for (size, goal), rows in zip(asked, columns, strict=True)
        ]
        about = summaries.of_masking(options, len(dataset), parts)

        def subject(number: int) -> reporting.Subject:
            size, goal = asked[number]
            said = summaries.of_question(answers[number][0])
            return _subject(options, dataset, of_size[size], size, goal, said, columns[number]["lead"])

        remarks = [*_remarks(of_size), *_test_half(options, dataset, [goal for _, goal in asked], columns)]
        together = results.Together(remarks)
        with what_fits() as attempt:
            if saved:
                windows = {patch: ablation.hidden() for patch in ablation.hidden().shapes}
                said = (windows, class_count(options), configuration(options), arithmetic)
                attempt(saved_answers.write, options.save_votes, saved, dataset, *said)
            attempt(write_and_print, options, about, dataset, answers, columns, seconds, arithmetic, together, subject)


def _subject(
    options: argparse.Namespace,
    dataset: Images,
    of_size: _OfSize,
    patch: Patch,
    goal: Goal,
    about: str,
    leads: Tensor,
) -> reporting.Subject:
    """What a report shows of one question, `about` in words; `leads` are (N,)."""
    classifier, copies = of_size.classifier, str(of_size.classifier.ablation)
    if goal.confidence is not None:  # leads say nothing of confidences, so that there are no weak spots
        return reporting.Subject(about, copies, None, partial(_look, options, classifier, dataset))
    alone = goal.kind == ALERT and goal.patches == 1
    at_once = options.patches if RECOVER in options.goal else 1

    def spots(chosen: Tensor, scores: Tensor) -> Tensor:
        winner = of_size.found.verdicts.predicted[chosen]
        return weak_spots.of_scores(classifier.ablation, of_size.masking, patch, at_once, winner, scores, alone)

    look = partial(_look, options, classifier, dataset, patch=patch, spots=spots)
    leads_are = "smallest lead over the masks" if alone else "smallest lead over the pairs of masks"
    return reporting.Subject(about, copies, patch, look, leads, options.numerical_margin, leads_are, "logits")


def _test_half(
    options: argparse.Namespace, dataset: Images, goals: list[Goal], columns: list[dict[str, Tensor]]
) -> list[results.TestHalf]:
    """What was counted on the test half, where all images were looked at."""
    if not options.all or options.skip > 1 or options.limit or options.per_class:
        return []
    half = splits.in_test_half(len(dataset)).to(dataset.labels.device)
    labels = dataset.labels[half]
    of_half = [{name: rows[name][half] for name in ("predicted", "certified")} for rows in columns]
    return [results.TestHalf([_counts(goal, rows, labels) for goal, rows in zip(goals, of_half, strict=True)])]


def _goals(options: argparse.Namespace) -> list[Goal]:
    asked_for = goals_of(options)
    require_shapes_for_pages(options)
    if options.patches == 2 and len(options.goal) > 1:
        raise UsageError("goal", ",".join(options.goal), "expected one of them with --patches 2")
    return asked_for


def _as_json(options: argparse.Namespace, patch: Patch, goal: Goal) -> dict[str, object]:
    """What was asked; of the goal nothing where nobody asks for alarms."""
    question = {"size_to_certify": patch.size, "certificate": "masking", "patches": options.patches}
    question |= {"numerical_margin": options.numerical_margin}
    return question | (goal.as_json() if ALERT in options.goal else {})


def _counts(goal: Goal, rows: dict[str, Tensor], labels: Tensor) -> results.Counts:
    kind = results.Counts if goal.kind == RECOVER else results.AlarmCounts
    return kind.of(rows["predicted"], rows["certified"], labels)


def _remarks(of_size: dict[Patch | Area, _OfSize]) -> list[results.Remarks]:
    lost = {size.size: int(one.found.verdicts.within_margin.sum()) for size, one in of_size.items()}
    remarks = [results.CloseLeads(lost)]
    looked = {one.classifier: one.found.verdicts for one in of_size.values()}  # sizes of one part share their passes
    if all(isinstance(verdicts, OrderedVerdicts) for verdicts in looked.values()):
        passes = [verdicts.passes for verdicts in looked.values()]
        remarks.append(results.Passes(len(passes[0]), int(torch.stack(passes).sum())))
    return remarks


def _look(
    options: argparse.Namespace,
    classifier: SmoothedClassifier,
    dataset: Images,
    chosen: Tensor,
    patch: Patch | None = None,
    spots: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Views:
    """What a report shows of the images `chosen` (n,).

    Args:
        spots: these and their scores (n, A, K) to weak spots, see `classifiers.weak_spots`.
    """
    ablation, batches = classifier.ablation, dataset.take(chosen).batches(options.batch_size)
    scores = torch.cat([_scores(options, classifier, images) for images, _ in batches])
    return Views(
        reporting.pictures(dataset, chosen),
        spots(chosen, scores) if spots else None,
        scores.softmax(dim=2),
        reporting.touched_by(ablation, patch) if patch else None,
        reporting.borders_of(ablation),
    )


@torch.inference_mode()
def _scores(options: argparse.Namespace, classifier: SmoothedClassifier, images: Tensor) -> Tensor:
    """(N, A, K) float32: the logits of all copies."""
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        return torch.cat(list(classifier.every_copy(images, options.batch_size)))


def _found(
    options: argparse.Namespace,
    classifier: SmoothedClassifier,
    dataset: Images,
    maskings: list[DoubleMasking],
    margin: Margin,
    journal: Journal,
) -> tuple[list[MaskedFound], saved_answers.Asked | None]:
    """What each of `maskings` says of all images, and what the first process is to save of them.

    Each process looks at its share of them.
    """
    saving = getattr(options, "save_votes", None) is not None
    wanted = wanted_for(goals_of(options), whole=saving, everything=saving and options.ask_all)
    ask = MaskedLook(classifier, maskings, margin, wanted, options.batch_size)

    def look(images: Tensor, labels: Tensor) -> tuple[list[list[dict | None]], dict]:
        noted = [] if saving else None
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
            found = ask(images, noted)
        saved = vars(saved_answers.Asked.of(noted, precision(options))) if saving else {}
        return [[vars(of_one.verdicts), of_one.alarms and vars(of_one.alarms)] for of_one in found], saved

    parts, to_save, kind = [], [], OrderedVerdicts if ask.in_order else MaskedVerdicts
    with progress_bar(len(dataset), "certifying") as bar:
        for (found, saved), labels in journal.over(dataset, options.batch_size, look):
            to_save.append(saved)
            parts.append([MaskedFound(kind(**verdicts), alarms and Alarms(**alarms)) for verdicts, alarms in found])
            bar.update(len(labels) * distributed.world())
    together = [MaskedFound.concatenate(of_one).merged(len(dataset)) for of_one in zip(*parts, strict=True)]
    if not saving:
        return together, None
    asked = saved_answers.Asked.concatenate([saved_answers.Asked(**saved) for saved in to_save])
    return together, asked.gathered()
