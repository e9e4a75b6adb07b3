"""Certifying as options describe it: by a network's votes, by saved ones, by random samples of them."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from patchcert import checkpoint, distributed, option_values, results
from patchcert.ablations.ablation import Ablation
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.cli import Parser, configuration
from patchcert.data.folders import Images
from patchcert.engines import asking
from patchcert.errors import UsageError
from patchcert.experiments import reporting, summaries
from patchcert.experiments.any_network import manner_of, margin_of_votes
from patchcert.experiments.engines import add_engine, computed_by, engine_of, find_batch_size
from patchcert.experiments.evaluation import (
    add_limit,
    add_outputs,
    add_save_votes,
    evaluation_parser,
    first,
    journal_of,
    prepare,
    write_and_print,
)
from patchcert.experiments.masking import require_shapes_for_pages
from patchcert.experiments.setting import SIZES, set_up
from patchcert.files import what_fits
from patchcert.journal import Journal
from patchcert.option_values import (
    certificates,
    fractions,
    goals,
    level,
    patch_sizes,
    patches,
    positive_int,
)
from patchcert.patch import Patch
from patchcert.patch_sizes import in_pixels
from patchcert.votes import certificate, randomized, saved_votes
from patchcert.votes.rules import ThresholdVote, TopOneVote, VoteRule

PATCHES = "number of such patches, anywhere in the image"

THRESHOLD = 0.2
"""θ, where none is given."""


def certification_parser(description: str, data_sets: tuple[str, ...], size_to_certify: int = 5) -> Parser:
    """The options of every deterministic certification script; the script adds those of its ablation."""
    parser = evaluation_parser(description, data_sets)
    _add_questions(parser, size_to_certify)
    add_save_votes(parser)
    add_engine(parser)
    return parser


def votes_parser(description: str) -> Parser:
    """The options of certifying from a file of votes, or of answers about hidden windows; none is set by default."""
    parser = Parser(description)
    parser.add_argument(
        "--votes",
        type=Path,
        required=True,
        metavar="FILE.npz",
        help="the file that a certifying script wrote with --save_votes",
    )
    parser.certificate.add_argument(
        "--size_to_certify",
        type=patch_sizes,
        help=f"{SIZES} (default: 5; for hidden windows, the patch that they were made for)",
    )
    parser.certificate.add_argument("--patches", type=int, choices=(1, 2), default=1, help=PATCHES)
    parser.certificate.add_argument(
        "--numerical_margin",
        type=option_values.numerical_margin,
        metavar="NU",
        help="ν: for votes, as in the script that wrote them; for hidden windows, in units of logits (default: that of "
        "the run)",
    )
    parser.certificate.add_argument(
        "--certificate", type=certificates, help="for votes: margin, exact, masking, or several (default: margin)"
    )
    add_vote(parser)
    parser.certificate.add_argument(
        "--goal",
        type=goals,
        help="for hidden windows: recover, alert or recover,alert (default: recover; for two patches alert)",
    )
    parser.certificate.add_argument(
        "--confidence",
        type=option_values.alarm_thresholds,
        metavar="TAU",
        help="for alarms of hidden windows: strict, τ, or several: strict,0,0.5,0.9 (default: strict)",
    )
    parser.set_defaults(threshold=None)
    add_outputs(parser)
    add_limit(parser)
    return parser


def randomized_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every randomized certification script; the script adds those of its ablation."""
    parser = evaluation_parser(description, data_sets)
    parser.certificate.add_argument("--attack_size", type=patches, default="5", help="patch sizes: 5, 1-10, 2,5 or 2x8")
    parser.certificate.add_argument(
        "--alpha", type=level, default=0.05, help="probability that a certificate may be wrong"
    )
    parser.certificate.add_argument(
        "--predsamples", type=positive_int, default=1000, help="number of random copies that choose the class"
    )
    parser.certificate.add_argument(
        "--boundsamples",
        type=positive_int,
        default=10_000,
        help="number of random copies that give a lower bound of the class's share",
    )
    add_engine(parser)
    return parser


def _add_questions(parser: Parser, size_to_certify: int) -> None:
    """What is asked of the votes."""
    parser.certificate.add_argument("--size_to_certify", type=patch_sizes, default=str(size_to_certify), help=SIZES)
    parser.certificate.add_argument(
        "--certificate",
        type=certificates,
        default="margin",
        help="which certificate: margin, exact, masking, or several: margin,exact",
    )
    parser.certificate.add_argument("--patches", type=int, choices=(1, 2), default=1, help=PATCHES)
    parser.certificate.add_argument(
        "--numerical_margin",
        type=option_values.margin_of_votes,
        default="auto",
        metavar="NU",
        help="if above 0, answer a second time, and give the adversary every vote that would change if a probability "
        "changed by NU; with top-one votes, if the gap between the two largest did. auto is 0, or more for a network "
        "of your own that computes with fewer bits than float32",
    )


def add_threshold(parser: Parser) -> None:
    """θ, in both spellings that published commands use."""
    _add_threshold(parser.certificate)


def _add_threshold(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--threshold",
        "--threshhold",
        type=fractions,
        default=str(THRESHOLD),
        help="θ, or several: 0.1,0.2. A copy votes for every class whose probability is at least θ",
    )


def add_vote(parser: Parser) -> None:
    """How copies vote, where the script leaves it open; see `vote_rules`."""
    rule = parser.certificate.add_mutually_exclusive_group()
    _add_threshold(rule)
    rule.add_argument("--top_one", action="store_true", help="each copy votes for its most probable class alone")


def vote_rules(options: argparse.Namespace) -> list[VoteRule]:
    """What the options of `add_vote` ask for."""
    return [TopOneVote()] if options.top_one else [ThresholdVote(threshold) for threshold in options.threshold]


def certify_by_votes(
    options: argparse.Namespace, ablation: Ablation, network: nn.Module, rules: list[VoteRule]
) -> None:
    """Certify as the options of `certification_parser` say, for every patch size, vote rule and certificate.

    Images leave early unless something is reported that needs all votes.
    """
    require_shapes_for_pages(options)
    set_up(options)
    certifier = certificate.Certifier(ablation.to(options.device), _questions(options, ablation, rules))
    dataset, network = prepare(options, network, ablation)
    engine = engine_of(options, network, ablation, dataset)
    manner = manner_of(options, SmoothedClassifier(network, ablation), dataset, engine)
    if options.numerical_margin is None:
        options.numerical_margin = margin_of_votes(manner)
        if options.numerical_margin:
            certifier = certificate.Certifier(ablation, _questions(options, ablation, rules))
    questions = certifier.questions
    early = not (options.per_image or options.numerical_margin or options.save_votes or options.report)
    with journal_of(options, network, dataset) as journal:
        recorder = None
        if options.save_votes:
            recorder = saved_votes.Recorder(ablation, rules, options.numerical_margin)
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
            started = find_batch_size(options, engine, dataset, ablation, certifier, journal)
            size = options.batch_size
            verdicts, classified = certificate.certify(engine, dataset, certifier, size, recorder, early, journal)
        seconds = journal.seconds() - started
        arithmetic = computed_by(options, engine, journal, manner)
        copies = results.Copies(len(dataset) * ablation.count, classified, _close_votes(questions, verdicts))
        sizes = options.size_to_certify
        about = summaries.of_certificates(vars(options), len(dataset), ablation, sizes, questions)
        asked = [question.as_json() for question in questions]

        def batches(chosen: Tensor) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
            with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
                for images, _ in dataset.take(chosen).batches(options.batch_size):
                    yield asking.softmax_chunks(engine, images, ablation, options.batch_size)

        def subject(number: int) -> reporting.Subject:
            shown = partial(reporting.pictures, dataset)
            look = reporting.looking_at_votes(ablation, questions[number], batches, shown)
            return reporting.of_votes(ablation, questions[number], _leads(verdicts[number]), look)

        with what_fits() as attempt:
            if recorder:
                attempt(recorder.write, options.save_votes, dataset, configuration(options), arithmetic)
            attempt(_report, options, about, dataset, asked, verdicts, seconds, arithmetic, copies, subject)


def certify_saved(options: argparse.Namespace, saved: saved_votes.SavedVotes) -> None:
    """Answer what the options of `votes_parser` ask of saved votes, as `certify_by_votes` does with a network."""
    _settle(options, saved)
    require_shapes_for_pages(options)
    rules = vote_rules(options)
    for rule in rules:
        saved.require(rule, options.numerical_margin)
    questions = _questions(options, saved.ablation, rules)
    certifier = certificate.Certifier(saved.ablation, questions)
    distributed.start(torch.device("cpu"))
    saved = first(options, saved, saved.config)
    distributed.require_images(len(saved))
    with Journal.of_run(options, votes=checkpoint.sha256(options.votes)) as journal:
        verdicts = saved_votes.certify(saved, certifier, journal)
        seconds = journal.seconds()
        options.config_of_votes = saved.config
        count = len(saved) * saved.ablation.count
        copies = results.Copies(count, count, _close_votes(questions, verdicts))
        asked_for = {name: getattr(options, name) for name in ("limit", "per_class")}
        looked_at = saved.config | {name: number for name, number in asked_for.items() if number}
        sizes = options.size_to_certify
        about = summaries.of_certificates(looked_at, len(saved), saved.ablation, sizes, questions)
        asked = [question.as_json() for question in questions]

        def subject(number: int) -> reporting.Subject:
            return reporting.of_saved(saved, questions[number], _leads(verdicts[number]))

        _report(options, about, saved, asked, verdicts, seconds, saved.arithmetic, copies, subject)


def _settle(options: argparse.Namespace, saved: saved_votes.SavedVotes) -> None:
    """Put their defaults in place of options about votes that were not given.

    The numerical margin is that of the run, which may have taken one because of how its network computes.

    Raises:
        UsageError: an option is about hidden windows.
    """
    for option in ("goal", "confidence"):
        if getattr(options, option) is not None:
            value = ",".join("strict" if part is None else str(part) for part in getattr(options, option))
            raise UsageError(option, value, "the file has votes; this is for answers about hidden windows")
    options.size_to_certify = options.size_to_certify or [Patch(5)]
    options.certificate = options.certificate or ["margin"]
    if options.numerical_margin is None:
        options.numerical_margin = saved.numerical_margin
    options.threshold = options.threshold or [THRESHOLD]


def certify_randomized(options: argparse.Namespace, ablation: Ablation, network: nn.Module) -> None:
    """Certify by random samples as the options of `randomized_parser` say."""
    set_up(options)
    for patch in options.attack_size:
        ablation.require_fits("attack_size", patch)
    most_touched = {patch: ablation.to(options.device).most_touched(patch) for patch in options.attack_size}
    dataset, network = prepare(options, network, ablation)
    engine = engine_of(options, network, ablation, dataset)
    with journal_of(options, network, dataset) as journal:
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
            started = find_batch_size(options, engine, dataset, ablation, list, journal)
            votes = randomized.top_one_votes(engine, dataset, ablation, options.batch_size, journal)
        samples = options.alpha, options.predsamples, options.boundsamples
        verdicts = [
            randomized.randomized_verdicts(votes, most, *samples, np.random.default_rng(options.seed))
            for most in most_touched.values()
        ]
        seconds = journal.seconds() - started
        about = summaries.of_randomized(options, len(dataset), ablation)
        asked = [{"attack_size": patch.size} for patch in most_touched]

        def subject(number: int) -> reporting.Subject:
            patch = list(most_touched)[number]
            return reporting.of_top_one(ablation, patch, votes, partial(reporting.pictures, dataset))

        arithmetic = computed_by(options, engine, journal)
        _report(options, about, dataset, asked, verdicts, seconds, arithmetic, subject=subject)


def _questions(options: argparse.Namespace, ablation: Ablation, rules: list[VoteRule]) -> list[certificate.Question]:
    """Every combination of patch size, vote rule, certificate and numerical margin that the options ask for."""
    margins = dict.fromkeys((0.0, options.numerical_margin or 0.0))
    sizes = dict.fromkeys(in_pixels(size, ablation.height, ablation.width) for size in options.size_to_certify)
    combinations = product(sizes, rules, options.certificate, margins)
    return [
        certificate.Question(patch, rule, kind, options.patches, margin) for patch, rule, kind, margin in combinations
    ]


def _leads(verdicts: certificate.Verdicts) -> Tensor:
    """(N,) int64: by how many votes each answer is ahead."""
    return verdicts.votes - verdicts.runner_up_votes


def _close_votes(questions: list[certificate.Question], verdicts: list[certificate.Verdicts]) -> list[dict]:
    """One entry for each vote rule: how many copies have a vote within the numerical margin; none without one."""
    found = {q.ballot: int(v.close_votes.sum()) for q, v in zip(questions, verdicts, strict=True)}
    return [ballot.as_json() | {"close_votes": count} for ballot, count in found.items() if ballot.numerical_margin]


def _report(
    options: argparse.Namespace,
    about: str,
    dataset: Images | saved_votes.SavedVotes,
    questions: list[dict],
    verdicts: list[certificate.Verdicts],
    seconds: float,
    arithmetic: dict,
    copies: results.Copies | None = None,
    subject: Callable[[int], reporting.Subject] | None = None,
) -> None:
    if not distributed.is_first():
        return
    counts = [results.Counts.of(v.predicted, v.certified, dataset.labels) for v in verdicts]
    answers = list(zip(questions, counts, strict=True))
    columns = [vars(v) for v in verdicts]
    write_and_print(options, about, dataset, answers, columns, seconds, arithmetic, copies, subject)
