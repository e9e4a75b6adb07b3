"""The options that scripts share, and what they start."""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from patchcert import certificate, checkpoint, datasets, results, training, voting
from patchcert.ablation import Ablation, Patch
from patchcert.errors import UsageError
from patchcert.voting import Engine, VoteRule

MNIST_LIKE = ("mnist", "fashion-mnist", "digits")


class Parser(argparse.ArgumentParser):
    """Shows defaults, takes whole option names only, and reports a wrong option in one line."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {message}\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`: errors become one line, with exit code 2 for wrong use and 1 for a failed run."""
    try:
        main()
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on after the last whole epoch", 130)
    except UsageError as error:
        _stop(str(error), 2)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        _stop(f"{type(error).__name__}: {error} (--debug shows where)".replace("\n", " "), 1)


def _stop(message: str, code: int) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    sys.exit(code)


# ---- option values ----------------------------------------------------------------------------------------------


def _number(kind: type, allowed: Callable[[float], bool], wanted: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"{text}: expected {wanted}")
        return value

    return parse


positive_int = _number(int, lambda v: v >= 1, "a whole number of at least 1")
index = _number(int, lambda v: v >= 0, "a whole number of at least 0")
positive_float = _number(float, lambda v: 0 < v < float("inf"), "a number above 0")
nonnegative_float = _number(float, lambda v: 0 <= v < float("inf"), "a number of at least 0")
fraction = _number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")
level = _number(float, lambda v: 0 < v < 1, "a number between 0 and 1")


def fractions(text: str) -> list[float]:
    """One number from 0 to 1 or several with commas: 0.1,0.2."""
    return [fraction(part) for part in text.split(",")]


def patches(text: str) -> list[Patch]:
    """Patch sizes: 5 (a square), 2x8 (rows × columns), 1-10, or several of these with commas."""
    return [patch for part in text.split(",") for patch in _patch_range(part)]


def _patch_range(text: str) -> list[Patch]:
    try:
        if "x" in text:
            height, width = (int(side) for side in text.split("x"))
            found = [Patch(height, width)]
        else:
            first, last = (int(end) for end in (text.split("-") if "-" in text else (text, text)))
            found = [Patch(side, side) for side in range(first, last + 1)]
    except ValueError:
        found = []
    if not found or any(patch.height < 1 or patch.width < 1 for patch in found):
        raise argparse.ArgumentTypeError(f"{text}: expected sizes of at least 1, such as 5 or 1-10 or 2,5 or 2x8")
    return found


def certificates(text: str) -> list[str]:
    """margin, exact or both with a comma."""
    names = text.split(",")
    if not set(names) <= {"margin", "exact"}:
        raise argparse.ArgumentTypeError(f"{text}: expected margin, exact or margin,exact")
    return names


def device(text: str) -> torch.device:
    """auto, cpu or cuda; auto takes the GPU if there is one."""
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("cuda: there is no such device here; expected auto or cpu")
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text}: expected auto, cpu or cuda")
    return torch.device(text)


def output_file(text: str) -> Path:
    """A file that can be written: its folder exists and takes new files."""
    path = Path(text)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot be written: {path.parent}: {error.strerror}") from error
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a folder, expected a file")
    return path


# ---- parsers ----------------------------------------------------------------------------------------------------


def _shared_options(parser: Parser, data_sets: tuple[str, ...], batch_size: int) -> None:
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data sets")
    parser.add_argument("--dataset", choices=data_sets, default=data_sets[0], help="which data set")
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch_size", type=positive_int, default=batch_size, help="images per call of the network")
    parser.add_argument("--seed", type=index, default=0, help="fixes everything random")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N images")


def training_parser(
    description: str, data_sets: tuple[str, ...], lr: float, regularization: float, end_epoch: int
) -> Parser:
    """The options of every training script; the script adds those of its ablation."""
    parser = Parser(description)
    parser.add_argument("--lr", type=positive_float, default=lr, help="learning rate")
    parser.add_argument("--regularization", type=nonnegative_float, default=regularization, help="weight decay")
    parser.add_argument("--end_epoch", type=index, default=end_epoch, help="index of the last epoch")
    parser.add_argument("--resume", metavar="NAME", help="checkpoint to go on from: its name or path")
    _shared_options(parser, data_sets, batch_size=128)
    return parser


def certification_parser(description: str, data_sets: tuple[str, ...], size_to_certify: int = 5) -> Parser:
    """The options of every deterministic certification script; the script adds those of its ablation."""
    parser = _evaluation_parser(description, data_sets)
    parser.add_argument(
        "--size_to_certify", type=patches, default=str(size_to_certify), help="patch sizes: 5, 1-10, 2,5 or 2x8"
    )
    parser.add_argument("--certificate", type=certificates, default="margin", help="margin, exact or margin,exact")
    return parser


def randomized_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every randomized certification script; the script adds those of its ablation."""
    parser = _evaluation_parser(description, data_sets)
    parser.add_argument("--attack_size", type=patches, default="5", help="patch sizes: 5, 1-10, 2,5 or 2x8")
    parser.add_argument("--alpha", type=level, default=0.05, help="chance that a certificate may be wrong")
    parser.add_argument("--predsamples", type=positive_int, default=1000, help="samples that pick the class")
    parser.add_argument("--boundsamples", type=positive_int, default=10_000, help="samples that bound its share")
    return parser


def _evaluation_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    parser = Parser(description)
    parser.add_argument(
        "--checkpoint", required=True, metavar="NAME", help="what to certify: a name under checkpoints/ or a path"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--test", action="store_true", help="the test half instead of the validation half")
    part.add_argument("--all", action="store_true", help="both halves, in the data set's own order")
    parser.add_argument("--split_file", type=Path, metavar="FILE", help="another split: saved index tensor or text")
    parser.add_argument(
        "--engine",
        choices=("windowed", "dense"),
        default="windowed",
        help="windowed computes only what differs from the empty image; dense runs the whole network on every copy",
    )
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the results here")
    parser.add_argument("--per_image", type=output_file, metavar="FILE.csv", help="write one row per image here")
    _shared_options(parser, data_sets, batch_size=128)
    return parser


def add_threshold(parser: Parser, default: float = 0.2) -> None:
    """θ, in both spellings that published commands use."""
    parser.add_argument(
        "--threshold", "--threshhold", type=fractions, default=str(default), help="θ of the vote, or several: 0.1,0.2"
    )


# ---- what the scripts start -------------------------------------------------------------------------------------


def train(
    options: argparse.Namespace,
    ablation: Ablation | None,
    build_network: Callable[[], nn.Module],
    stem: str,
    details: str,
    augmentations: tuple[datasets.Augmentation, ...] = (),
) -> Path:
    """Train as the options of `training_parser` say; returns where the checkpoint lies.

    Args:
        stem, details: see `checkpoint.run_name`.
    """
    name = checkpoint.run_name(stem, options.lr, options.regularization, details, options.end_epoch, options.resume)
    torch.manual_seed(options.seed)
    network = build_network()
    resumed = _resumed(options, network)
    train_set, test_set = (
        datasets.load(options.dataset, options.data, train=part).take(slice(options.limit)).to(options.device)
        for part in (True, False)
    )
    recipe = training.Recipe(
        options.lr, options.regularization, options.end_epoch, options.batch_size, options.seed, augmentations
    )
    path = checkpoint.FOLDER / name
    network.to(options.device)
    if ablation is not None:
        ablation.to(options.device)
    state = training.train(network, ablation, train_set, test_set, recipe, path, resumed)
    results.print_training(path, state)
    return path


def _resumed(options: argparse.Namespace, network: nn.Module) -> dict | None:
    if options.resume is None:
        return None
    content = checkpoint.load_network("resume", checkpoint.find("resume", options.resume), network)
    if content["epoch"] >= options.end_epoch:
        right = f"expected a checkpoint before --end_epoch {options.end_epoch}, this one is at {content['epoch']}"
        raise UsageError("resume", options.resume, right)
    return content


def certify(options: argparse.Namespace, ablation: Ablation, network: nn.Module, rules: list[VoteRule]) -> None:
    """Certify as the options of `certification_parser` say, for every patch size, vote rule and certificate."""
    questions = [
        certificate.Question(patch, rule, kind)
        for patch in options.size_to_certify
        for rule in rules
        for kind in options.certificate
    ]
    certifier = certificate.Certifier(ablation.to(options.device), questions)
    dataset = _prepare(options, network)
    engine = _engine(options, network, ablation, dataset)
    started = time.perf_counter()
    verdicts = certificate.certify(engine, dataset, certifier, options.batch_size)
    seconds = time.perf_counter() - started
    _report(options, dataset, [question.as_json() for question in questions], verdicts, seconds)


def certify_randomized(options: argparse.Namespace, ablation: Ablation, network: nn.Module) -> None:
    """Certify by random samples as the options of `randomized_parser` say."""
    most_touched = {patch: ablation.to(options.device).most_touched(patch) for patch in options.attack_size}
    dataset = _prepare(options, network)
    engine = _engine(options, network, ablation, dataset)
    started = time.perf_counter()
    votes = certificate.top_one_votes(engine, dataset, ablation, options.batch_size)
    verdicts = [
        certificate.randomized_verdicts(
            votes, most, options.alpha, options.predsamples, options.boundsamples, np.random.default_rng(options.seed)
        )
        for most in most_touched.values()
    ]
    seconds = time.perf_counter() - started
    _report(options, dataset, [{"attack_size": patch.size} for patch in most_touched], verdicts, seconds)


def _engine(options: argparse.Namespace, network: nn.Module, ablation: Ablation, dataset: datasets.Dataset) -> Engine:
    return voting.engine(options.engine, network, ablation, 2 * dataset.images.shape[1])


def _prepare(options: argparse.Namespace, network: nn.Module) -> datasets.Dataset:
    """Fill the network, move it to the device and return the chosen images there."""
    checkpoint.load_network("checkpoint", checkpoint.find("checkpoint", options.checkpoint), network)
    dataset = datasets.load(options.dataset, options.data, train=False)
    if not options.all:
        dataset = datasets.choose_half(dataset, options.test, options.split_file)
    network.to(options.device)
    return dataset.take(slice(options.limit)).to(options.device)


def _report(
    options: argparse.Namespace,
    dataset: datasets.Dataset,
    questions: list[dict],
    verdicts: list[certificate.Verdicts],
    seconds: float,
) -> None:
    counts = [results.Counts.of(v.predicted, v.certified, dataset.labels) for v in verdicts]
    answers = list(zip(questions, counts, strict=True))
    results.print_answers(answers, seconds)
    if options.output:
        results.write_json(results.run_record(answers, seconds, configuration(options)), options.output)
    if options.per_image:
        columns = [vars(v) for v in verdicts]
        rows = results.image_rows(dataset, list(zip(questions, columns, strict=True)))
        results.write_csv(rows, options.per_image)


def configuration(options: argparse.Namespace) -> dict:
    """The script and all its options, in JSON's types."""
    return {"script": Path(sys.argv[0]).name} | {name: _plain(value) for name, value in vars(options).items()}


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)
