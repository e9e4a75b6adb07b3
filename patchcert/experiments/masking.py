"""Certifying by double masking of bands' scores, as options describe it."""

import argparse
import time
from functools import partial

import torch
from torch import Tensor

from patchcert import distributed, results
from patchcert.cli import Parser
from patchcert.data.folders import Images
from patchcert.experiments import reporting, summaries
from patchcert.experiments.evaluation import evaluation_parser, prepare, write_and_print
from patchcert.experiments.networks import masked_network
from patchcert.experiments.setting import set_up
from patchcert.option_values import nonnegative_float, patches, positive_int
from patchcert.patch import Patch
from patchcert.progress import progress_bar
from patchcert.reports.exhibits import Views
from patchcert.smoothing import weak_spots
from patchcert.smoothing.ablation import Ablation
from patchcert.smoothing.columns import LinesNetwork
from patchcert.smoothing.masking import DoubleMasking, MaskedVerdicts


def masked_certification_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every script that certifies by double masking; the checkpoint knows the network."""
    parser = evaluation_parser(description, data_sets)
    parser.add_argument("--size_to_certify", type=patches, default="5", help="patch sizes: 5, 1-10, 2,5 or 2x8")
    parser.add_argument("--patches", type=int, choices=(1, 2), default=1, help="how many such patches, anywhere")
    add_numerical_margin(parser)
    parser.add_argument("--batch_size", type=positive_int, default=128, help="images per call of the network")
    return parser


def add_numerical_margin(parser: Parser) -> None:
    """ν, in units of the network's logits."""
    parser.add_argument(
        "--numerical_margin",
        type=nonnegative_float,
        default=1e-3,
        metavar="NU",
        help="certify only leads above NU, so that no rounding undoes them; the default is for float32",
    )


def certify_masked(options: argparse.Namespace) -> None:
    """Certify as the options of `masked_certification_parser` say, all patch sizes from one pass."""
    set_up(options)
    network, ablation = masked_network(options)
    maskings = {patch: DoubleMasking(ablation, patch, options.patches) for patch in options.size_to_certify}
    dataset, network = prepare(options, network, ablation)
    started = time.perf_counter()
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        scores = scores_of(network, dataset.take(distributed.share()), options.batch_size, len(dataset))
    verdicts = []
    with progress_bar(len(maskings), "masking", "size") as bar:
        for masking in maskings.values():
            verdicts.append(masking.verdicts(scores, options.numerical_margin).merged(len(dataset)))
            bar.update()
    seconds = time.perf_counter() - started
    if distributed.is_first():
        asked = {"certificate": "masking", "patches": options.patches, "numerical_margin": options.numerical_margin}
        answers = [
            ({"size_to_certify": patch.size} | asked, results.Counts.of(v.predicted, v.certified, dataset.labels))
            for patch, v in zip(maskings, verdicts, strict=True)
        ]
        within = {patch.size: int(v.within_margin.sum()) for patch, v in zip(maskings, verdicts, strict=True)}
        about, close = summaries.of_masking(options, len(dataset), ablation), results.CloseLeads(within)

        def subject(number: int) -> reporting.Subject:
            patch, masking = list(maskings.items())[number]
            look = partial(_look, options, network, dataset, ablation, patch, masking, verdicts[number])
            about, margin = summaries.of_question(answers[number][0]), options.numerical_margin
            leads, leads_are = verdicts[number].lead, "lead at the worst pair of masks"
            return reporting.Subject(about, str(ablation), patch, look, leads, margin, leads_are, "logits")

        write_and_print(options, about, dataset, answers, [vars(v) for v in verdicts], seconds, close, subject)


def _look(
    options: argparse.Namespace,
    network: LinesNetwork,
    dataset: Images,
    ablation: Ablation,
    patch: Patch,
    masking: DoubleMasking,
    verdicts: MaskedVerdicts,
    chosen: Tensor,
) -> Views:
    """What a report shows of the images `chosen` (n,)."""
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        scores = scores_of(network, dataset.take(chosen), options.batch_size, len(chosen))
    spots = weak_spots.of_scores(ablation, masking, patch, options.patches, verdicts.predicted[chosen], scores)
    return Views(
        reporting.pictures(dataset, chosen), spots, scores.softmax(dim=2), reporting.touched_by(ablation, patch)
    )


@torch.inference_mode()
def scores_of(network: LinesNetwork, dataset: Images, batch_size: int, total: int) -> Tensor:
    """(N, A, K) float32: the logits of all copies of the images of `dataset`, with a progress bar over `total`."""
    network.eval()
    scores = []
    with progress_bar(total, "looking") as bar:
        for images, _ in dataset.batches(batch_size):
            scores.append(network(images).float())
            bar.update(len(images) * distributed.world())
    return torch.cat(scores)
