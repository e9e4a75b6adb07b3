"""What scripts start: an experiment as its parsed options describe it.

Options come from the parsers of `cli`; what is computed, from the modules that this one brings together.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from patchcert import checkpoint, distributed, results
from patchcert.attacks import attack, pictures
from patchcert.cli import RECIPE_OPTIONS, configuration
from patchcert.data import datasets
from patchcert.errors import BrokenCertificateError, UsageError, require_within
from patchcert.smoothing import batching, certificate, saved_votes, training, voting
from patchcert.smoothing.ablation import Ablation, Patch
from patchcert.smoothing.voting import Engine, VoteRule

CERTIFIED = ("certified_margin", "certified_exact")
"""Columns of attacks with a patch; attacks in a ball have no certificate."""


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
    train_set, test_set = (
        datasets.spread(_load(options, part), options.limit).to(options.device) for part in (True, False)
    )
    distributed.require_images(min(len(train_set), len(test_set)))
    recipe = replace(
        training.RECIPES[options.recipe],
        **{option: getattr(options, option) for option in RECIPE_OPTIONS},
        seed=options.seed,
        augmentations=augmentations,
    )
    path = checkpoint.FOLDER / name
    network.to(options.device)
    if ablation is not None:
        ablation.to(options.device)
    try:
        state = training.train(
            network, ablation, train_set, test_set, recipe, path, resumed, options.compile, _start(options, resumed)
        )
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the same command goes on after the last whole epoch") from stop
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
        if train and datasets.class_names(option, pictures) != datasets.class_names("valpath", options.valpath):
            raise UsageError(option, pictures, f"has other classes than {options.valpath}, expected the same folders")
        return datasets.PictureFolder(option, pictures, options.image_size, datasets.normalise_imagenet)
    if options.dataset != "folder":
        return datasets.load(options.dataset, options.data, train)
    return datasets.load_folder(options.data, train, options.image_size)


def _resumed(options: argparse.Namespace, network: nn.Module) -> dict | None:
    if options.resume is None:
        return None
    content = checkpoint.load_network("resume", checkpoint.find("resume", options.resume), network)
    if not isinstance(content.get("epoch"), int):
        raise UsageError("resume", options.resume, "expected a checkpoint of a training script, it has no epoch")
    if content["epoch"] >= options.end_epoch:
        right = f"expected a checkpoint before --end_epoch {options.end_epoch}, this one is at {content['epoch']}"
        raise UsageError("resume", options.resume, right)
    return content


def _start(options: argparse.Namespace, resumed: dict | None) -> str:
    """What tells the weights apart that training can begin with, but for those that the seed fixes."""
    if resumed is not None:
        return checkpoint.fingerprint(resumed["net"].values())
    return "torchvision's weights" if getattr(options, "pretrained", False) else "no checkpoint"


def certify(options: argparse.Namespace, ablation: Ablation, network: nn.Module, rules: list[VoteRule]) -> None:
    """Certify as the options of `certification_parser` say, for every patch size, vote rule and certificate.

    Images leave early unless something is reported that needs all votes.
    """
    _set_up(options)
    questions = _questions(options, rules)
    early = not (options.per_image or options.numerical_margin or options.save_votes)
    certifier = certificate.Certifier(ablation.to(options.device), questions)
    dataset, network = _prepare(options, network)
    engine = _engine(options, network, ablation, dataset)
    recorder = saved_votes.Recorder(ablation, rules)
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        _find_batch_size(options, engine, dataset, ablation, certifier)
        started = time.perf_counter()
        listener = recorder if options.save_votes else iter
        verdicts, classified = certificate.certify(engine, dataset, certifier, options.batch_size, listener, early)
    seconds = time.perf_counter() - started
    if options.save_votes:
        recorder.write(options.save_votes, dataset, configuration(options))
    copies = results.Copies(len(dataset) * ablation.count, classified, _close_votes(questions, verdicts))
    _report(options, dataset, [question.as_json() for question in questions], verdicts, seconds, copies)


def _close_votes(questions: list[certificate.Question], verdicts: list[certificate.Verdicts]) -> list[dict]:
    """One entry for each vote rule: how many copies have a vote within the numerical margin; none without one."""
    found = {q.ballot: int(v.close_votes.sum()) for q, v in zip(questions, verdicts, strict=True)}
    return [ballot.as_json() | {"close_votes": count} for ballot, count in found.items() if ballot.numerical_margin]


def certify_saved(options: argparse.Namespace, saved: saved_votes.SavedVotes, rules: list[VoteRule]) -> None:
    """Answer what the options of `votes_parser` ask of saved votes, as `certify` does with a network."""
    for rule in rules:
        saved.require(rule, options.numerical_margin)
    questions = _questions(options, rules)
    certifier = certificate.Certifier(saved.ablation, questions)
    saved = saved.first(options.limit or len(saved))
    started = time.perf_counter()
    verdicts = saved_votes.certify(saved, certifier)
    seconds = time.perf_counter() - started
    options.config_of_votes = saved.config
    count = len(saved) * saved.ablation.count
    copies = results.Copies(count, count, _close_votes(questions, verdicts))
    _report(options, saved, [question.as_json() for question in questions], verdicts, seconds, copies)


def _questions(options: argparse.Namespace, rules: list[VoteRule]) -> list[certificate.Question]:
    """Every combination of patch size, vote rule, certificate and numerical margin that the options ask for."""
    margins = dict.fromkeys((0.0, options.numerical_margin))
    combinations = product(options.size_to_certify, rules, options.certificate, margins)
    return [
        certificate.Question(patch, rule, kind, options.patches, margin) for patch, rule, kind, margin in combinations
    ]


def certify_randomized(options: argparse.Namespace, ablation: Ablation, network: nn.Module) -> None:
    """Certify by random samples as the options of `randomized_parser` say."""
    _set_up(options)
    for patch in options.attack_size:
        ablation.require_fits("attack_size", patch)
    most_touched = {patch: ablation.to(options.device).most_touched(patch) for patch in options.attack_size}
    dataset, network = _prepare(options, network)
    engine = _engine(options, network, ablation, dataset)
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        _find_batch_size(options, engine, dataset, ablation, use=list)
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


def _engine(options: argparse.Namespace, network: nn.Module, ablation: Ablation, dataset: datasets.Images) -> Engine:
    if options.compile and options.engine != "dense":
        raise UsageError("engine", options.engine, "torch.compile needs the whole network: give --engine dense too")
    if options.amp and options.engine == "windowed":
        network = network.to(torch.bfloat16)  # autocast alone would convert the weights again for every ablation
    return voting.engine(options.engine, network, ablation, 2 * dataset.channels)


def _find_batch_size(
    options: argparse.Namespace, engine: Engine, dataset: datasets.Images, ablation: Ablation, use: Callable
) -> None:
    """Replace `--batch_size auto` by the number that it stands for, the same in all processes."""
    if options.batch_size is None:
        share = dataset.take(distributed.share())
        options.batch_size = distributed.from_first(batching.fastest_batch_size(engine, share, ablation, use))
        if distributed.is_first():
            results.print_batch_size(options.batch_size)


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
    """Attack every correctly classified image, check the certificates that answer `questions`, report.

    Each process attacks its share of the images.
    """
    _set_up(options)
    dataset, _ = _prepare(options, network, options.skip)
    network.eval().requires_grad_(False)
    ascent = attack.Ascent(attack.LOSSES[options.loss], options.steps, options.step_size, options.momentum)
    started = time.perf_counter()
    with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
        clean = attack.look_at(classifier, dataset.take(distributed.share()), questions, options.batch_size)
        run = attack.Attack(classifier, threat, ascent, clean.targets(), options.seed, options.batch_size)
        try:
            search(run, restarts)
        except BrokenCertificateError as error:
            path = pictures.save_counterexample(run, error.number, options.save_images or Path("results"))
            raise BrokenCertificateError(error.number, f"{error}: the counterexample is in {path}") from error
        _report_attack(options, dataset, clean, run, time.perf_counter() - started)
        if options.save_images:
            _save_pictures(options, run)


def _prepare(options: argparse.Namespace, network: nn.Module, skip: int = 1) -> tuple[datasets.Images, nn.Module]:
    """The chosen images, every `skip`-th, and the network, filled, both on the device."""
    checkpoint.load_network("checkpoint", checkpoint.find("checkpoint", options.checkpoint), network)
    dataset = _load(options, train=False)
    if options.dataset == "imagenet":
        dataset = dataset.take(slice(options.skip // 2 if options.test else 0, None, options.skip))
    elif not options.all:
        dataset = datasets.choose_half(dataset, options.test, options.split_file)
    dataset = dataset.take(slice(None, None, skip)).take(slice(options.limit)).to(options.device)
    if not len(dataset):
        option = "valpath" if options.dataset == "imagenet" else "data"
        raise UsageError(option, getattr(options, option), "has too few images: none is left of this half")
    distributed.require_images(len(dataset))
    network.to(options.device)
    if options.compile:
        network.compile()
    return dataset, network


def _report(
    options: argparse.Namespace,
    dataset: datasets.Images | saved_votes.SavedVotes,
    questions: list[dict],
    verdicts: list[certificate.Verdicts],
    seconds: float,
    copies: results.Copies | None = None,
) -> None:
    if not distributed.is_first():
        return
    counts = [results.Counts.of(v.predicted, v.certified, dataset.labels) for v in verdicts]
    answers = list(zip(questions, counts, strict=True))
    _write_and_print(options, dataset, answers, [vars(v) for v in verdicts], seconds, copies)


def _write_and_print(
    options: argparse.Namespace,
    dataset: datasets.Images | saved_votes.SavedVotes,
    answers: list[tuple[dict, results.Counts | results.AttackCounts]],
    columns: list[dict[str, torch.Tensor]],
    seconds: float,
    copies: results.Copies | None = None,
) -> None:
    """Files first: printing may fail, to a pipe that nobody reads any more.

    Args:
        columns: (N,) tensors by name for the rows per image, for each of `answers`.
    """
    if options.output:
        results.write_json(results.run_record(answers, seconds, configuration(options), copies), options.output)
    if options.per_image:
        questions = [question for question, _ in answers]
        results.write_csv(results.image_rows(dataset, list(zip(questions, columns, strict=True))), options.per_image)
    results.print_answers(answers, seconds, copies)


def _report_attack(
    options: argparse.Namespace, dataset: datasets.Dataset, clean: attack.Clean, run: attack.Attack, seconds: float
) -> None:
    columns = {name: distributed.merge(part, len(dataset)) for name, part in _attack_columns(clean, run).items()}
    if not distributed.is_first():
        return
    right = columns["predicted"] == dataset.labels
    certified = [int((columns[name] & right).sum()) if name in columns else None for name in CERTIFIED]
    counts = results.AttackCounts(len(dataset), int(right.sum()), *certified, int((right & ~columns["flipped"]).sum()))
    _write_and_print(options, dataset, [({}, counts)], [columns], seconds)


def _save_pictures(options: argparse.Namespace, run: attack.Attack) -> None:
    pictures.save_flipped(run, options.save_images)
    flipped = run.findings.flipped
    still_wrong = flipped.clone()
    if flipped.any():
        rounded = pictures.to_bytes(run.findings.images[flipped]) / 255
        still_wrong[flipped] = run.classifier.predict(rounded, options.batch_size) != run.targets.labels[flipped]
    counts = [int(distributed.total(chosen.sum())) for chosen in (flipped, still_wrong)]
    if distributed.is_first() and counts[0]:
        results.print_pictures(options.save_images, *counts)


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
        **{name: v.certified for name, v in zip(CERTIFIED, clean.verdicts, strict=False)},
        "flipped": of_all(found.flipped, none > 0),
        "row": of_all(found.place.div(columns, rounding_mode="floor"), none),
        "column": of_all(found.place.where(~found.flipped, found.place % columns), none),
        "restart": of_all(found.restart, none),
        "step": of_all(found.step, none),
        "predicted_after": predicted,
        "votes_after": after.amax(dim=1),
        "votes_of_label_after": after.gather(1, clean.labels[:, None])[:, 0],
    }
