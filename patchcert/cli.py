"""The options that scripts share, and what they start."""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from patchcert import attack, certificate, checkpoint, datasets, distributed, report, results, training, voting
from patchcert.ablation import Ablation, Patch
from patchcert.errors import BrokenCertificateError, UsageError, require_within
from patchcert.voting import Engine, VoteRule

MNIST_LIKE = ("mnist", "fashion-mnist", "digits")
CIFAR_LIKE = ("cifar10", "folder")
IMAGENET = ("imagenet",)
RECIPE_OPTIONS = ("lr", "regularization", "end_epoch", "batch_size", "ablation_per", "amp")


class Parser(argparse.ArgumentParser):
    """Shows defaults, takes whole option names only, and reports a wrong option in one line."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> None:
        distributed.let_first_speak()
        self.exit(2, f"{self.prog}: error: {message}\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`: errors become one line and exit code 2 (wrong use), 1 or 3 (broken certificate)."""
    try:
        main()
        distributed.stop()
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on after the last whole epoch", 130)
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


positive_int = _number(int, lambda v: v >= 1, "a whole number of at least 1")
index = _number(int, lambda v: v >= 0, "a whole number of at least 0")
positive_float = _number(float, lambda v: 0 < v < float("inf"), "a number above 0")
nonnegative_float = _number(float, lambda v: 0 <= v < float("inf"), "a number of at least 0")
fraction = _number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")
level = _number(float, lambda v: 0 < v < 1, "a number between 0 and 1")


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
            found = [Patch(side, side) for side in range(first, last + 1)]
    except ValueError:
        found = []
    if not found or any(patch.height < 1 or patch.width < 1 for patch in found):
        raise argparse.ArgumentTypeError(f"{text}: expected sizes of at least 1, such as 5 or 1-10 or 2,5 or 2x8")
    return found


def folder(text: str) -> Path:
    """A folder that exists or can be made."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot be made: {error.strerror}") from error
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
    parser.add_argument("--batch_size", type=positive_int, default=batch_size, help="images per call of the network")
    parser.add_argument("--seed", type=index, default=0, help="fixes everything random")


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
    _shared_options(parser, data_sets, batch_size)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only N images, evenly spaced over each part")
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
        "--image_size", type=positive_int, default=image_size, help="pixels to which pictures are resized both ways"
    )


def certification_parser(description: str, data_sets: tuple[str, ...], size_to_certify: int = 5) -> Parser:
    """The options of every deterministic certification script; the script adds those of its ablation."""
    parser = _evaluation_parser(description, data_sets)
    parser.add_argument(
        "--size_to_certify", type=patches, default=str(size_to_certify), help="patch sizes: 5, 1-10, 2,5 or 2x8"
    )
    parser.add_argument("--certificate", type=certificates, default="margin", help="margin, exact or margin,exact")
    _add_engine(parser)
    return parser


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
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the results here")
    parser.add_argument("--per_image", type=output_file, metavar="FILE.csv", help="write one row per image here")
    _shared_options(parser, data_sets, batch_size=128)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N of these images")
    return parser


def add_threshold(parser: Parser, default: float = 0.2) -> None:
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
    if options.recipe != "paper":
        details += f"_recipe_{options.recipe}"
    name = checkpoint.run_name(stem, options.lr, options.regularization, details, options.end_epoch, options.resume)
    _set_up(options)
    torch.manual_seed(options.seed)
    network = build_network()
    resumed = _resumed(options, network)
    train_set, test_set = (_spread(_load(options, part), options.limit).to(options.device) for part in (True, False))
    distributed.require_images(min(len(train_set), len(test_set)))
    recipe = replace(
        training.RECIPES[options.recipe],
        **{option: getattr(options, option) for option in RECIPE_OPTIONS},
        seed=options.seed,
        augmentations=augmentations,
    )
    path = checkpoint.FOLDER / name
    network.to(options.device, memory_format=torch.channels_last)
    if ablation is not None:
        ablation.to(options.device)
    state = training.train(network, ablation, train_set, test_set, recipe, path, resumed, options.compile)
    if distributed.is_first():
        results.print_training(path, state)
    return path


def _set_up(options: argparse.Namespace) -> None:
    distributed.start(options.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32


def _load(options: argparse.Namespace, train: bool) -> datasets.Images:
    if options.dataset == "imagenet":
        option = "trainpath" if train else "valpath"
        pictures = getattr(options, option)
        return datasets.PictureFolder(option, pictures, options.image_size, datasets.normalise_imagenet)
    if options.dataset != "folder":
        return datasets.load(options.dataset, options.data, train)
    return datasets.load_folder(options.data, train, options.image_size)


def _spread(dataset: datasets.Images, limit: int | None) -> datasets.Images:
    """At most `limit` images, evenly spaced, so that all classes remain where they come one after the other."""
    count = min(limit or len(dataset), len(dataset))
    return dataset.take(torch.arange(count) * len(dataset) // count)


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
    _set_up(options)
    questions = [
        certificate.Question(patch, rule, kind)
        for patch in options.size_to_certify
        for rule in rules
        for kind in options.certificate
    ]
    certifier = certificate.Certifier(ablation.to(options.device), questions)
    dataset, network = _prepare(options, network)
    engine = _engine(options, network, ablation, dataset)
    started = time.perf_counter()
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        verdicts = certificate.certify(engine, dataset, certifier, options.batch_size)
    seconds = time.perf_counter() - started
    _report(options, dataset, [question.as_json() for question in questions], verdicts, seconds)


def certify_randomized(options: argparse.Namespace, ablation: Ablation, network: nn.Module) -> None:
    """Certify by random samples as the options of `randomized_parser` say."""
    _set_up(options)
    most_touched = {patch: ablation.to(options.device).most_touched(patch) for patch in options.attack_size}
    dataset, network = _prepare(options, network)
    engine = _engine(options, network, ablation, dataset)
    started = time.perf_counter()
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        votes = certificate.top_one_votes(engine, dataset, ablation, options.batch_size)
    verdicts = [
        certificate.randomized_verdicts(
            votes, most, options.alpha, options.predsamples, options.boundsamples, np.random.default_rng(options.seed)
        )
        for most in most_touched.values()
    ]
    seconds = time.perf_counter() - started
    _report(options, dataset, [{"attack_size": patch.size} for patch in most_touched], verdicts, seconds)


def _engine(options: argparse.Namespace, network: nn.Module, ablation: Ablation, dataset: datasets.Images) -> Engine:
    if options.compile and options.engine != "dense":
        raise UsageError("engine", options.engine, "torch.compile needs the whole network: give --engine dense too")
    return voting.engine(options.engine, network, ablation, 2 * dataset.channels)


def attack_with_patch(options: argparse.Namespace, network: nn.Module, classifier: attack.Classifier) -> None:
    """Attack as the options of `patch_attack_parser` say.

    Args:
        network: what the checkpoint fills; a part of `classifier`.
    """
    ablation = classifier.ablation.to(options.device)
    patch = Patch(
        _patch_side(options, "patch_height", ablation.height, "rows"),
        _patch_side(options, "patch_width", ablation.width, "columns"),
    )
    questions = [certificate.Question(patch, classifier.rule, kind) for kind in ("margin", "exact")]
    threat = attack.PatchThreat(patch, ablation)
    _attack(options, network, classifier, threat, questions, attack.SEARCHES[options.locations], options.randomizations)


def _patch_side(options: argparse.Namespace, name: str, pixels: int, what: str) -> int:
    given = name if getattr(options, name) else "size_of_attack"
    side = getattr(options, given)
    require_within(given, side, 1, pixels, f"images have {pixels} {what}")
    return side


def attack_in_ball(options: argparse.Namespace, network: nn.Module, classifier: attack.Classifier) -> None:
    """Attack as the options of `ball_attack_parser` say; see `attack_with_patch`."""
    threat = attack.BallThreat(options.epsilon, classifier.ablation.to(options.device))
    _attack(options, network, classifier, threat, [], attack.try_random_places, restarts=1)


def _attack(
    options: argparse.Namespace,
    network: nn.Module,
    classifier: attack.Classifier,
    threat: attack.Threat,
    questions: list[certificate.Question],
    search: Callable[[attack.Attack, int], None],
    restarts: int,
) -> None:
    """Attack every correctly classified image, check the certificates that answer `questions`, report."""
    _set_up(options)
    dataset, _ = _prepare(options, network, options.skip)
    network.eval().requires_grad_(False)
    ascent = attack.Ascent(attack.LOSSES[options.loss], options.steps, options.step_size, options.momentum)
    started = time.perf_counter()
    try:
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
            clean = attack.look_at(classifier, dataset, questions, options.batch_size)
            run = attack.Attack(classifier, threat, ascent, clean.targets(), options.seed, options.batch_size)
            search(run, restarts)
    except BrokenCertificateError as error:
        path = report.save_counterexample(run, error.number, options.save_images or Path("results"))
        raise BrokenCertificateError(error.number, f"{error}: the counterexample is in {path}") from error
    _report_attack(options, dataset, clean, run, time.perf_counter() - started)


def _prepare(options: argparse.Namespace, network: nn.Module, skip: int = 1) -> tuple[datasets.Images, nn.Module]:
    """The chosen images, every `skip`-th, and the network, filled, both on the device."""
    checkpoint.load_network("checkpoint", checkpoint.find("checkpoint", options.checkpoint), network)
    dataset = _load(options, train=False)
    if options.dataset == "imagenet":
        dataset = dataset.take(slice(options.skip // 2 if options.test else 0, None, options.skip))
    elif not options.all:
        dataset = datasets.choose_half(dataset, options.test, options.split_file)
    dataset = dataset.take(slice(None, None, skip)).take(slice(options.limit)).to(options.device)
    distributed.require_images(len(dataset))
    network.to(options.device, memory_format=torch.channels_last)
    if options.compile:
        network.compile()
    return dataset, network


def _report(
    options: argparse.Namespace,
    dataset: datasets.Images,
    questions: list[dict],
    verdicts: list[certificate.Verdicts],
    seconds: float,
) -> None:
    if not distributed.is_first():
        return
    counts = [results.Counts.of(v.predicted, v.certified, dataset.labels) for v in verdicts]
    answers = list(zip(questions, counts, strict=True))
    results.print_answers(answers, seconds)
    if options.output:
        results.write_json(results.run_record(answers, seconds, configuration(options)), options.output)
    if options.per_image:
        columns = [vars(v) for v in verdicts]
        rows = results.image_rows(dataset, list(zip(questions, columns, strict=True)))
        results.write_csv(rows, options.per_image)


def _report_attack(
    options: argparse.Namespace, dataset: datasets.Dataset, clean: attack.Clean, run: attack.Attack, seconds: float
) -> None:
    flipped = run.findings.flipped
    right = clean.predicted == dataset.labels
    certified = [int((v.certified & right).sum()) for v in clean.verdicts] or [None, None]
    counts = results.AttackCounts(len(dataset), len(flipped), *certified, int((~flipped).sum()))
    results.print_answers([({}, counts)], seconds)
    if options.output:
        results.write_json(results.run_record([({}, counts)], seconds, configuration(options)), options.output)
    if options.per_image:
        results.write_csv(results.image_rows(dataset, [({}, _attack_columns(clean, run))]), options.per_image)
    if options.save_images and flipped.any():
        report.save_flipped(run, options.save_images)
        rounded = report.to_bytes(run.findings.images[flipped]) / 255
        still_wrong = run.classifier.predict(rounded, options.batch_size) != run.targets.labels[flipped]
        results.print_pictures(options.save_images, len(still_wrong), int(still_wrong.sum()))


def _attack_columns(clean: attack.Clean, run: attack.Attack) -> dict[str, torch.Tensor]:
    """Columns (N,) of the table per image; row, column, restart and step are −1 for images that did not flip."""
    found, right = run.findings, clean.predicted == clean.labels

    def of_all(values: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
        return otherwise.clone().masked_scatter(right, values)

    before = run.classifier.rule(clean.probabilities).sum(dim=1)  # (N, K)
    after = before.clone()
    after[right] = found.votes
    predicted = certificate.predict(after)
    none = torch.full_like(clean.labels, -1)
    columns = run.threat.shape[1]
    return {
        "predicted": clean.predicted,
        "votes": before.amax(dim=1),
        **{f"certified_{name}": v.certified for name, v in zip(("margin", "exact"), clean.verdicts, strict=False)},
        "flipped": of_all(found.flipped, none > 0),
        "row": of_all(found.place.div(columns, rounding_mode="floor"), none),
        "column": of_all(found.place.where(~found.flipped, found.place % columns), none),
        "restart": of_all(found.restart, none),
        "step": of_all(found.step, none),
        "predicted_after": predicted,
        "votes_after": after.amax(dim=1),
        "votes_of_label_after": after.gather(1, clean.labels[:, None])[:, 0],
    }


def configuration(options: argparse.Namespace) -> dict:
    """The script and all its options, in JSON's types."""
    return {"script": Path(sys.argv[0]).name} | {name: _plain(value) for name, value in vars(options).items()}


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)
