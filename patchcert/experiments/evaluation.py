"""What certifying and attacking share: the network and the images that options name, and where the numbers go."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from patchcert import checkpoint, distributed, messages, results
from patchcert.ablations.ablation import Ablation
from patchcert.arithmetic import require_nearest
from patchcert.cli import Parser, configuration
from patchcert.data import splits
from patchcert.data.folders import Images
from patchcert.data.splits import Part
from patchcert.engines.columns import LinesNetwork
from patchcert.engines.joint import JointNetwork
from patchcert.errors import UsageError
from patchcert.experiments import about, any_network, reporting
from patchcert.experiments.setting import ANY, IMAGENET, add_setting, load_images
from patchcert.files import what_fits
from patchcert.journal import Journal
from patchcert.option_values import folder, output_file, positive_int
from patchcert.votes.saved_votes import SavedVotes

COLOURS = ("mean", "std", "hidden")
"""What pretrained networks say of colours: numbers for each channel."""

SKIP_OF_IMAGENET = 50
"""Of ImageNet's images every so manieth is looked at, as in the paper."""


def evaluation_parser(description: str, data_sets: tuple[str, ...], skip: int = 1, report: bool = True) -> Parser:
    """The options of every script that looks at test images with a network, by default at every `skip`-th.

    Args:
        report: whether the script can draw a page.
    """
    parser = about.CheckpointParser(description, "weights" if data_sets == ANY else "checkpoint")
    if data_sets == ANY:
        parser.add_argument(
            "--weights",
            metavar="FILE",
            help="the weights: a state_dict, or a checkpoint with one (default: the network's own)",
        )
    else:
        parser.add_argument(
            "--checkpoint",
            required=True,
            metavar="NAME",
            help="the network: the name of a file in checkpoints/, the name of a checkpoint that ships, or a path",
        )
        parser.if_missing["--checkpoint"] = checkpoint.there_are
    part = parser.data.add_mutually_exclusive_group()
    part.add_argument("--test", action="store_true", help="take the test half instead of the validation half")
    if data_sets != IMAGENET:
        part.add_argument("--all", action="store_true", help="take both halves, in the data set's own order")
        parser.data.add_argument(
            "--split_file",
            type=Path,
            metavar="FILE",
            help="take these images: a file with their numbers, as text or a saved tensor",
        )
    add_outputs(parser, report)
    add_setting(parser, data_sets)
    add_skip(parser, SKIP_OF_IMAGENET if data_sets == IMAGENET else skip)
    add_limit(parser)
    return parser


def add_skip(parser: Parser, skip: int = 1) -> None:
    """--skip, which leaves out images evenly."""
    parser.data.add_argument("--skip", type=positive_int, default=skip, metavar="N", help="take every N-th image")


def add_limit(parser: Parser) -> None:
    """How few of the images to look at: see `first`."""
    group = parser.data.add_mutually_exclusive_group()
    group.add_argument("--limit", type=positive_int, metavar="N", help="take only the first N of these images")
    group.add_argument(
        "--per_class", type=positive_int, metavar="N", help="take only the first N of these images of each class"
    )


def add_outputs(parser: Parser, report: bool = True) -> None:
    """The files that results can be written to."""
    parser.output.add_argument(
        "--output",
        type=output_file,
        metavar="FILE.json",
        help="write the results here. During the run FILE.json.partial keeps what is done, and after an interruption "
        "the same command continues from there. Without --output it starts again",
    )
    parser.output.add_argument(
        "--per_image", type=output_file, metavar="FILE.csv", help="write a row for each image and question here"
    )
    if report:
        page = "write a report here: a web page, index.html"
        parser.output.add_argument("--report", type=folder, metavar="DIR", help=page)
    parser.output.add_argument(
        "--overwrite", action="store_true", help="start again, and replace what an interrupted run left beside --output"
    )


def first(options: argparse.Namespace, images: Part, config: dict, most: int | None = None) -> Part:
    """Of the images those that the options of `add_limit` leave, with a note if they are of few classes.

    Args:
        config: the options by name, of the run that chose the images.
        most: how many it may be.
    """
    taken = splits.first(splits.first(images, options.limit, options.per_class), most)
    there, found = images.labels.unique(), taken.labels.unique()
    expected = min(len(taken.labels), len(there))
    few = len(found) == 1 < expected or 2 * len(found) < expected
    if few and distributed.is_first():
        names = reporting.class_names(config)
        named = [names[label] if label < len(names) else str(label) for label in found.tolist()]
        messages.print_few_classes(len(taken.labels), named, len(there), "skip" in options)
    return taken


def add_save_votes(parser: Parser) -> None:
    """--save_votes: a file for later questions."""
    parser.output.add_argument(
        "--save_votes",
        type=output_file,
        metavar="FILE.npz",
        help="write a file from which certify_votes.py answers further questions",
    )


def prepare(
    options: argparse.Namespace, network: nn.Module, ablation: Ablation, others: Sequence[nn.Module] = ()
) -> tuple[Images, nn.Module]:
    """The chosen images and the network, filled, both on the device; a `Pretrained` one is, and brings its images.

    Says so if the checkpoint was trained with another `ablation` or for other images.

    Args:
        others: networks that look at the same images, and are filled where this one is.
    """
    require_nearest()  # whatever was imported to make the network
    _require_one_part(options)
    option = "checkpoint" if "checkpoint" in options else "weights"
    name = getattr(options, option)
    joint = isinstance(network, JointNetwork)
    trained = (network.bands, network.bands.shape.ablation()) if joint else (network, ablation)
    prepared = isinstance(network, any_network.Pretrained)
    if not prepared:
        if name is not None:
            about.fill(option, options, *trained)
        options.about["sha256"] = about.digests(options)
        about.hold_against(options, about.of_run(options, *trained), name)
    if prepared or (joint and not others):
        options.about["run"] = about.of_run(options, network, ablation)
    dataset = network.pictures if prepared else load_images(options, train=False)
    start = 0
    if options.dataset == "imagenet":
        start = options.skip // 2 if options.test else 0
    elif not options.all:
        dataset = splits.choose_half(dataset, options.test, options.split_file)
    dataset = dataset.take(slice(start, None, options.skip))
    dataset = first(options, dataset, configuration(options)).to(options.device)
    if not len(dataset):
        option = "valpath" if options.dataset == "imagenet" else "data"
        raise UsageError(option, getattr(options, option), "has too few images: none is left in this half")
    distributed.require_images(len(dataset))
    for each in (network, *others):
        if isinstance(trained[0], LinesNetwork):
            trained[0].require_images(options.dataset, dataset.image_shape)
            each.fold()
        each.to(options.device)
    if "weights" in options and not prepared:
        any_network.require_answers(options, network, ablation, next(dataset.take(slice(1)).batches(1))[0])
    if options.compile:
        for each in (network, *others):
            each.compile()
    return dataset, network


def _require_one_part(options: argparse.Namespace) -> None:
    """Raise UsageError if two options name the images, of which only one would be followed."""
    if getattr(options, "all", False) and getattr(options, "split_file", None):
        right = "expected without --all, which takes all images, whatever numbers are in a file"
        raise UsageError("split_file", options.split_file, right)


def journal_of(options: argparse.Namespace, network: nn.Module, dataset: Images, **more: str) -> Journal:
    """What a run of these options, weights, images and modules, and of what else it is, keeps beside --output."""
    weights, pixels = checkpoint.fingerprint(network.state_dict().values()), dataset.fingerprint()
    of_network = {f"network {name}": value for name, value in _said_of_network(options).items()}
    journal = Journal.of_run(options, weights=weights, images=pixels, **of_network, **more)
    if "weights" in options and journal.ahead and distributed.is_first():
        messages.print_not_compared(options.model)
    return journal


def _said_of_network(options: argparse.Namespace) -> dict[str, object]:
    """What makes a pretrained network the one that it is, besides its weights; nothing of other networks.

    The geometry is left out: its words may differ each time, and the pixels are compared anyway. Colours are compared
    to six digits: they were measured, and another processor may round them otherwise.
    """
    said = options.about.get("network", {})
    colours = {name: [float(f"{value:.6g}") for value in said[name]] for name in COLOURS if name in said}
    return {name: value for name, value in said.items() if name != "geometry"} | colours


def write_and_print(
    options: argparse.Namespace,
    about: str,
    dataset: Images | SavedVotes,
    answers: list[tuple[dict, results.Counts | results.AttackCounts]],
    columns: list[dict[str, Tensor]],
    seconds: float,
    arithmetic: dict,
    remarks: results.Remarks | None = None,
    subject: Callable[[int], reporting.Subject] | None = None,
) -> None:
    """Files first: printing may fail, to a pipe that nobody reads any more.

    Raises:
        WriteError: at the end; a file cannot be written.

    Args:
        about: what was asked, see `summaries`.
        columns: (N,) tensors by name for the rows per image, for each of `answers`.
        arithmetic: see `results.computed_with`.
        subject: what `--report` shows of an answer, by its number.
    """
    record = results.run_record(answers, seconds, configuration(options), arithmetic, remarks)
    with what_fits() as attempt:
        if options.output:
            attempt(results.write_json, record, options.output)
        if options.per_image:
            questions = [question for question, _ in answers]
            rows = results.image_rows(dataset, list(zip(questions, columns, strict=True)))
            attempt(results.write_csv, rows, options.per_image)
        if subject and options.report:
            name = options.output.stem if options.output else Path(record["config"]["script"]).stem
            runs = [reporting.of_run(name, about, dataset, record, columns, subject)]
            attempt(reporting.write, options.report, runs)
        messages.print_answers(about, answers, seconds, remarks)
