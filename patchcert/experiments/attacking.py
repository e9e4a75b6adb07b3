"""Attacking as options describe it: with patches or in an L∞ ball, held against the certificates."""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from patchcert import distributed, messages, results
from patchcert.ablations.ablation import Ablation
from patchcert.attacks import pictures
from patchcert.attacks.ascent import LOSSES, Ascent, Attack
from patchcert.attacks.deciding import attack_on
from patchcert.attacks.searches import SEARCHES, try_random_places
from patchcert.attacks.targets import Clean, leads_by_place, look_at
from patchcert.attacks.threats import BallThreat, PatchThreat, Threat
from patchcert.classifiers.masked import MaskedClassifier
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.cli import Parser
from patchcert.data.dataset import Dataset
from patchcert.errors import BrokenCertificateError, Note, UsageError, WriteError, require_within
from patchcert.experiments import reporting, summaries
from patchcert.experiments.any_network import arithmetic_of, manner_of, margin_of_votes
from patchcert.experiments.evaluation import evaluation_parser, journal_of, prepare, write_and_print
from patchcert.experiments.hints import Hints, hint_columns
from patchcert.experiments.masking import add_numerical_margin, settle_numerical_margin
from patchcert.experiments.setting import set_up
from patchcert.files import what_fits
from patchcert.networks import put_into_eval
from patchcert.option_values import folder, fraction, one_patch_size, positive_int, share_of_255
from patchcert.patch import Patch
from patchcert.patch_sizes import Share, in_pixels
from patchcert.reports.exhibits import MOST_COPIES, Views
from patchcert.votes import certificate

DEFAULT_SIDE = 5
"""Pixels on a side of the patch that no option gives."""

CERTIFIED = {SmoothedClassifier: ("certified_margin", "certified_exact"), MaskedClassifier: ("certified_masking",)}
"""Columns of attacks with a patch on each kind of classifier; attacks in a ball have no certificate."""


def patch_attack_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every script that attacks with a patch; the script adds those of its classifier."""
    parser = _attack_parser(description, data_sets, steps=150, step_size="0.05")
    size = (
        "the patch: 5 for m × m pixels, 2x8 for rows × columns, 2%% for the smallest square of at least 2 %% of the "
        "image's pixels"
    )
    parser.attack.add_argument("--size_of_attack", type=one_patch_size, help=f"{size} (default: {DEFAULT_SIDE})")
    for name, what in (("--patch_height", "rows"), ("--patch_width", "columns")):
        parser.attack.add_argument(name, type=positive_int, help=f"{what} of the patch (default: as --size_of_attack)")
    parser.attack.add_argument(
        "--randomizations", type=positive_int, default=80, help="number of restarts, each at a new place"
    )
    parser.attack.add_argument(
        "--locations",
        choices=SEARCHES,
        default="random",
        help="random: try random places; all: search from a coarse grid of places to a fine one, with the same number "
        "of steps in total; weak: begin where the certificate leaves the least lead",
    )
    return parser


def masked_attack_parser(description: str, data_sets: tuple[str, ...], windows: bool = False) -> Parser:
    """The options of every script that attacks double masking with a patch; the checkpoint knows the network.

    Args:
        windows: whether copies hide windows. Then few copies decide, so the attack begins at weak places and takes more
            steps.
    """
    parser = patch_attack_parser(description, data_sets)
    add_numerical_margin(parser)
    if windows:
        parser.set_defaults(locations="weak", randomizations=10, steps=30, loss="margin")
    return parser


def ball_attack_parser(description: str, data_sets: tuple[str, ...]) -> Parser:
    """The options of every script that attacks in an L∞ ball; the script adds those of its classifier."""
    parser = _attack_parser(description, data_sets, steps=50, step_size="0.5/255")
    parser.attack.add_argument(
        "--epsilon", type=share_of_255, default="1/255", help="ε, the most that a pixel may change"
    )
    return parser


def _attack_parser(description: str, data_sets: tuple[str, ...], steps: int, step_size: str) -> Parser:
    parser = evaluation_parser(description, data_sets, skip=10)
    copies = "ablated copies for each call of the network; images, if its reach is limited"
    parser.engine.add_argument("--batch_size", type=positive_int, default=128, help=copies)
    add_climbing(parser, steps, step_size, momentum=0.0, loss="softmax")
    return parser


def add_climbing(parser: Parser, steps: int, step_size: str, momentum: float, loss: str) -> None:
    """How a restart climbs, by these numbers unless told otherwise, and where images of what flipped go."""
    parser.attack.add_argument(
        "--steps", type=positive_int, default=steps, help="number of gradient steps in a restart"
    )
    parser.attack.add_argument(
        "--step_size",
        type=share_of_255,
        default=step_size,
        help="how far a step moves a pixel; 1 is from black to white",
    )
    parser.attack.add_argument(
        "--momentum", type=fraction, default=momentum, help="share of the earlier gradients that each step keeps"
    )
    parser.attack.add_argument(
        "--loss",
        choices=LOSSES,
        default=loss,
        help="what a step increases: softmax, minus the log of the label's mean probability; or margin, the lead of "
        "the strongest rival",
    )
    parser.output.add_argument(
        "--save_images", type=folder, metavar="DIR", help="write flipped images here, as PNG files"
    )


def add_attack_threshold(parser: Parser) -> None:
    """θ of votes and certificates under attack, in both spellings that published commands use."""
    parser.certificate.add_argument(
        "--threshold",
        "--threshhold",
        type=fraction,
        default=0.3,
        help="θ: a copy votes for every class whose probability is at least θ",
    )


def attack_with_patch(options: argparse.Namespace, network: nn.Module, classifier: SmoothedClassifier) -> None:
    """Attack as the options of `patch_attack_parser` say.

    Args:
        network: what the checkpoint fills; a part of `classifier`.
    """
    set_up(options)
    threat = _threat(options, classifier.ablation.to(options.device))
    dataset, _ = prepare(options, network, classifier.ablation)
    manner = manner_of(options, classifier, dataset)
    margin = margin_of_votes(manner)
    questions = [
        certificate.Question(threat.patch, classifier.rule, kind, numerical_margin=margin)
        for kind in ("margin", "exact")
    ]
    search, restarts = SEARCHES[options.locations], options.randomizations
    _attack(options, network, classifier, dataset, threat, questions, search, restarts, arithmetic_of(options, manner))


def attack_masked(options: argparse.Namespace, network: nn.Module, ablation: Ablation) -> None:
    """Attack the two-round prediction of a network for double masking as the options of `patch_attack_parser` say.

    Args:
        network: base classifier, or one of limited reach, that of `ablation`.
    """
    set_up(options)
    threat = _threat(options, ablation.to(options.device))
    classifier = MaskedClassifier(network, ablation, threat.patch)
    dataset, _ = prepare(options, network, ablation)
    manner = manner_of(options, classifier, dataset, in_order=classifier.in_order)
    settle_numerical_margin(options, manner)
    margin, arithmetic = options.numerical_margin, arithmetic_of(options, manner)
    question = certificate.Question(threat.patch, None, "masking", 1, margin, arithmetic)
    search, restarts = SEARCHES[options.locations], options.randomizations
    _attack(options, network, classifier, dataset, threat, [question], search, restarts, arithmetic)


def attack_in_ball(options: argparse.Namespace, network: nn.Module, classifier: SmoothedClassifier) -> None:
    """Attack as the options of `ball_attack_parser` say; see `attack_with_patch`."""
    set_up(options)
    threat = BallThreat(options.epsilon, classifier.ablation.to(options.device))
    dataset, _ = prepare(options, network, classifier.ablation)
    precision = arithmetic_of(options, None)
    _attack(options, network, classifier, dataset, threat, [], try_random_places, 1, precision)


def attacked_patch(options: argparse.Namespace) -> Patch | Share:
    """The patch of --size_of_attack, or of --patch_height and --patch_width."""
    sides = Patch(options.patch_height or DEFAULT_SIDE, options.patch_width or DEFAULT_SIDE)
    return options.size_of_attack or sides


def _threat(options: argparse.Namespace, ablation: Ablation) -> PatchThreat:
    """The `attacked_patch`; its size, in pixels, becomes --size_of_attack.

    Raises:
        UsageError: it does not fit into the image, or the options contradict each other.
    """
    size, asked = options.size_of_attack, attacked_patch(options)
    patch = in_pixels(asked, ablation.height, ablation.width)
    if size:
        ablation.require_fits("size_of_attack", patch)
    for name, side, pixels, what in (
        ("patch_height", patch.height, ablation.height, "rows"),
        ("patch_width", patch.width, ablation.width, "columns"),
    ):
        given = getattr(options, name) or side
        require_within(name, given, 1, pixels, f"images have {pixels} {what}")
        if given != side:
            raise UsageError(name, given, f"contradicts --size_of_attack {size}, which has {side} {what}; give one")
    options.size_of_attack = patch.size
    return PatchThreat(asked, ablation)


def _attack(
    options: argparse.Namespace,
    network: nn.Module,
    classifier: SmoothedClassifier,
    dataset: Dataset,
    threat: Threat,
    questions: list[certificate.Question],
    search: Callable[[Attack, int], None],
    restarts: int,
    precision: str,
) -> None:
    """Attack every correctly classified image, check the certificates that answer `questions`, report.

    Each process attacks its share of the images.

    Args:
        precision: in which the classifier computes.
    """
    put_into_eval(network).requires_grad_(False)
    if "weights" in options:
        _require_gradient(options, classifier, next(dataset.batches(1))[0])
    ascent = Ascent(LOSSES[options.loss], options.steps, options.step_size, options.momentum)
    autocast = torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp)
    with journal_of(options, network, dataset) as journal, autocast:
        clean = look_at(classifier, dataset.take(distributed.share()), questions, options.batch_size)
        run = attack_on(classifier, threat, ascent, clean.targets(), options.seed, options.batch_size, journal)
        if run.climbs_blindly():
            why = "the gradient is exactly zero, as it is when a network rounds or is too sure"
            warnings.warn(Note(f"{why}: this attack can only guess, and others may flip more"), stacklevel=2)
        try:
            search(run, restarts)
        except BrokenCertificateError as error:
            kept = _keep_counterexample(run, error.number, options.save_images or Path("results"))
            raise BrokenCertificateError(error.number, f"{error}: the counterexample {kept}") from error
        arithmetic = results.computed_with(precision, classifier.engine_name, journal.processors)
        about = summaries.of_attack(options, len(dataset), classifier, threat, restarts)
        with what_fits() as attempt:
            attempt(_report_attack, options, about, dataset, clean, run, journal.seconds(), arithmetic)
            if options.save_images:
                attempt(pictures.save_flipped, run, options.save_images)
                _report_pictures(options, run)


def _require_gradient(options: argparse.Namespace, classifier: SmoothedClassifier, image: Tensor) -> None:
    """Raise UsageError if the network of `--model` hands no gradient on to the `image` (1, C, H, W)."""
    first = torch.zeros(1, dtype=torch.int64, device=image.device)
    try:
        classifier.logits(image.clone().requires_grad_(), first, first)
    except ValueError as error:
        raise UsageError("model", options.model, str(error)) from error


def _keep_counterexample(run: Attack, number: int, folder: Path) -> str:
    """Write what breaks a certificate and say where it is, or why it cannot be written, which counts for less."""
    try:
        return f"is in {pictures.save_counterexample(run, number, folder)}"
    except WriteError as error:
        return str(error)


def _report_attack(
    options: argparse.Namespace,
    about: str,
    dataset: Dataset,
    clean: Clean,
    run: Attack,
    seconds: float,
    arithmetic: dict,
) -> None:
    own = _attack_columns(clean, run)
    own |= _hints(options, run, own["flipped"])
    columns = {name: distributed.merge(part, len(dataset)) for name, part in own.items()}
    subject = _subject(options, dataset, clean, run, columns) if options.report else None
    if not distributed.is_first():
        return
    right = columns["predicted"] == dataset.labels
    certified = {name: int((columns[name] & right).sum()) for name in columns if name.startswith("certified")}
    counts = results.AttackCounts(
        len(dataset),
        int(right.sum()),
        certified.get("certified_masking", certified.get("certified_margin")),
        certified.get("certified_exact"),
        int((right & ~columns["flipped"]).sum()),
    )
    question = {name: getattr(options, name) for name in ("numerical_margin",) if name in options}
    answers = [(question, counts)]
    hints = Hints.of(columns["flipped"], columns) if "dissenting" in columns else None
    write_and_print(options, about, dataset, answers, [columns], seconds, arithmetic, hints, lambda _: subject)


def _subject(
    options: argparse.Namespace, dataset: Dataset, clean: Clean, run: Attack, columns: dict[str, Tensor]
) -> reporting.Subject:
    """What a report shows of all images, which all processes know afterwards."""
    classifier, patch = run.classifier, getattr(run.threat, "patch", None)
    right, copies = clean.predicted == clean.labels, classifier.ablation.count
    of_masking = isinstance(classifier, MaskedClassifier)
    seen = {"attacked": pictures.to_bytes(clean.images)}
    seen["attacked"][right] = pictures.to_bytes(run.findings.images)
    if 1 < copies <= MOST_COPIES:
        seen["copies"] = clean.outputs.softmax(dim=-1)
    if patch and copies > 1:
        seen["weak_spots"] = leads_by_place(classifier, patch, clean.predicted, clean.outputs)
    seen = {name: distributed.merge(part, len(dataset)) for name, part in seen.items()}
    views = Views(
        dataset.images,
        touched=run.threat.touched,
        borders=reporting.borders_of(classifier.ablation),
        attacked_at=columns["column"] + run.threat.shape[1] * columns["row"],
        predicted_after=columns["predicted_after"],
        **seen,
    )
    leads = seen["weak_spots"].flatten(1).amin(dim=1) if "weak_spots" in seen else None
    return reporting.Subject(
        str(run.threat),
        str(classifier.ablation),
        patch,
        views.take,
        leads,
        options.numerical_margin if of_masking else -0.5,  # votes are whole: 0 is enough
        "least lead wherever the patch is",
        "logits" if of_masking else "votes",
    )


def _report_pictures(options: argparse.Namespace, run: Attack) -> None:
    flipped = run.findings.flipped
    still_wrong = flipped.clone()
    if flipped.any():
        rounded = pictures.to_bytes(run.findings.images[flipped]) / 255
        still_wrong[flipped] = run.classifier.predict(rounded, options.batch_size) != run.targets.labels[flipped]
    counts = [int(distributed.total(chosen.sum())) for chosen in (flipped, still_wrong)]
    if distributed.is_first() and counts[0]:
        messages.print_pictures(options.save_images, *counts)


def _hints(options: argparse.Namespace, run: Attack, flipped: Tensor) -> dict[str, Tensor]:
    """More columns of the table per image, if copies hide windows: which dissent on the `flipped` (N,) images."""
    classifier, found = run.classifier, run.findings
    windows = classifier.windows if isinstance(classifier, MaskedClassifier) else None
    if windows is None:
        return {}
    dissenting = flipped.new_zeros(len(flipped), windows.count)
    places = torch.zeros_like(flipped, dtype=torch.int64)
    if flipped.any():
        _, dissenting[flipped] = classifier.predict(found.images[found.flipped], options.batch_size, where=True)
        places[flipped] = found.place[found.flipped]
    return hint_columns(dissenting, windows.covering(run.threat.patch).flatten(1), places)


def _attack_columns(clean: Clean, run: Attack) -> dict[str, Tensor]:
    """Columns (N,) of the table per image; row, column, restart and step are −1 for images that did not flip."""
    found, right = run.findings, clean.predicted == clean.labels

    def of_all(values: Tensor, otherwise: Tensor) -> Tensor:
        return otherwise.clone().masked_scatter(right, values)

    before = run.classifier.ballots(clean.outputs).sum(dim=1)  # (N, K)
    after, predicted_after = before.clone(), clean.predicted.clone()
    after[right], predicted_after[right] = found.totals, found.predicted
    none = torch.full_like(clean.labels, -1)
    columns = run.threat.shape[1]
    kept = "scores" if isinstance(run.classifier, MaskedClassifier) else "votes"
    return {
        "predicted": clean.predicted,
        kept: before.amax(dim=1),
        **dict(zip(CERTIFIED[type(run.classifier)], clean.certified, strict=False)),
        "flipped": of_all(found.flipped, none > 0),
        "row": of_all(found.place.div(columns, rounding_mode="floor"), none),
        "column": of_all(found.place.where(~found.flipped, found.place % columns), none),
        "restart": of_all(found.restart, none),
        "step": of_all(found.step, none),
        "predicted_after": predicted_after,
        f"{kept}_after": after.amax(dim=1),
        f"{kept}_of_label_after": after.gather(1, clean.labels[:, None])[:, 0],
    }
