"""Certifying a classifier on images that the caller has."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from patchcert import distributed, networks, results
from patchcert.arithmetic import coarsest, processor
from patchcert.classifiers.modules import MaskedClassifier, SmoothedClassifier
from patchcert.classifiers.probing import Manner, class_count, manner_of, note_numerical_margin
from patchcert.data.dataset import Dataset
from patchcert.data.given import given, require_classes
from patchcert.engines import asking
from patchcert.engines.asking import Engine
from patchcert.errors import UsageError, called, require_count, require_number, require_within
from patchcert.interface.certification import Answer, Certification
from patchcert.masking.double_masking import MaskedVerdicts
from patchcert.patch import Patch
from patchcert.progress import progress_bar
from patchcert.votes import certificate as votes
from patchcert.votes.certificate import Certifier, Question, Verdicts

T = TypeVar("T")


def certify(
    classifier: SmoothedClassifier,
    images: Tensor | ArrayLike,
    labels: Tensor | ArrayLike | None = None,
    patches: Patch | Iterable[Patch] | None = None,
    certificate: str | Iterable[str] | None = None,
    *,
    at_once: int | None = None,
    numerical_margin: float | None = None,
    batch_size: int = 128,
) -> Certification:
    """Which answers of the classifier no patch can change: those that it gives by `predict`, by its own engine.

    A `MaskedClassifier` is certified by "masking", against the patches that it was made for. Where processes of
    torch.distributed run, all of them call this with the same images, share them out and get the same answers.

    Args:
        classifier: computes on the device of its network.
        images: (N, C, H, W), floats in [0, 1], computed with as float32, or uint8.
        labels: (N,) whole numbers; without them there are certificates and no accuracies.
        patches: one or several, each a question of its own.
        certificate: "margin", "exact" or both; "exact" by default, which certifies whatever "margin" does.
        at_once: 2 for two such patches anywhere.
        numerical_margin: ν; votes this close to being decided otherwise are the adversary's, and where scores are added
            up, leads not above it. By default 0.0001 for votes and 0.001 for leads, a hundred times that where PyTorch
            may round to TF32 as it is set now, and ten times that where it, or the network by itself, computes in
            bfloat16 or float16; more where logits differed by more between batches. Besides, leads must exceed a small
            share of what was added up, see docs/threat-model.md.
        batch_size: ablated copies per call of the network; images, for networks of limited reach.

    Raises:
        ValueError: images, labels or the network are not such, or an argument is none of those above.
    """
    if not isinstance(classifier, SmoothedClassifier):
        right = "expected a SmoothedClassifier or MaskedClassifier"
        raise UsageError("classifier", type(classifier).__name__, right)
    require_count("batch_size", batch_size, "copies, or images")
    questions = _questions(classifier, patches, certificate, at_once, numerical_margin)
    ablation, device = classifier.ablation, _device(classifier.network)
    dataset = given(images, labels, (ablation.height, ablation.width)).to(device)
    distributed.require_images(len(dataset))
    share = dataset.take(distributed.share())
    first = next(share.batches(batch_size))[0]
    require_classes(dataset.labels, class_count(classifier, first[:1]))
    base = classifier.engine(first)
    manner = distributed.from_first(manner_of(classifier, base, first, batch_size))
    margin = _margin(classifier, manner, device) if numerical_margin is None else float(numerical_margin)
    questions = [replace(question, numerical_margin=margin, arithmetic=manner.arithmetic) for question in questions]
    started = time.perf_counter()
    verdicts: Sequence[Verdicts | MaskedVerdicts]
    if isinstance(classifier, MaskedClassifier):
        verdicts = _masked(classifier, base, dataset, questions, batch_size)
    else:
        with called(size_to_certify="patches", patches="at_once"):
            certifier = Certifier(ablation, questions)
        verdicts, _ = votes.certify(base, dataset, certifier, batch_size)
    seconds = time.perf_counter() - started
    known = None if labels is None else dataset.labels.cpu()
    answers = [
        Answer.of(question.patch, question.as_json(), vars(verdict), known)
        for question, verdict in zip(questions, verdicts, strict=True)
    ]
    config = {
        "script": "patchcert.certify",
        "classifier": type(classifier).__name__,
        "network": networks.description(classifier.network),
        "ablation": ablation.description(),
        "engine": type(base).__name__,
        "batch_size": batch_size,
    }
    arithmetic = results.computed_with(manner.arithmetic, asking.name_of(base), [processor(device)])
    return Certification(tuple(answers), known, seconds, config, arithmetic)


def _questions(
    classifier: SmoothedClassifier,
    patches: Patch | Iterable[Patch] | None,
    certificate: str | Iterable[str] | None,
    at_once: int | None,
    numerical_margin: float | None,
) -> list[Question]:
    """Every combination of patch and certificate.

    Raises:
        ValueError: the classifier has no such certificate, or is not made for such patches.
    """
    if numerical_margin is not None:
        require_number("numerical_margin", numerical_margin, 0, math.inf)
    asked = _several("patches", patches, Patch, "expected a Patch(height, width), or several")
    kinds = _several("certificate", certificate, str, "expected the name of one, or several")
    if isinstance(classifier, MaskedClassifier):
        return [_masked_question(classifier, asked, kinds, at_once, float(numerical_margin or 0))]
    if not asked:
        raise UsageError("patches", patches, "expected a Patch(height, width), or several")
    if at_once is not None:
        require_within("at_once", at_once, 1, 2, "patches at the same time")
    if not set(kinds) <= {"margin", "exact"}:
        right = "expected margin or exact; masking is a MaskedClassifier's"
        raise UsageError("certificate", ", ".join(kinds), right)
    return [
        Question(patch, classifier.rule, kind, at_once or 1, float(numerical_margin or 0))
        for patch in asked
        for kind in kinds or ["exact"]
    ]


def _several(name: str, given: T | Iterable[T] | None, kind: type[T], right: str) -> list[T]:
    """What was given for the argument `name`: one of its kind, several or none; UsageError if it is something else."""
    if given is None:
        return []
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, kind) else [given]
    if not all(isinstance(one, kind) for one in found):
        raise UsageError(name, given, right)
    return found


def _masked_question(
    classifier: MaskedClassifier, patches: list[Patch], kinds: list[str], at_once: int | None, margin: float
) -> Question:
    """The one that can be asked of it.

    Raises:
        ValueError: another one is.
    """
    if not set(kinds) <= {"masking"}:
        raise UsageError("certificate", ", ".join(kinds), "a MaskedClassifier is certified by masking alone")
    patch, count = classifier.patch, classifier.at_once
    if not set(patches) <= {patch} or at_once not in (None, count):
        asked = f"patches {', '.join(map(str, patches or [patch]))}, {at_once or count} at once"
        right = f"the answers of this classifier are about {count} of {patch}; make another one for others"
        raise ValueError(f"{asked}: {right}")
    return Question(patch, None if classifier.scores else classifier.rule, "masking", count, margin)


def _margin(classifier: SmoothedClassifier, manner: Manner, device: torch.device) -> float:
    """ν where the caller names none; with a note where it is more than PyTorch's settings let expect."""
    of_scores = isinstance(classifier, MaskedClassifier) and classifier.scores
    expected = replace(manner, arithmetic=coarsest(device), apart=0.0)
    margin = manner.margin(of_scores)
    if margin > expected.margin(of_scores):
        note_numerical_margin(margin, manner)
    return margin


def _device(network: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))


@torch.no_grad()
def _masked(
    classifier: MaskedClassifier, engine: Engine, dataset: Dataset, questions: list[Question], batch_size: int
) -> list[MaskedVerdicts]:
    """Those on the images of `dataset` for each question, which differ by their numerical margin alone."""
    parts: list[list[MaskedVerdicts]] = []
    with progress_bar(len(dataset), "masking") as bar:
        for images, _ in dataset.take(distributed.share()).batches(batch_size):
            for logits in classifier.every_copy(images, batch_size, engine):
                parts.append(classifier.verdicts(logits, questions))
            bar.update(len(images) * distributed.world())
    return [MaskedVerdicts.concatenate(answers).merged(len(dataset)) for answers in zip(*parts, strict=True)]
