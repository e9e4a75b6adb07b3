"""What later questions need of the ablated copies' probabilities, in one file: the network need not run again.

A copy's vote is decided by the probabilities that reach θ, or by the most probable class. Of each copy a file
holds the classes at or above a floor, always the two most probable, and those nearly as probable as the first; all
others count as 0. Votes are then the same, bit for bit, for every θ from the floor on and for top-one voting.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from patchcert import distributed, result_format
from patchcert.ablations.ablation import Ablation, parameters
from patchcert.ablations.kinds import KINDS, described
from patchcert.data.folders import Images
from patchcert.errors import UsageError
from patchcert.inputs import InputError
from patchcert.journal import Journal
from patchcert.option_values import MOST_PIXELS
from patchcert.progress import progress_bar
from patchcert.votes import archives
from patchcert.votes.archives import Ragged
from patchcert.votes.certificate import Certifier, Verdicts
from patchcert.votes.rules import ThresholdVote, VoteRule

KIND, FORMAT = "votes", 1

ALLOWANCE = 1e-3
"""How far below the smallest θ the floor lies, and how far below the first class others are kept: numerical margins
up to this can be asked for later."""

FREE = 1 / 3
"""At most two classes are more probable than this, and those are kept anyway: no floor need be higher."""

ABLATIONS_AT_ONCE, PROBABILITIES_AT_ONCE = 512, 1 << 20

TOLERANCE = 1e-3
"""By how much the probabilities of a copy, float32 in whatever order they were summed, miss a sum of 1 at most."""

UNKNOWN = {"precision": "unknown", "engine": "unknown", "processors": []}
"""Arithmetic of files that say nothing of it, those of older versions."""


@dataclass(frozen=True)
class Entries(Ragged):
    """Probabilities of N images' A copies, without those that decide no vote; E are kept.

    Attributes:
        kept: (N, A) int64, how many classes are kept of each copy.
        classes: (E,) int32, image by image, copy by copy, ascending.
        probabilities: (E,) float32.
    """

    kept: Tensor
    classes: Tensor
    probabilities: Tensor


class Recorder:
    """Passes chunks of probabilities on, keeps what later questions need of them, and writes it to a file.

    Args:
        rules: the votes that are asked for now,
        numerical_margin: and with which ν; that of thresholds can then be asked for later, too.
    """

    def __init__(self, ablation: Ablation, rules: Iterable[VoteRule], numerical_margin: float = 0.0):
        self.ablation = ablation
        thresholds = [rule.threshold - numerical_margin for rule in rules if isinstance(rule, ThresholdVote)]
        self.floor = round(max(0.0, min([FREE, *thresholds]) - ALLOWANCE), 6)
        self.class_count = 0
        self.parts: list[Entries] = []

    def __call__(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all (indices (A',), probabilities (N, A', K)) of a batch of N images as they come."""
        found = []
        for indices, probabilities in chunks:
            count, _, self.class_count = probabilities.shape
            two = probabilities.topk(min(2, self.class_count)).values
            votes = probabilities >= two[..., -1:].clamp(max=self.floor)
            kept = (votes | (two[..., :1] - probabilities <= ALLOWANCE)).nonzero(as_tuple=True)
            image, place, chosen = kept
            copy = image * self.ablation.count + indices[place]
            found.append([tensor.cpu() for tensor in (copy, chosen.int(), probabilities[kept])])
            yield indices, probabilities
        copies, classes, values = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        counts = copies.bincount(minlength=count * self.ablation.count).view(count, -1)
        order = copies.argsort(stable=True)
        self.parts.append(Entries(counts, classes[order], values[order]))

    def give_away(self) -> dict:
        """The last batch's part, see `certificate.Listener`."""
        return {"class_count": self.class_count, "entries": vars(self.parts.pop())}

    def take_back(self, given: dict) -> None:
        """The next batch's part."""
        self.class_count = given["class_count"]
        self.parts.append(Entries(**given["entries"]))

    def write(self, path: Path, dataset: Images, config: dict, arithmetic: dict) -> None:
        """Write what all processes kept of the images of `dataset`, in their order; the first process does it.

        Args:
            config: the script and its options.
            arithmetic: see `results.computed_with`.
        """
        entries = Entries.concatenate(self.parts).gathered()
        if entries is None:
            return
        about = {
            "format": FORMAT,
            "dataset": config["dataset"],
            "ablation": self.ablation.description(),
            "class_count": self.class_count,
            "floor": self.floor,
            "config": config,
            "arithmetic": arithmetic,
        }
        archives.write(path, about, vars(entries) | {"indices": dataset.indices, "labels": dataset.labels.cpu()})


@dataclass(frozen=True)
class SavedVotes:
    """The content of a file of votes.

    Attributes:
        ablation: the A ablations that voted.
        class_count: K.
        floor: the least θ that can be asked for.
        config: the script that wrote the file and its options.
        arithmetic: what the probabilities were computed with, see `results.computed_with`.
        indices, labels: (N,) int64, see `dataset.Dataset`.
    """

    ablation: Ablation
    class_count: int
    floor: float
    config: dict
    arithmetic: dict
    indices: Tensor
    labels: Tensor
    entries: Entries

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def numerical_margin(self) -> float:
        """ν of the run that wrote it."""
        return self.config.get("numerical_margin") or 0.0

    def take(self, chosen: slice | Tensor) -> "SavedVotes":
        """Those of some images; numbers of them (n,) ascend."""
        return replace(
            self, indices=self.indices[chosen], labels=self.labels[chosen], entries=self.entries.take(chosen)
        )

    def require(self, rule: VoteRule, numerical_margin: float = 0.0) -> None:
        """Raise UsageError if votes by `rule`, certain and possible ones, cannot be told from what was saved."""
        if not isinstance(rule, ThresholdVote):
            if numerical_margin > ALLOWANCE:
                right = f"classes further below the first were not saved, expected at most {ALLOWANCE}"
                raise UsageError("numerical_margin", numerical_margin, right)
        elif rule.threshold < self.floor:
            right = f"less probable classes were not saved, expected at least the file's floor of {self.floor}"
            raise UsageError("threshold", rule.threshold, right)
        elif max(0.0, rule.threshold - numerical_margin) < self.floor:
            right = f"less probable classes were not saved, expected at most {rule.threshold - self.floor:.6f}"
            raise UsageError("numerical_margin", numerical_margin, right)

    @property
    def at_once(self) -> int:
        """Images of which some ablations' probabilities are held together."""
        return max(1, PROBABILITIES_AT_ONCE // (ABLATIONS_AT_ONCE * self.class_count))

    def batches(self, batch_size: int) -> Iterator[tuple[Iterator[tuple[Tensor, Tensor]], Tensor]]:
        """Yield what `asking.softmax_chunks` yields for so many images at a time, and their labels (B,)."""
        start = 0
        for kept, labels in zip(self.entries.kept.split(batch_size), self.labels.split(batch_size), strict=True):
            end = start + int(kept.sum())
            entries = Entries(kept, self.entries.classes[start:end], self.entries.probabilities[start:end])
            yield self._chunks(entries), labels
            start = end

    def _chunks(self, entries: Entries) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(entries.kept)
        copies = torch.arange(entries.kept.numel()).repeat_interleave(entries.kept.flatten())
        image, ablation = copies // self.ablation.count, copies % self.ablation.count
        for indices in self.ablation.chunks(ABLATIONS_AT_ONCE):
            probabilities = torch.zeros(count, len(indices), self.class_count)
            of_chunk = (ablation >= indices[0]) & (ablation <= indices[-1])
            where = image[of_chunk], ablation[of_chunk] - indices[0], entries.classes[of_chunk].long()
            probabilities[where] = entries.probabilities[of_chunk]
            yield indices, probabilities

    def require_sound(self) -> None:
        """Raise InputError, which says what is wrong, unless the arrays are such as `Recorder` makes them."""
        kept, classes, probabilities = vars(self.entries).values()
        count, least, most = len(self.labels), min(2, self.class_count), self.class_count
        archives.require_images(self.labels, self.indices, most)
        archives.require_array("kept", kept, torch.int64, (count, self.ablation.count), least, most)
        total = (int(kept.sum()),)
        archives.require_array("classes", classes, torch.int32, total, 0, most - 1)
        archives.require_array("probabilities", probabilities, torch.float32, total, 0.0, 1 + TOLERANCE)
        copies = torch.arange(kept.numel()).repeat_interleave(kept.flatten())
        if not ((copies * most + classes).diff() > 0).all():
            raise InputError("classes are not in ascending order in each copy")
        sums = torch.zeros(kept.numel(), dtype=torch.float64).index_add_(0, copies, probabilities.double())
        left_out = (most - kept.flatten()) * self.floor  # each of the others has less than the floor
        if not ((sums <= 1 + TOLERANCE) & (sums + left_out >= 1 - TOLERANCE)).all():
            raise InputError("probabilities of a copy do not add up to 1")


def read(path: Path) -> SavedVotes:
    """The votes in a file that `Recorder.write` wrote; reading executes no code.

    Raises:
        UsageError: the file is missing or holds something else.
    """
    return archives.read(path, {KIND: of})


def of(about: dict, arrays: dict[str, Tensor]) -> SavedVotes:
    """The votes of which a file says so much, looked through.

    Raises:
        InputError: it says something else.
    """
    if about.get("format") != FORMAT:
        raise InputError(f"its format is {about.get('format')}, expected {FORMAT}")
    saved = _votes(about, arrays)
    saved.require_sound()
    return saved


def _votes(about: dict, arrays: dict[str, Tensor]) -> SavedVotes:
    """The votes of which nothing but the content of the arrays has still to be looked at."""
    expected = {"kept", "classes", "probabilities", "indices", "labels"}
    if arrays.keys() != expected:
        raise InputError(f"its arrays are {', '.join(arrays)}")
    class_count, floor, config = (about.get(name) for name in ("class_count", "floor", "config"))
    if type(class_count) is not int or not 1 <= class_count <= archives.MOST_CLASSES:
        raise InputError(f"class_count is {class_count}, expected a whole number from 1 to {archives.MOST_CLASSES}")
    if type(floor) is not float or not 0 <= floor <= 1:
        raise InputError(f"floor is {floor}, expected a number from 0 to 1")
    archives.require_config(config)
    margin = config.get("numerical_margin") or 0.0
    if not isinstance(margin, float | int) or not 0 <= margin < math.inf:  # NaN is not, either
        raise InputError(f"its run had a numerical margin of {margin}, expected 0 or more")
    arithmetic = about.get("arithmetic", UNKNOWN)
    if not isinstance(arithmetic, dict) or result_format.flaw(arithmetic, result_format.ARITHMETIC):
        raise InputError("what it was computed with cannot be understood")
    entries = Entries(*(arrays[name] for name in ("kept", "classes", "probabilities")))
    ablation, of_images = _ablation(about.get("ablation")), (arrays["indices"], arrays["labels"])
    return SavedVotes(ablation, class_count, floor, config, arithmetic, *of_images, entries)


def _ablation(description: object) -> Ablation:
    sizes = dict(description) if isinstance(description, dict) else {}
    kind = sizes.pop("kind", None)
    if kind not in KINDS or sizes.keys() != set(parameters(KINDS[kind])):
        raise InputError("it does not name a kind of ablation")
    for name, size in sizes.items():
        if type(size) is not int or not 1 <= size <= MOST_PIXELS:
            raise InputError(f"{name} is {size}, expected a whole number from 1 to {MOST_PIXELS}")
    try:
        return described(description)
    except UsageError as error:
        raise InputError(f"there are no such ablations: {error.right}") from error


def certify(saved: SavedVotes, certifier: Certifier, journal: Journal | None = None) -> list[Verdicts]:
    """One `Verdicts` per question of `certifier` for all saved images, with a progress bar.

    Each process looks at its share of the images and gets the verdicts on all. The `journal` keeps them as they come.
    """

    def look(chunks: Iterator[tuple[Tensor, Tensor]], labels: Tensor) -> list[dict]:
        return [vars(verdicts) for verdicts in certifier(chunks)]

    parts = []
    with progress_bar(len(saved), "certifying") as bar:
        for found, labels in (journal or Journal()).over(saved, saved.at_once, look):
            parts.append([Verdicts(**columns) for columns in found])
            bar.update(len(labels) * distributed.world())
    return [Verdicts.concatenate(answers).merged(len(saved)) for answers in zip(*parts, strict=True)]
