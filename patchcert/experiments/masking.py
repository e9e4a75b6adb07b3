"""Certifying by double masking of bands' scores, as options describe it."""

import argparse
from functools import partial

import torch
from torch import Tensor, nn

from patchcert import distributed, results
from patchcert.ablations.ablation import Ablation
from patchcert.arithmetic import NUMERICAL_MARGINS
from patchcert.classifiers import weak_spots
from patchcert.classifiers.in_order import CopiesInOrder, OrderedVerdicts
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.probing import Manner, note_numerical_margin
from patchcert.cli import Parser
from patchcert.data.folders import Images
from patchcert.experiments import reporting, summaries
from patchcert.experiments.any_network import arithmetic_of, manner_of
from patchcert.experiments.evaluation import evaluation_parser, journal_of, prepare, write_and_print
from patchcert.experiments.setting import precision, set_up
from patchcert.journal import Journal
from patchcert.masking.double_masking import DoubleMasking, MaskedVerdicts
from patchcert.masking.linked import masking_of
from patchcert.masking.margins import Margin
from patchcert.option_values import numerical_margin, patches, positive_int
from patchcert.patch import Patch
from patchcert.progress import progress_bar
from patchcert.reports.exhibits import Views

BATCH = "images per call of the network where it answers for all of their copies, else ablated copies"


def masked_certification_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every script that certifies by double masking; the checkpoint knows the network."""
    parser = evaluation_parser(description, data_sets)
    parser.certificate.add_argument(
        "--size_to_certify", type=patches, default="5", help="patch sizes: 5, 1-10, 2,5 or 2x8"
    )
    parser.certificate.add_argument(
        "--patches", type=int, choices=(1, 2), default=1, help="how many such patches, anywhere"
    )
    add_numerical_margin(parser)
    parser.engine.add_argument("--batch_size", type=positive_int, default=32, help=BATCH)
    return parser


def add_numerical_margin(parser: Parser) -> None:
    """ν, in units of the network's logits."""
    by_arithmetic = "auto is {float32:g}, {tf32:g} with --tf32 and {bfloat16:g} with --amp".format(**NUMERICAL_MARGINS)
    parser.certificate.add_argument(
        "--numerical_margin",
        type=numerical_margin,
        default="auto",
        metavar="NU",
        help="certify only leads above NU and a share of what was added up, so that no rounding undoes them; "
        f"{by_arithmetic}",
    )


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


def certify_masked(options: argparse.Namespace, network: nn.Module, ablation: Ablation) -> None:
    """Certify as the options of `masked_certification_parser` say, all patch sizes from one pass.

    Args:
        network: base classifier, or one of limited reach, that of `ablation`.
    """
    set_up(options)
    ablation.to(options.device)
    maskings = {patch: masking_of(ablation, patch, options.patches) for patch in options.size_to_certify}
    dataset, network = prepare(options, network, ablation)
    classifier = SmoothedClassifier(network, ablation)
    manner = manner_of(options, classifier, dataset)
    settle_numerical_margin(options, manner)
    margin = Margin.of_scores(options.numerical_margin, arithmetic_of(options, manner))
    with journal_of(options, network, dataset) as journal:
        verdicts = _verdicts(options, classifier, dataset, list(maskings.values()), margin, journal)
        seconds, computed = journal.seconds(), (arithmetic_of(options, manner), classifier.engine_name)
        arithmetic = results.computed_with(*computed, journal.processors)
        if not distributed.is_first():
            return
        asked = {"certificate": "masking", "patches": options.patches, "numerical_margin": options.numerical_margin}
        answers = [
            ({"size_to_certify": patch.size} | asked, results.Counts.of(v.predicted, v.certified, dataset.labels))
            for patch, v in zip(maskings, verdicts, strict=True)
        ]
        within = {patch.size: int(v.within_margin.sum()) for patch, v in zip(maskings, verdicts, strict=True)}
        about, remarks = summaries.of_masking(options, len(dataset), ablation), [results.CloseLeads(within)]
        if isinstance(verdicts[0], OrderedVerdicts):  # all sizes share their passes
            remarks.append(results.Passes(len(dataset), int(verdicts[0].passes.sum())))

        def subject(number: int) -> reporting.Subject:
            patch, masking = list(maskings.items())[number]
            look = partial(_look, options, classifier, dataset, patch, masking, verdicts[number])
            about, margin = summaries.of_question(answers[number][0]), options.numerical_margin
            leads, leads_are = verdicts[number].lead, "lead at the worst pair of masks that was asked for"
            return reporting.Subject(about, str(ablation), patch, look, leads, margin, leads_are, "logits")

        columns = [vars(v) for v in verdicts]
        together = results.Together(remarks)
        write_and_print(options, about, dataset, answers, columns, seconds, arithmetic, together, subject)


def _look(
    options: argparse.Namespace,
    classifier: SmoothedClassifier,
    dataset: Images,
    patch: Patch,
    masking: DoubleMasking,
    verdicts: MaskedVerdicts,
    chosen: Tensor,
) -> Views:
    """What a report shows of the images `chosen` (n,)."""
    ablation, batches = classifier.ablation, dataset.take(chosen).batches(options.batch_size)
    scores = torch.cat([_scores(options, classifier, images) for images, _ in batches])
    spots = weak_spots.of_scores(ablation, masking, patch, options.patches, verdicts.predicted[chosen], scores)
    return Views(
        reporting.pictures(dataset, chosen),
        spots,
        scores.softmax(dim=2),
        reporting.touched_by(ablation, patch),
        reporting.borders_of(ablation),
    )


@torch.inference_mode()
def _scores(options: argparse.Namespace, classifier: SmoothedClassifier, images: Tensor) -> Tensor:
    """(N, A, K) float32: the logits of all copies."""
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        return torch.cat(list(classifier.every_copy(images, options.batch_size)))


def _verdicts(
    options: argparse.Namespace,
    classifier: SmoothedClassifier,
    dataset: Images,
    maskings: list[DoubleMasking],
    margin: Margin,
    journal: Journal,
) -> list[MaskedVerdicts]:
    """What each of `maskings` says of all images; each process looks at its share of them.

    Copies with hidden windows are asked for in the order in which an image is decided soonest.
    """
    in_order = CopiesInOrder.of(classifier, options.batch_size)

    def look(images: Tensor, labels: Tensor) -> list[dict]:
        if in_order:
            with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
                return [vars(verdicts) for verdicts in in_order.verdicts(images, maskings, margin)]
        scores = _scores(options, classifier, images)
        magnitudes = classifier.magnitudes(scores)
        return [vars(masking.verdicts(scores, margin, magnitudes)) for masking in maskings]

    parts, kind = [], OrderedVerdicts if in_order else MaskedVerdicts
    with progress_bar(len(dataset), "certifying") as bar:
        for found, labels in journal.over(dataset, options.batch_size, look):
            parts.append([kind(**columns) for columns in found])
            bar.update(len(labels) * distributed.world())
    return [kind.concatenate(answers).merged(len(dataset)) for answers in zip(*parts, strict=True)]
