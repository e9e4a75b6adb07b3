"""Certifying a classifier on images that the caller has."""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from patchcert import distributed
from patchcert.arithmetic import require_nearest
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.data.given import require_classes
from patchcert.data.splits import spread
from patchcert.errors import require_count
from patchcert.interface.batches import Images, Part, Same, parts_of
from patchcert.interface.certification import Answer, Certification
from patchcert.interface.examiners import SOON, Asked, OfVotes, OfWindows, examiner_of
from patchcert.patch_sizes import PatchSize
from patchcert.progress import progress_bar


def certify(
    classifier: SmoothedClassifier | WindowMaskedClassifier,
    images: Images,
    labels: Tensor | ArrayLike | None = None,
    patches: PatchSize | Iterable[PatchSize] | None = None,
    certificate: str | Iterable[str] | None = None,
    *,
    goal: str | Iterable[str] = "recover",
    confidence: str | float | Iterable[str | float] = "strict",
    at_once: int | None = None,
    numerical_margin: float | None = None,
    batch_size: int = 128,
) -> Certification:
    """Find out which answers of a classifier no patch can change.

    The answers are those of `predict`, computed by the classifier's own engine. A `MaskedClassifier` is certified by
    "masking", against the patch that it was made for. A `WindowMaskedClassifier` is certified against any patch that
    its windows hide. Under torch.distributed, all processes must call this with the same images. They divide the work,
    and all get the same answers.

    Args:
        classifier: a classifier of this package. It computes on the device of its network.
        images: (N, C, H, W), floats in [0, 1], which become float32, or uint8. Or a DataLoader, or any other iterable
            of batches: of such images, or of (images, labels). Batches are read once, one after the other.
        labels: (N,) whole numbers. Without labels there are certificates, but no accuracies. Batches bring their own.
        patches: one or several. Each is a question of its own. An `Area` stands for all of its rectangles. A `Share`
            becomes a `Patch` of so large a share of these images' pixels.
        certificate: for votes: "exact", "margin" or both. "exact" is the default, and certifies everything that
            "margin" does.
        goal: "recover" certifies the right class. "alert" certifies the right class or an alarm (class −1). Or both.
            Only a `WindowMaskedClassifier`, or a `MaskedClassifier` without a threshold, can raise alarms.
        confidence: when an alarm is raised. "strict": if masked images get different classes. τ: if a masked image gets
            another class than the whole image, with a confidence above τ. Or several of these.
        at_once: 2 certifies against two such patches anywhere. With a classifier that can raise alarms, this needs goal
            "alert".
        numerical_margin: ν. A vote that would change if a probability changed by ν counts for the adversary. Where
            scores are added up, a lead must exceed ν. The default is 0.0001 for votes and 0.001 for leads. If PyTorch
            may round to TF32, it is a hundred times as large. If anything is computed in bfloat16 or float16, it is a
            thousand times as large. It is larger still if logits differed by more between batches. In addition, leads
            must exceed a small share of what was added up (docs/threat-model.md).
        batch_size: the number of ablated copies in a batch, or of images if the network has limited reach. A
            `WindowMaskedClassifier` has its own.

    Raises:
        ValueError: images, labels, the network or another argument is not valid.
        FloatingPointError: the network gives numbers that are not finite, or the processor does not round to nearest.
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
    count, labels, found, same = 0, [], [], Same(examiner.classifier)
    same.require()
    with ExitStack() as shown:
        for dataset, _, expected in parts:
            require_nearest()  # whatever was imported to read the images
            if not count:
                bar = shown.enter_context(progress_bar(expected, "certifying", delay=SOON))
            require_classes(dataset.labels, classes)
            share = dataset.take(distributed.share(count)).to(examiner.device)
            for images, _ in share.batches(examiner.at_a_time) if len(share) else ():
                found.append(examiner.look(images))
                bar.update(len(images) * distributed.world())
            same.note(dataset.images, dataset.labels)
            labels.append(dataset.labels.cpu())
            count += len(dataset)
    distributed.require_images(count)
    same.require()
    every_label = torch.cat(labels)
    merged = [
        {name: distributed.merge(torch.cat([rows[name] for rows in of_one]), count) for name in of_one[0]}
        for of_one in zip(*found, strict=True)
    ]
    return every_label, merged
