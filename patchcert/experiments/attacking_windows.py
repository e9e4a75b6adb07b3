"""Attacking a network that somebody pretrained, as it is, under hidden windows, as options describe it."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from patchcert import distributed, messages, results
from patchcert.ablations.ablation import Whole
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.attacks import pictures
from patchcert.attacks.ascent import Findings
from patchcert.attacks.targets import Targets
from patchcert.attacks.threats import PatchThreat
from patchcert.attacks.windows import Effort, WindowAttack
from patchcert.classifiers import window_goals
from patchcert.classifiers.window_goals import ALERT, RECOVER, Goal
from patchcert.classifiers.window_masked import OneImageAsked, WindowMaskedClassifier
from patchcert.cli import Parser
from patchcert.data.folders import Images
from patchcert.errors import BrokenCertificateError, called
from patchcert.experiments import summaries
from patchcert.experiments.attacking import add_climbing
from patchcert.experiments.evaluation import evaluation_parser, journal_of, write_and_print
from patchcert.experiments.hints import Hints, hint_columns
from patchcert.experiments.masking import settle_numerical_margin
from patchcert.experiments.pretrained import add_pretrained, fold, pretrained, refuse_compiling
from patchcert.experiments.setting import ANY, set_up
from patchcert.experiments.windows import add_hidden_windows, chosen, require_least_margin
from patchcert.files import what_fits
from patchcert.journal import Journal
from patchcert.option_values import alarm_threshold, one_patch_size, positive_int
from patchcert.progress import progress_bar


def windows_attack_parser(description: str) -> Parser:
    """The options of attacking any network under hidden windows."""
    parser = evaluation_parser(description, ANY, skip=10, report=False)
    parser.set_defaults(dataset="folder", all=True)
    add_pretrained(parser)
    parser.attack.add_argument(
        "--size_of_attack",
        type=one_patch_size,
        default="2%",
        help="the patch: 32, 2x8 (rows × columns) or 2%% of the pixels; the windows are made to cover it",
    )
    parser.attack.add_argument(
        "--randomizations",
        type=positive_int,
        default=5,
        help="number of restarts; the first is at the pair of windows that is nearest to failing",
    )
    add_climbing(parser, steps=30, step_size="0.07", momentum=0.9, loss="margin")
    add_hidden_windows(parser)
    parser.certificate.add_argument(
        "--goal",
        choices=(RECOVER, ALERT),
        default=RECOVER,
        help="what is attacked: recover, the right class; alert, the right class or an alarm",
    )
    parser.certificate.add_argument(
        "--confidence",
        type=alarm_threshold,
        default="strict",
        metavar="TAU",
        help="when an alarm is raised: strict, if masked images get different classes; a number τ, if a masked "
        "image gets another class than the whole image, with a confidence above τ",
    )
    return parser


def attack_windows(options: argparse.Namespace) -> None:
    """Attack as the options of `windows_attack_parser` say, each process its share of the images."""
    refuse_compiling(options)
    nobody_named_it = options.numerical_margin is None
    settle_numerical_margin(options)
    set_up(options)
    network, dataset, _ = pretrained(options)
    height, width = dataset.image_shape[1:]
    with called(patch="size_of_attack"):
        windows = HiddenWindows.for_patch(height, width, options.size_of_attack, options.per_side)
    threat = PatchThreat(options.size_of_attack, Whole(height, width))
    options.size_of_attack = threat.patch.size
    dataset = chosen(options, dataset)
    network = network.to(options.device).requires_grad_(False)
    classifier = WindowMaskedClassifier(network, windows, batch_size=options.batch_size)
    run = _Run(options, classifier, threat)
    with journal_of(options, network, dataset) as journal:
        engine = fold(options, network, dataset)
        precision = require_least_margin(options, classifier, dataset, nobody_named_it)
        found = run.over(dataset, journal)
        columns = {
            name: distributed.merge(torch.cat([piece["row"][name] for piece in found]), len(dataset))
            for name in found[0]["row"]
        }
        flipped = [piece["flipped"] for piece in found if piece["flipped"]]
        run.require_certificates_hold(flipped)
        with what_fits() as attempt:
            arithmetic = results.computed_with(precision, engine, journal.processors)
            if distributed.is_first():
                attempt(_report, options, windows, threat, dataset, columns, journal.seconds(), arithmetic)
            if options.save_images:
                attempt(_save, options, run, flipped)


class _Run:
    """The attack on one image after the other, and what certificates say of each."""

    def __init__(self, options: argparse.Namespace, classifier: WindowMaskedClassifier, threat: PatchThreat):
        self.options, self.classifier, self.threat = options, classifier, threat
        self.goal = Goal(options.goal, options.confidence if options.goal == ALERT else None)
        effort = Effort(options.randomizations, options.steps, options.step_size, options.momentum, options.loss)
        alarms = options.goal == ALERT
        decide = self._outputs if alarms else classifier.predict
        self.attack = WindowAttack(classifier, threat, effort, decide, options.seed, alarms)
        self.covering = classifier.windows.covering(threat.patch).flatten(1)  # (M, L)

    def over(self, dataset: Images, journal: Journal) -> list[dict]:
        """What is found of each image of this process's share: a `row`, and what it was `flipped` to, if it was."""
        indices, found = dataset.take(distributed.share()).indices.tolist(), []

        def look(image: Tensor, label: Tensor) -> dict:
            return self._look(image, int(label), indices[len(found)])

        with progress_bar(len(dataset), "attacking") as bar:
            for piece, _ in journal.over(dataset, 1, look):
                found.append(piece)
                bar.update(distributed.world())
                bar.set_postfix_str(f"{sum(bool(piece['flipped']) for piece in found)} flipped")
        return found

    def _look(self, image: Tensor, label: int, index: int) -> dict:
        """What is found of one `image` (1, C, H, W), whose `index` is its place in the data set."""
        with torch.autocast(self.options.device.type, torch.bfloat16, enabled=self.options.amp):
            asked = OneImageAsked(self.classifier)
            seen = window_goals.look(asked, image, [self.goal], self.options.numerical_margin)
            before = self.goal.rows(seen, self.options.numerical_margin)
            row = {name: before[name] for name in ("predicted", "certified")}
            none = torch.full((1,), -1)
            row |= {"flipped": none > 0, "predicted_after": row["predicted"]}
            row |= dict.fromkeys(("row", "column", "restart"), none)
            nowhere = torch.zeros(1, self.classifier.windows.count, dtype=torch.bool)
            row |= {"attacked": none > 0} | hint_columns(nowhere, self.covering, none)
            if int(row["predicted"]) != label:
                return {"row": row, "flipped": {}}
            attempt = self.attack(image[0], label, index, asked)
            _, dissenting = self.classifier.predict(attempt.image[None], where=True)
        row |= {"attacked": none < 0} | hint_columns(dissenting, self.covering, torch.tensor([attempt.place]))
        if not attempt.flipped:
            return {"row": row, "flipped": {}}
        top, left, _, _ = self.threat.rectangle(attempt.place)
        numbers = {"predicted_after": attempt.predicted, "row": top, "column": left, "restart": attempt.restart}
        row |= {"flipped": none < 0, **{name: torch.tensor([number]) for name, number in numbers.items()}}
        kept = {"clean": image[0].cpu(), "attacked": attempt.image.cpu(), "place": attempt.place}
        return {"row": row, "flipped": kept | {"index": index, "label": label, "row": row}}

    def _outputs(self, images: Tensor) -> Tensor:
        """(N,): what the defence with alarms answers."""
        return self.goal.rows(window_goals.look(self.classifier, images, [self.goal], 0.0), 0.0)["predicted"]

    def require_certificates_hold(self, flipped: list[dict]) -> None:
        """Raise BrokenCertificateError if an image that is certified is among those `flipped`; it is kept in a file."""
        for number, one in enumerate(flipped):
            if one["row"]["certified"]:
                folder = self.options.save_images or Path("results")
                path = pictures.save_counterexample(self.pictured(flipped), number, folder)
                text = f"image {one['index']} is certified, and was flipped: the counterexample is in {path}"
                raise BrokenCertificateError(number, text)

    def pictured(self, flipped: list[dict]) -> pictures.Pictured:
        """What images are drawn of."""
        clean, attacked = (torch.stack([one[name] for one in flipped]) for name in ("clean", "attacked"))
        labels, indices, places = (torch.tensor([one[name] for one in flipped]) for name in ("label", "index", "place"))
        answers, certified, predicted, restarts = (
            torch.cat([one["row"][name] for one in flipped])
            for name in ("predicted", "certified", "predicted_after", "restart")
        )
        targets = Targets(clean, labels, indices, answers, certified)
        steps = torch.full_like(labels, self.options.steps)
        findings = Findings(labels >= 0, attacked, predicted, predicted, places, restarts, steps)
        return pictures.Pictured(targets, findings, self.threat)


def _report(
    options: argparse.Namespace,
    windows: HiddenWindows,
    threat: PatchThreat,
    dataset: Images,
    columns: dict[str, Tensor],
    seconds: float,
    arithmetic: dict,
) -> None:
    right = columns["predicted"] == dataset.labels.cpu()
    held, attacked = columns["certified"] & right, right & ~columns["flipped"]
    counts = results.AttackCounts(len(dataset), int(right.sum()), int(held.sum()), None, int(attacked.sum()))
    question = {"numerical_margin": options.numerical_margin, "windows": str(windows), "goal": options.goal}
    question["confidence"] = options.confidence if options.goal == ALERT else None
    hints = Hints.of(columns["attacked"], columns)
    about = summaries.of_window_attack(options, len(dataset), windows, threat)
    write_and_print(options, about, dataset, [(question, counts)], [columns], seconds, arithmetic, hints)


def _save(options: argparse.Namespace, run: _Run, flipped: list[dict]) -> None:
    """Write images of what flipped in this process; say how many in all, and what rounding them undid."""
    undone = 0
    if flipped:
        pictured = run.pictured(flipped)
        pictures.save_flipped(pictured, options.save_images)
        rounded = (pictures.to_bytes(pictured.findings.images) / 255).to(options.device)
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
            answers = run.attack.decide(rounded)
        undone = int((answers == pictured.targets.labels).sum())
    count, undone = (int(distributed.total(torch.tensor(number))) for number in (len(flipped), undone))
    if distributed.is_first() and count:
        messages.print_pictures(options.save_images, count, count - undone)
