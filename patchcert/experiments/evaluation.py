"""What certifying and attacking share: the network and the images that options name, and where the numbers go."""

import argparse
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from patchcert import checkpoint, distributed, results
from patchcert.cli import Parser, configuration
from patchcert.data import splits
from patchcert.data.folders import Images
from patchcert.errors import UsageError
from patchcert.experiments import about, reporting
from patchcert.experiments.setting import IMAGENET, add_setting, load_images
from patchcert.option_values import folder, output_file, positive_int
from patchcert.smoothing.ablation import Ablation
from patchcert.smoothing.columns import LinesNetwork
from patchcert.smoothing.saved_votes import SavedVotes


def evaluation_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every script that looks at test images with a network."""
    parser = about.CheckpointParser(description, "checkpoint")
    parser.add_argument(
        "--checkpoint", required=True, metavar="NAME", help="the network: a name under checkpoints/ or a path"
    )
    parser.if_missing["--checkpoint"] = checkpoint.there_are
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--test", action="store_true", help="images to test on instead of those to validate on")
    if data_sets == IMAGENET:
        parser.add_argument("--skip", type=positive_int, default=50, metavar="N", help="take every N-th image")
    else:
        part.add_argument("--all", action="store_true", help="both halves, in the data set's own order")
        parser.add_argument("--split_file", type=Path, metavar="FILE", help="another split: saved index tensor or text")
    add_outputs(parser)
    add_setting(parser, data_sets)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N of these images")
    return parser


def add_outputs(parser: Parser) -> None:
    """The files that results can be written to."""
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the results here")
    parser.add_argument("--per_image", type=output_file, metavar="FILE.csv", help="write one row per image here")
    parser.add_argument("--report", type=folder, metavar="DIR", help="write a page to look at here: index.html")


def prepare(
    options: argparse.Namespace, network: nn.Module, ablation: Ablation, skip: int = 1
) -> tuple[Images, nn.Module]:
    """The chosen images, every `skip`-th, and the network, filled, both on the device.

    Says so if the checkpoint was trained with another `ablation` or for other images.
    """
    about.fill("checkpoint", options, network, ablation)
    about.hold_against(options, about.of_run(options, network, ablation), options.checkpoint)
    dataset = load_images(options, train=False)
    if options.dataset == "imagenet":
        dataset = dataset.take(slice(options.skip // 2 if options.test else 0, None, options.skip))
    elif not options.all:
        dataset = splits.choose_half(dataset, options.test, options.split_file)
    dataset = dataset.take(slice(None, None, skip)).take(slice(options.limit)).to(options.device)
    if not len(dataset):
        option = "valpath" if options.dataset == "imagenet" else "data"
        raise UsageError(option, getattr(options, option), "has too few images: none is left of this half")
    if isinstance(network, LinesNetwork):
        network.require_images(options.dataset, dataset.image_shape)
    distributed.require_images(len(dataset))
    network.to(options.device)
    if options.compile:
        network.compile()
    return dataset, network


def write_and_print(
    options: argparse.Namespace,
    about: str,
    dataset: Images | SavedVotes,
    answers: list[tuple[dict, results.Counts | results.AttackCounts]],
    columns: list[dict[str, Tensor]],
    seconds: float,
    remarks: results.Remarks | None = None,
    subject: Callable[[int], reporting.Subject] | None = None,
) -> None:
    """Files first: printing may fail, to a pipe that nobody reads any more.

    Args:
        about: what was asked, see `summaries`.
        columns: (N,) tensors by name for the rows per image, for each of `answers`.
        subject: what `--report` shows of an answer, by its number.
    """
    record = results.run_record(answers, seconds, configuration(options), remarks)
    if options.output:
        results.write_json(record, options.output)
    if options.per_image:
        questions = [question for question, _ in answers]
        results.write_csv(results.image_rows(dataset, list(zip(questions, columns, strict=True))), options.per_image)
    try:
        results.print_answers(about, answers, seconds, remarks)
    finally:
        if options.report:
            name = options.output.stem if options.output else Path(record["config"]["script"]).stem
            reporting.write(options.report, [reporting.of_run(name, about, dataset, record, columns, subject)])
