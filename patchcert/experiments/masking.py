"""Certifying by double masking of bands' scores, as options describe it."""

import argparse
import time

import torch
from torch import Tensor

from patchcert import distributed, results
from patchcert.cli import Parser
from patchcert.data.folders import Images
from patchcert.experiments import summaries
from patchcert.experiments.evaluation import evaluation_parser, prepare, write_and_print
from patchcert.experiments.networks import masked_network
from patchcert.experiments.setting import set_up
from patchcert.option_values import numerical_margin, patches, positive_int
from patchcert.progress import progress_bar
from patchcert.smoothing.columns import LinesNetwork
from patchcert.smoothing.masking import DoubleMasking

NUMERICAL_MARGINS = {"float32": 1e-3, "tf32": 0.1, "bfloat16": 1.0}
"""ν by arithmetic: at least six times as much as leads differed between executions, see docs/threat-model.md."""


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
    by_arithmetic = "auto is {float32:g}, {tf32:g} with --tf32 and {bfloat16:g} with --amp".format(**NUMERICAL_MARGINS)
    parser.add_argument(
        "--numerical_margin",
        type=numerical_margin,
        default="auto",
        metavar="NU",
        help=f"certify only leads above NU, so that no rounding undoes them; {by_arithmetic}",
    )


def settle_numerical_margin(options: argparse.Namespace) -> None:
    """Put the number in place of `--numerical_margin auto`, so that it is the one that results name."""
    if options.numerical_margin is None:
        arithmetic = "bfloat16" if options.amp else "tf32" if options.tf32 else "float32"
        options.numerical_margin = NUMERICAL_MARGINS[arithmetic]


def certify_masked(options: argparse.Namespace) -> None:
    """Certify as the options of `masked_certification_parser` say, all patch sizes from one pass."""
    settle_numerical_margin(options)
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
        write_and_print(options, about, dataset, answers, [vars(v) for v in verdicts], seconds, close)


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
