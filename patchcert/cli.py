"""The options that scripts share, and how a script runs and fails."""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path

import torch

from patchcert import distributed
from patchcert.attacks import attack
from patchcert.data import datasets
from patchcert.errors import BrokenCertificateError, UsageError
from patchcert.smoothing import training
from patchcert.smoothing.ablation import Patch

MNIST_LIKE = ("mnist", "fashion-mnist", "digits")
CIFAR_LIKE = ("cifar10", "folder")
IMAGENET = ("imagenet",)
RECIPE_OPTIONS = ("lr", "regularization", "end_epoch", "batch_size", "ablation_per", "amp")

MOST_PIXELS = 4096
"""On a side of an image."""


class Parser(argparse.ArgumentParser):
    """Shows defaults, takes whole option names only, and reports a wrong option in one line."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_known_args(self, *arguments, **more) -> tuple[argparse.Namespace, list[str]]:
        options, rest = super().parse_known_args(*arguments, **more)
        self._require_distinct_files(options)
        return options, rest

    def _require_distinct_files(self, options: argparse.Namespace) -> None:
        options_by_file = {}
        for action in self._actions:
            path = action.type is output_file and getattr(options, action.dest)
            if path:
                (option,) = action.option_strings
                other = options_by_file.setdefault(path.resolve(), option)
                if other != option:
                    self.error(f"argument {option}: {path}: is the file of {other} too")

    def error(self, message: str) -> None:
        distributed.let_first_speak()
        self.exit(2, f"{self.prog}: error: {message}\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`: errors become one line and exit code 2 (wrong use), 1 or 3 (broken certificate)."""
    try:
        main()
        distributed.stop()
    except KeyboardInterrupt as stop:
        _stop("; ".join(["interrupted", *stop.args]), 130)
    except UsageError as error:
        _stop(str(error), 2)
    except BrokenCertificateError as error:
        _stop(str(error), 3)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        _stop(f"{type(error).__name__}: {error} (--debug shows where)".replace("\n", " "), 1)


def _stop(message: str, code: int) -> None:
    distributed.let_first_speak()
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


positive_int = _number(int, lambda v: 1 <= v <= 10**9, "a whole number from 1 to 1000000000")
index = _number(int, lambda v: 0 <= v <= 10**9, "a whole number from 0 to 1000000000")
pixels = _number(int, lambda v: 1 <= v <= MOST_PIXELS, f"a whole number from 1 to {MOST_PIXELS}")
seed = _number(int, lambda v: 0 <= v < 2**32, "a whole number from 0 to 4294967295")
gigabytes = _number(float, lambda v: 0 < v <= 1e6, "gigabytes, above 0")
positive_float = _number(float, lambda v: 0 < v < float("inf"), "a number above 0")
nonnegative_float = _number(float, lambda v: 0 <= v < float("inf"), "a number of at least 0")
fraction = _number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")
level = _number(float, lambda v: 0 < v < 1, "a number between 0 and 1")


def batch_size(text: str) -> int | None:
    """A number of copies; None for auto."""
    return None if text == "auto" else positive_int(text)


def share_of_255(text: str) -> float:
    """A step or distance between pixels above 0 and at most 1, written 0.05 or 0.5/255."""
    numerator, _, denominator = text.partition("/")
    try:
        value = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0 and at most 1, such as 0.05 or 0.5/255")
    return value


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
            found = [Patch(side, side) for side in range(first, min(last, MOST_PIXELS + 1) + 1)]
    except ValueError:
        found = []
    if not found or not all(1 <= side <= MOST_PIXELS for patch in found for side in (patch.height, patch.width)):
        right = f"expected sizes from 1 to {MOST_PIXELS}, such as 5 or 1-10 or 2,5 or 2x8"
        raise argparse.ArgumentTypeError(f"{text}: {right}")
    return found


def folder(text: str) -> Path:
    """A folder that takes new files; it is made if it does not exist."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot be made: {error.strerror}") from error
    _require_writable(text, path)
    return path


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
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: is a folder or a device, expected a file")
    _require_writable(text, path.resolve().parent)
    return path


def _require_writable(text: str, folder: Path) -> None:
    """Raise ArgumentTypeError about the option's value `text` unless `folder` exists and takes new files."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot be written: {folder}: {error.strerror}") from error


# ---- parsers ----------------------------------------------------------------------------------------------------


def _shared_options(parser: Parser, data_sets: tuple[str, ...]) -> None:
    if data_sets == IMAGENET:
        parser.set_defaults(dataset="imagenet")
        parser.add_argument(
            "--valpath", type=Path, default=Path("imagenet-val/val"), metavar="DIR", help="one folder a class"
        )
    else:
        parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data sets")
        parser.add_argument("--dataset", choices=data_sets, default=data_sets[0], help="which data set")
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--amp", action=argparse.BooleanOptionalAction, default=False, help="products and convolutions in bfloat16"
    )
    parser.add_argument("--tf32", action="store_true", help="let GPUs round products and convolutions to TF32")
    parser.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    parser.add_argument("--seed", type=seed, default=0, help="fixes everything random")


def training_parser(
    description: str,
    data_sets: tuple[str, ...],
    lr: float,
    regularization: float,
    end_epoch: int,
    batch_size: int = 128,
    ablated: bool = True,
) -> Parser:
    """The options of every training script; the script adds those of its ablation, if it has one."""
    parser = Parser(description)
    parser.set_defaults(recipe="paper", ablation_per="batch")
    if data_sets == IMAGENET:
        parser.add_argument(
            "--trainpath", type=Path, default=Path("imagenet-train/train"), metavar="DIR", help="one folder a class"
        )
    parser.add_argument("--lr", type=positive_float, default=lr, help="learning rate")
    parser.add_argument("--regularization", type=nonnegative_float, default=regularization, help="weight decay")
    parser.add_argument("--end_epoch", type=index, default=end_epoch, help="index of the last epoch")
    parser.add_argument("--resume", metavar="NAME", help="checkpoint to go on from: its name or path")
    if ablated:
        parser.add_argument(
            "--ablation_per",
            choices=("batch", "sample"),
            default="batch",
            help="what shows a random ablation of its own",
        )
    parser.add_argument("--batch_size", type=positive_int, default=batch_size, help="images per step")
    _shared_options(parser, data_sets)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only N images of each part, evenly spaced")
    return parser


def add_recipe(parser: Parser) -> None:
    """--recipe; the options that a recipe has a value for start from it, here and in --help."""
    parser.add_argument(
        "--recipe", choices=training.RECIPES, default="paper", help="the paper's, or a fast one for a recent GPU"
    )
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--recipe", nargs="?")
    chosen = chooser.parse_known_args()[0].recipe
    if chosen == "fast":
        parser.set_defaults(**{name: getattr(training.FAST, name) for name in RECIPE_OPTIONS})


def data_name(options: argparse.Namespace) -> str:
    """What checkpoint names begin with: the data set, or the name of the folder it is in."""
    return {"cifar10": "cifar", "folder": options.data.resolve().name}[options.dataset]


def class_count(options: argparse.Namespace) -> int:
    """Classes of the pictures that the options name, and whether `--image_size` suits them."""
    if options.dataset == "folder":
        return len(datasets.class_names("data", options.data / "test"))
    if options.dataset == "imagenet":
        return len(datasets.class_names("valpath", options.valpath))
    if options.image_size != 32:
        raise UsageError("image_size", options.image_size, "CIFAR-10 has 32 × 32 pixels; only --dataset folder resizes")
    return 10


def add_network(parser: Parser, models: Iterable[str], model: str, image_size: int) -> None:
    """The options of a network for pictures and of their size, where the data set leaves it open."""
    parser.add_argument("--model", choices=list(models), default=model, help="network")
    parser.add_argument(
        "--image_size", type=pixels, default=image_size, help="pixels to which pictures are resized both ways"
    )


def certification_parser(description: str, data_sets: tuple[str, ...], size_to_certify: int = 5) -> Parser:
    """The options of every deterministic certification script; the script adds those of its ablation."""
    parser = _evaluation_parser(description, data_sets)
    _add_questions(parser, size_to_certify)
    parser.add_argument(
        "--save_votes", type=output_file, metavar="FILE.npz", help="write here what certify_votes.py answers from"
    )
    _add_engine(parser)
    return parser


def votes_parser(description: str) -> Parser:
    """The options of certifying from a file of votes."""
    parser = Parser(description)
    parser.add_argument(
        "--votes", type=Path, required=True, metavar="FILE.npz", help="what a certify script wrote by --save_votes"
    )
    _add_questions(parser, size_to_certify=5)
    rule = parser.add_mutually_exclusive_group()
    add_threshold(rule)
    rule.add_argument("--top_one", action="store_true", help="each copy votes for its most probable class alone")
    _add_outputs(parser)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N of the images")
    return parser


def _add_questions(parser: Parser, size_to_certify: int) -> None:
    """What is asked of the votes, whether a network casts them or a file holds them."""
    parser.add_argument(
        "--size_to_certify", type=patches, default=str(size_to_certify), help="patch sizes: 5, 1-10, 2,5 or 2x8"
    )
    parser.add_argument("--certificate", type=certificates, default="margin", help="margin, exact or margin,exact")
    parser.add_argument("--patches", type=int, choices=(1, 2), default=1, help="how many such patches, anywhere")
    parser.add_argument(
        "--numerical_margin",
        type=fraction,
        default=0.0,
        metavar="NU",
        help="if above 0, answer also with every vote within NU of being decided otherwise as the adversary's",
    )


def _add_outputs(parser: Parser) -> None:
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the results here")
    parser.add_argument("--per_image", type=output_file, metavar="FILE.csv", help="write one row per image here")


def randomized_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every randomized certification script; the script adds those of its ablation."""
    parser = _evaluation_parser(description, data_sets)
    parser.add_argument("--attack_size", type=patches, default="5", help="patch sizes: 5, 1-10, 2,5 or 2x8")
    parser.add_argument("--alpha", type=level, default=0.05, help="chance that a certificate may be wrong")
    parser.add_argument("--predsamples", type=positive_int, default=1000, help="samples that pick the class")
    parser.add_argument("--boundsamples", type=positive_int, default=10_000, help="samples that bound its share")
    _add_engine(parser)
    return parser


def _add_engine(parser: Parser) -> None:
    parser.add_argument(
        "--engine",
        choices=("windowed", "dense"),
        default="windowed",
        help="windowed computes only what differs from the empty image; dense runs the whole network on every copy",
    )
    parser.add_argument(
        "--batch_size",
        type=batch_size,
        default="128",
        help="ablated copies per call of the network; auto tries which number is fastest",
    )


def _evaluation_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    parser = Parser(description)
    parser.add_argument(
        "--checkpoint", required=True, metavar="NAME", help="the network: a name under checkpoints/ or a path"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--test", action="store_true", help="images to test on instead of those to validate on")
    if data_sets == IMAGENET:
        parser.add_argument("--skip", type=positive_int, default=50, metavar="N", help="take every N-th image")
    else:
        part.add_argument("--all", action="store_true", help="both halves, in the data set's own order")
        parser.add_argument("--split_file", type=Path, metavar="FILE", help="another split: saved index tensor or text")
    _add_outputs(parser)
    _shared_options(parser, data_sets)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N of these images")
    return parser


def add_threshold(parser: Parser | argparse._ArgumentGroup, default: float = 0.2) -> None:
    """θ, in both spellings that published commands use."""
    parser.add_argument(
        "--threshold", "--threshhold", type=fractions, default=str(default), help="θ of the vote, or several: 0.1,0.2"
    )


def patch_attack_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every script that attacks with a patch; the script adds those of its classifier."""
    parser = _attack_parser(description, data_sets, steps=150, step_size="0.05")
    parser.add_argument("--size_of_attack", type=positive_int, default=5, help="m, pixels on each side of the patch")
    parser.add_argument("--patch_height", type=positive_int, help="rows of the patch (default: --size_of_attack)")
    parser.add_argument("--patch_width", type=positive_int, help="columns of the patch (default: --size_of_attack)")
    parser.add_argument("--randomizations", type=positive_int, default=80, help="restarts, each at a new place")
    parser.add_argument(
        "--locations",
        choices=attack.SEARCHES,
        default="random",
        help="random places, or all of them coarse to fine in as many steps",
    )
    return parser


def ball_attack_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every script that attacks in an L∞ ball; the script adds those of its classifier."""
    parser = _attack_parser(description, data_sets, steps=50, step_size="0.5/255")
    parser.add_argument("--epsilon", type=share_of_255, default="1/255", help="ε, the most that a pixel may change")
    return parser


def _attack_parser(description: str, data_sets: tuple[str, ...], steps: int, step_size: str) -> Parser:
    parser = _evaluation_parser(description, data_sets)
    parser.add_argument("--batch_size", type=positive_int, default=128, help="images per call of the network")
    parser.add_argument("--steps", type=positive_int, default=steps, help="sign steps of a restart")
    parser.add_argument("--step_size", type=share_of_255, default=step_size, help="pixel change of a step, 1 is white")
    parser.add_argument("--momentum", type=fraction, default=0.0, help="share of earlier gradients kept in a step")
    parser.add_argument(
        "--loss",
        choices=attack.LOSSES,
        default="softmax",
        help="what steps raise: -log of the label's mean softmax, or the margin of the strongest rival",
    )
    parser.add_argument("--skip", type=positive_int, default=10, metavar="N", help="take every N-th image")
    parser.add_argument("--save_images", type=folder, metavar="DIR", help="write PNG pictures of what flipped here")
    return parser


def add_attack_threshold(parser: Parser) -> None:
    """θ of votes and certificates under attack, in both spellings that published commands use."""
    parser.add_argument("--threshold", "--threshhold", type=fraction, default=0.3, help="θ of the vote")


def configuration(options: argparse.Namespace) -> dict:
    """The script and all its options, in JSON's types."""
    return {"script": Path(sys.argv[0]).name} | {name: _plain(value) for name, value in vars(options).items()}


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)
