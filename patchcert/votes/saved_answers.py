"""What a network answered to images with hidden windows, in one file; docs/votes-format.md says how others write it.

For each question that was asked, a file holds the class, its lead, its confidence and the largest magnitude among the
logits. From these, every certificate by the same windows follows as in the run that asked: of recovery, or of alarms by
either rule, against one patch or two, of every size that the windows hide. What was not asked is not there.
"""

from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from patchcert import result_format
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.arithmetic import RELATIVE_MARGINS
from patchcert.data.folders import Images
from patchcert.errors import UsageError
from patchcert.inputs import InputError
from patchcert.masking.answers import Answers
from patchcert.masking.noted import count_of
from patchcert.option_values import patch_sizes
from patchcert.patch_sizes import PatchSize, shapes
from patchcert.votes import archives
from patchcert.votes.archives import Ragged

KIND, FORMAT = "windows", 1

WHOLE = 0
"""The number of the question about the whole image; those about windows come after it, family by family."""

LARGEST = 1e30
"""Magnitude of a logit, so that nothing overflows."""

TOLERANCE = 1e-3
"""By how much a confidence misses what the lead allows at most, for rounding of float32."""

MOST_QUESTIONS = 1 << 24
"""About an image, those that were not asked included."""


@dataclass(frozen=True)
class Asked(Ragged):
    """All answers about N images; E were given.

    Attributes:
        counts: (N,) int64, so many about each image.
        questions: (E,) int32, their numbers, ascending: `WHOLE`, then family by family those of `noted`.
        classes: (E,) int32, of the largest logit, the lowest index among equals.
        leads: (E,) float32, that logit less the next largest.
        confidences: (E,) float32, its softmax probability.
        magnitudes: (E,) float32, the largest magnitude among the logits.
    """

    counts: Tensor
    questions: Tensor
    classes: Tensor
    leads: Tensor
    confidences: Tensor
    magnitudes: Tensor

    @classmethod
    def of(cls, images: Sequence[Answers], precision: str) -> Self:
        """Of N images, each with all answers (Q,), computed in this `precision`, of `RELATIVE_MARGINS`."""
        numbers = [(answers.classes >= 0).nonzero().flatten() for answers in images]
        given = Answers.concatenate([answers[some] for answers, some in zip(images, numbers, strict=True)])
        magnitudes = given.shares / RELATIVE_MARGINS[precision]  # a power of two: nothing is rounded
        counts = torch.tensor([len(some) for some in numbers])
        return cls(counts, torch.cat(numbers).int(), given.classes.int(), given.gaps, given.confidences, magnitudes)

    def answers(self, precision: str) -> Answers:
        """All E of them."""
        shares = RELATIVE_MARGINS[precision] * self.magnitudes
        return Answers(self.classes.long(), self.leads, self.confidences, shares)


@dataclass(frozen=True)
class Family:
    """Windows that hold patches of a size, and where the questions about them begin.

    Attributes:
        size: as it was asked for.
        first: the number of the first question.
    """

    size: PatchSize
    windows: HiddenWindows
    first: int

    @property
    def questions(self) -> slice:
        return slice(self.first, self.first + count_of(self.windows.count))


@dataclass(frozen=True)
class SavedAnswers:
    """The content of a file of answers.

    Attributes:
        class_count: K.
        numerical_margin: ν of the run that wrote it.
        config: the script that wrote the file and its options.
        arithmetic: what the answers were computed with, see `results.computed_with`.
        indices, labels: (N,) int64, see `dataset.Dataset`.
    """

    families: list[Family]
    class_count: int
    numerical_margin: float
    config: dict
    arithmetic: dict
    indices: Tensor
    labels: Tensor
    asked: Asked

    @classmethod
    def of_run(
        cls, asked: Asked, dataset: Images, windows: dict[PatchSize, HiddenWindows], class_count: int, config: dict,
        arithmetic: dict,
    ) -> Self:  # fmt: skip
        """What a run asked about the images of `dataset`; see `write`."""
        families = _one_after_another(windows.items())
        of_images = dataset.indices, dataset.labels.cpu(), asked
        return cls(families, class_count, config["numerical_margin"], config, arithmetic, *of_images)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: slice | Tensor) -> Self:
        """Those about some images; numbers of them (n,) ascend."""
        return replace(self, indices=self.indices[chosen], labels=self.labels[chosen], asked=self.asked.take(chosen))

    def batches(self, batch_size: int) -> Iterator[tuple[Self, Tensor]]:
        """Yield the answers about so many images at a time, and their labels (B,)."""
        for start in range(0, len(self), batch_size):
            part = self.take(slice(start, start + batch_size))
            yield part, part.labels

    def images(self) -> Iterator[Answers]:
        """Yield all answers (Q,) about each image, of which some were not given."""
        total, start = _question_count(self.families), 0
        answers, numbers = self.asked.answers(_margins_of(self.arithmetic)), self.asked.questions.long()
        for count in self.asked.counts.tolist():
            some, found = slice(start, start + count), Answers.none(total)
            found.put(numbers[some], answers[some])
            yield found
            start += count

    def family(self, size: PatchSize) -> Family:
        """Windows that hold patches of this size: those made for it, or else those that hide least.

        Raises:
            UsageError: there are none.
        """
        kinds = [family.windows for family in self.families]
        wanted = shapes(size, kinds[0].height, kinds[0].width)
        made_for = [family for family in self.families if set(family.windows.shapes) == set(wanted)]
        if made_for:
            return made_for[0]
        held = [family for family in self.families if all(family.windows.holds(patch) for patch in wanted)]
        if not held:
            made = ", ".join(str(family.size.size) for family in self.families)
            raise UsageError("size_to_certify", size.size, f"no windows of this file cover it; they are for {made}")
        smallest = min(held, key=lambda family: family.windows.most_hidden())
        windows = HiddenWindows(kinds[0].height, kinds[0].width, smallest.windows.rectangles, wanted)
        return replace(smallest, windows=windows)

    def require_sound(self) -> None:
        """Raise InputError, which says what is wrong, unless the arrays are such as `write` makes them."""
        counts, questions, classes, leads, confidences, magnitudes = vars(self.asked).values()
        count, most = len(self.labels), _question_count(self.families)
        archives.require_images(self.labels, self.indices, self.class_count)
        archives.require_array("counts", counts, torch.int64, (count,), 1, most)
        total = (int(counts.sum()),)
        archives.require_array("questions", questions, torch.int32, total, 0, most - 1)
        image = torch.arange(count).repeat_interleave(counts)
        if not ((image * most + questions).diff() > 0).all():
            raise InputError("questions are not in ascending order for each image")
        always = torch.zeros(most, dtype=torch.bool)
        always[WHOLE] = True
        for family in self.families:
            always[family.first : family.first + family.windows.count] = True
        if int(always[questions.long()].sum()) < count * int(always.sum()):
            raise InputError("for some image, the answer for the whole image or for one hidden window is missing")
        archives.require_array("classes", classes, torch.int32, total, 0, self.class_count - 1)
        archives.require_array("leads", leads, torch.float32, total, 0, 2 * LARGEST)
        archives.require_array("magnitudes", magnitudes, torch.float32, total, 0, LARGEST)
        archives.require_array("confidences", confidences, torch.float32, total, 0, 1 + TOLERANCE)
        if not (leads <= 2 * magnitudes).all():
            raise InputError("a lead is more than twice the largest magnitude among the logits")
        others = leads.double().neg().exp()  # the largest of the others' probabilities over the first one's
        most_sure, least_sure = 1 / (1 + others), 1 / (1 + (self.class_count - 1) * others)
        if not ((confidences <= most_sure + TOLERANCE) & (confidences >= least_sure - TOLERANCE)).all():
            raise InputError("a confidence is not the softmax probability of a class that leads by its lead, in logits")


def write(
    path: Path, asked: Asked, dataset: Images, windows: dict[PatchSize, HiddenWindows], class_count: int, config: dict,
    arithmetic: dict,
) -> None:  # fmt: skip
    """Write all that was asked about the images of `dataset`.

    Args:
        config: the script and its options; its numerical margin is that of the run.
        arithmetic: see `results.computed_with`.
    """
    first = next(iter(windows.values()))
    about = result_format.stamp(KIND) | {
        "class_count": class_count,
        "height": first.height,
        "width": first.width,
        "families": [{"size": str(size.size), "windows": hidden.count} for size, hidden in windows.items()],
        "numerical_margin": config["numerical_margin"],
        "config": config,
        "arithmetic": arithmetic,
    }
    rectangles = torch.cat([hidden.rectangles for hidden in windows.values()])
    arrays = {"rectangles": rectangles, "indices": dataset.indices, "labels": dataset.labels.cpu()}
    archives.write(path, about, arrays | vars(asked))


def of(about: dict, arrays: dict[str, Tensor]) -> SavedAnswers:
    """The answers of which a file says so much, looked through.

    Raises:
        InputError: it says something else.
    """
    flaw = result_format.flaw(about, result_format.WINDOWS)
    if flaw:
        raise InputError(flaw)
    archives.require_config(about["config"])
    expected = {"rectangles", "indices", "labels", *Asked.__dataclass_fields__}
    if arrays.keys() != expected:
        raise InputError(f"its arrays are {', '.join(sorted(arrays))}, expected {', '.join(sorted(expected))}")
    for name, value in about["arithmetic"].items():
        if name in ("precision", "margins") and value not in RELATIVE_MARGINS:
            raise InputError(f"{name} is {value}, expected one of {', '.join(RELATIVE_MARGINS)}")
    families = _families(about, arrays["rectangles"])
    said = (about[name] for name in ("class_count", "numerical_margin", "config", "arithmetic"))
    asked = Asked(*(arrays[name] for name in Asked.__dataclass_fields__))
    saved = SavedAnswers(families, *said, arrays["indices"], arrays["labels"], asked)
    saved.require_sound()
    return saved


def _margins_of(arithmetic: dict) -> str:
    """Of `RELATIVE_MARGINS`, that whose margins a run took."""
    return arithmetic.get("margins", arithmetic["precision"])


def _families(about: dict, rectangles: Tensor) -> list[Family]:
    height, width = about["height"], about["width"]
    total = sum(family["windows"] for family in about["families"])
    archives.require_array("rectangles", rectangles, torch.int64, (total, 4), 0, max(height, width))
    top, bottom, left, right = rectangles.T
    if not ((top < bottom) & (bottom <= height) & (left < right) & (right <= width)).all():
        raise InputError(f"rectangles: some window is not in an image of {height} × {width} pixels")
    sizes, counts = zip(*((family["size"], family["windows"]) for family in about["families"]), strict=True)
    if WHOLE + 1 + sum(map(count_of, counts)) > MOST_QUESTIONS:
        raise InputError(f"families: there are more than {MOST_QUESTIONS} pairs of windows")
    windows = []
    for text, of_family in zip(sizes, rectangles.split(counts), strict=True):
        try:
            (size,) = patch_sizes(text)
            windows.append((size, HiddenWindows(height, width, of_family, shapes(size, height, width))))
        except (ValueError, ArgumentTypeError) as error:
            raise InputError(f"families: {error}") from error
    return _one_after_another(windows)


def _one_after_another(windows: Iterable[tuple[PatchSize, HiddenWindows]]) -> list[Family]:
    families, first = [], WHOLE + 1
    for size, hidden in windows:
        families.append(Family(size, hidden, first))
        first = families[-1].questions.stop
    return families


def _question_count(families: Sequence[Family]) -> int:
    return families[-1].questions.stop
