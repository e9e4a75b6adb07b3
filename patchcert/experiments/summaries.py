"""What a run is about, in one line above its numbers: images, defence, adversary, certificate."""

import argparse
from collections.abc import Iterable, Sequence

from patchcert.ablations.ablation import Ablation
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.attacks.threats import Threat
from patchcert.classifiers.masked import MaskedClassifier
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.engines.dropped_tokens import DROP
from patchcert.errors import one_line
from patchcert.experiments.networks import Part
from patchcert.patch import Patch
from patchcert.patch_sizes import PatchSize, described, in_words
from patchcert.votes.certificate import Question
from patchcert.votes.rules import VoteRule

GOALS = {"recover": "double masking", "alert": "alarms (one on a clean image is an error)"}
"""What is certified of hidden windows."""

LISTED = 8
"""Values that are named one by one."""


def of_certificates(
    config: dict, count: int, ablation: Ablation, sizes: Sequence[PatchSize], questions: Sequence[Question]
) -> str:
    """What deterministic certificates were asked for.

    Args:
        config: the options by name, of the run that looked at the images.
        count: N, of the images.
        sizes: what the questions are about, as it was asked for.
    """
    rules, kinds, margins = (
        list(dict.fromkeys(getattr(question, name) for question in questions))
        for name in ("rule", "certificate", "numerical_margin")
    )
    close = [f"numerical margin {_listed([margin for margin in margins if margin])}"] if any(margins) else []
    certificate = f"{' and '.join(kinds)} certificate{'s' if len(kinds) > 1 else ''}"
    two = "two patches, each" if questions[0].patches == 2 else "patch"
    return "; ".join(
        [
            _images(config, count),
            _defence(ablation, rules),
            f"{two} {_sizes(sizes, ablation)}",
            certificate,
            *close,
            *_dropped(config),
        ]
    )


def of_question(question: dict) -> str:
    """One question of a run, from what `--output` says of it."""
    size = in_words(question.get("size_to_certify", question.get("attack_size")))
    parts = [f"{'two patches, each' if question.get('patches') == 2 else 'patch'} {size}"]
    if question.get("threshold") is not None:
        parts.append(f"θ = {question['threshold']}")
    if "goal" in question:
        parts.append(of_goal(question))
    parts.append(f"{question.get('certificate', 'randomized')} certificate")
    if question.get("numerical_margin"):
        parts.append(f"numerical margin {question['numerical_margin']}")
    return ", ".join(parts)


def of_goal(question: dict) -> str:
    """What a question demands of the answer: the right class, or that class or an alarm by which rule."""
    if question["goal"] == "recover":
        return "recovery"
    rule = "strict" if question.get("confidence") is None else f"τ = {question['confidence']:g}"
    return f"alarms, {rule}"


def of_randomized(options: argparse.Namespace, count: int, ablation: Ablation) -> str:
    """What certificates by random samples, of `count` images, were asked for."""
    samples = f"{options.predsamples} samples pick the class, {options.boundsamples} bound its share"
    return "; ".join(
        [
            _images(vars(options), count),
            f"{ablation}, top-one votes",
            f"patch {_listed(map(_sides, options.attack_size))}",
            f"randomized certificate, α = {options.alpha}, {samples}",
        ]
    )


def of_masking(options: argparse.Namespace, count: int, parts: Sequence[Part]) -> str:
    """What certificates by double masking of scores, of `count` images, were asked for."""
    two = "two patches, each" if options.patches == 2 else "patch"
    asked = [
        [_masked(part.ablation, getattr(part.network, "mirrored", False)), f"{two} {_sizes(part.sizes, part.ablation)}"]
        for part in parts
    ]
    return "; ".join(
        [
            _images(vars(options), count),
            *(text for part in asked for text in part),
            f"masking certificate, numerical margin {options.numerical_margin}",
            *_dropped(vars(options)),
        ]
    )


def of_windows(options: argparse.Namespace, count: int, windows: dict[PatchSize, HiddenWindows]) -> str:
    """What certificates of `count` images by hidden windows were asked for."""
    two = "two patches, each" if options.patches == 2 else "patch"
    goals = " and ".join(words for goal, words in GOALS.items() if goal in options.goal)
    sizes = [f"{size.size} ({_listed(map(_sides, hidden.shapes))}, {hidden})" for size, hidden in windows.items()]
    return "; ".join(
        [
            _images(vars(options), count),
            f"{two} {', '.join(sizes)}",
            f"{goals}, numerical margin {options.numerical_margin}",
            *_dropped(vars(options)),
        ]
    )


def of_attack(
    options: argparse.Namespace, count: int, classifier: SmoothedClassifier, threat: Threat, restarts: int
) -> str:
    """What `count` images are attacked by."""
    searched = {"random": " at random places", "all": " at places coarse to fine", "weak": " at the weakest places"}
    where = searched.get(getattr(options, "locations", None), "")
    effort = f"{restarts} restart{'s' if restarts > 1 else ''} × {options.steps} steps, {options.loss} loss"
    held_against = []
    if isinstance(classifier, MaskedClassifier):
        defence = _masked(classifier.ablation, getattr(classifier.network, "mirrored", False))
        held_against = [f"masking certificate, numerical margin {options.numerical_margin}"]
    else:
        defence = _defence(classifier.ablation, [classifier.rule])
        if where and classifier.ablation.count > 1:
            held_against = ["margin and exact certificates"]
    asked = [_images(vars(options), count), defence, f"{threat}{where}, {effort}", *held_against]
    return "; ".join([*asked, *_dropped(vars(options))])


def of_window_attack(options: argparse.Namespace, count: int, windows: HiddenWindows, threat: Threat) -> str:
    """What `count` images under hidden windows are attacked by."""
    alarms = "alarms, strict" if options.confidence is None else f"alarms, τ = {options.confidence}"
    defence = "double masking" if options.goal == "recover" else alarms
    effort = f"{options.randomizations} restarts × {options.steps} steps, {options.loss} loss"
    return "; ".join(
        [
            _images(vars(options), count),
            f"{windows}, {defence}",
            f"{threat} where windows come nearest to failing, {effort}",
            f"masking certificate, numerical margin {options.numerical_margin}",
            *_dropped(vars(options)),
        ]
    )


def _images(config: dict, count: int) -> str:
    """Data set, part of it and number of images."""
    named = f"folder {config['data']}" if config["dataset"] == "folder" and config.get("data") else config["dataset"]
    which = {"original": " (original images)", "copies": " (not the original images)"}
    parts = [one_line(named) + which.get(config.get("pictures"), ""), _part(config)]
    if (config.get("skip") or 1) > 1:
        parts.append(f"one image in {config['skip']}")
    if config.get("per_class"):
        parts.append(f"the first {config['per_class']} of each class")
    first = "the first " if config.get("limit") == count else ""
    return f"{', '.join(parts)}: {first}{count} image{'s' if count > 1 else ''}"


def _part(config: dict) -> str:
    half = "test" if config.get("test") else "validation"
    if config["dataset"] == "imagenet":
        return f"{half} images, from number {(config.get('skip') or 1) // 2 if config.get('test') else 0} on"
    if config.get("all"):
        return "both halves"
    return f"{half} half" + (f" of {one_line(config['split_file'])}" if config.get("split_file") else "")


def _dropped(config: dict) -> list[str]:
    """That tokens are dropped, where they are: another classifier than the one that is shown hidden pixels painted."""
    return ["tokens of hidden patches dropped, not painted"] if config.get("hidden") == DROP else []


def _masked(ablation: Ablation, mirrored: bool) -> str:
    of_mirrored = " and those of mirror images" if mirrored else ""
    return f"{ablation}, double masking of their scores{of_mirrored}"


def _defence(ablation: Ablation, rules: Sequence[VoteRule]) -> str:
    """The copies that vote, and how they do."""
    if ablation.count == 1:
        return str(ablation)
    thresholds = [rule.threshold for rule in rules if hasattr(rule, "threshold")]
    return f"{ablation}, " + (f"θ = {_listed(thresholds)}" if thresholds else "top-one votes")


def _sizes(sizes: Sequence[PatchSize], ablation: Ablation) -> str:
    """What patches of images are as large as the copies of `ablation`."""
    return _listed(described(size, ablation.height, ablation.width) for size in dict.fromkeys(sizes))


def _sides(patch: Patch) -> str:
    return in_words(patch.size)


def _listed(values: Iterable[object]) -> str:
    """All of few values; of many the first two and the last."""
    shown = list(map(str, values))
    return ", ".join(shown if len(shown) <= LISTED else [*shown[:2], "…", shown[-1]])
