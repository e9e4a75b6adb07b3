"""Certifying a classifier on images that the caller has."""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from patchcert import distributed
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.data.given import require_classes
from patchcert.data.splits import spread
from patchcert.errors import require_count
from patchcert.interface.batches import Images, Part, parts_of, require_the_same
from patchcert.interface.certification import Answer, Certification
from patchcert.interface.examiners import SOON, Asked, OfVotes, OfWindows, examiner_of
from patchcert.patch import Patch
from patchcert.patch_sizes import Area
from patchcert.progress import progress_bar


def certify(
    classifier: SmoothedClassifier | WindowMaskedClassifier,
    images: Images,
    labels: Tensor | ArrayLike | None = None,
    patches: Patch | Area | Iterable[Patch | Area] | None = None,
    certificate: str | Iterable[str] | None = None,
    *,
    goal: str | Iterable[str] = "recover",
    confidence: str | float | Iterable[str | float] = "strict",
    at_once: int | None = None,
    numerical_margin: float | None = None,
    batch_size: int = 128,
) -> Certification:
    """Which answers of the classifier no patch can change: those that it gives by `predict`, by its own engine.

    A `MaskedClassifier` is certified by "masking", against the patches that it was made for, a `WindowMaskedClassifier`
    against all that its windows hide. Where processes of torch.distributed run, all of them call this with the same
    images, share them out and get the same answers.

    Args:
        classifier: computes on the device of its network.
        images: (N, C, H, W), floats in [0, 1], computed with as float32, or uint8. Or a DataLoader, or anything else
            that gives batches of such images, each alone or as (images, labels): it is read once, batch by batch.
        labels: (N,) whole numbers; without them there are certificates and no accuracies. Batches bring their own.
        patches: one or several, each a question of its own; an `Area` is every rectangle of so many pixels.
        certificate: "margin", "exact" or both; "exact" by default, which certifies whatever "margin" does.
        goal: "recover", the right class, or "alert", that or an alarm (class −1), or both. Alarms are of a
            `WindowMaskedClassifier`, or of a `MaskedClassifier` without a threshold.
        confidence: of alarms: "strict", any other class raises one, or τ, only another class with more confidence, or
            several of them.
        at_once: 2 for two such patches anywhere; where alarms can be raised, with goal "alert".
        numerical_margin: ν; votes this close to being decided otherwise are the adversary's, and where scores are added
            up, leads not above it. By default 0.0001 for votes and 0.001 for leads, a hundred times that where PyTorch
            may round to TF32 as it is set now, and ten times that where it, or the network by itself, computes in
            bfloat16 or float16; more where logits differed by more between batches. Besides, leads must exceed a small
            share of what was added up, see docs/threat-model.md.
        batch_size: ablated copies per call of the network; images, for networks of limited reach. A
            `WindowMaskedClassifier` has its own.

    Raises:
        ValueError: images, labels or the network are not such, or an argument is none of those above.
    """
    require_count("batch_size", batch_size, "copies, or images")
    asked = Asked(patches, certificate, goal, confidence, at_once, numerical_margin, batch_size)
    examiner = examiner_of(classifier, asked)
    parts = parts_of(images, labels, examiner.size)
    first = next(parts)
    some = next(spread(first.dataset, examiner.at_a_time).to(examiner.device).batches(examiner.at_a_time))[0]
    classes = examiner.begin(some, first.dataset.labels)
    started = time.perf_counter()
    labels, verdicts = _labels_and_verdicts(examiner, chain([first], parts), classes)
    seconds = time.perf_counter() - started
    known = labels if first.labelled else None
    answers = [
        Answer.of(patch, question, columns, known)
        for (patch, question), columns in zip(examiner.about(), verdicts, strict=True)
    ]
    config = {"script": "patchcert.certify", "classifier": type(classifier).__name__, **examiner.config()}
    return Certification(tuple(answers), known, seconds, config, examiner.arithmetic())


def _labels_and_verdicts(
    examiner: OfVotes | OfWindows, parts: Iterable[Part], classes: int
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The labels of all images, (N,), and for each question what is found of them, (N,) by name.

    Each process looks at its share of the images.
    """
    count, labels, found = 0, [], []
    with ExitStack() as shown:
        for dataset, _, expected in parts:
            if not count:
                bar = shown.enter_context(progress_bar(expected, "certifying", delay=SOON))
            require_classes(dataset.labels, classes)
            share = dataset.take(distributed.share(count)).to(examiner.device)
            for images, _ in share.batches(examiner.at_a_time) if len(share) else ():
                found.append(examiner.look(images))
                bar.update(len(images) * distributed.world())
            labels.append(dataset.labels.cpu())
            count += len(dataset)
    distributed.require_images(count)
    every_label = torch.cat(labels)
    require_the_same(every_label)
    merged = [
        {name: distributed.merge(torch.cat([rows[name] for rows in of_one]), count) for name in of_one[0]}
        for of_one in zip(*found, strict=True)
    ]
    return every_label, merged
