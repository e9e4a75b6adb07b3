"""What later questions need of the ablated copies' probabilities, in one file: the network need not run again.

A copy's vote is decided by the probabilities that reach θ, or by the most probable class. Of each copy a file
holds the classes at or above a floor, always the two most probable, and those nearly as probable as the first; all
others count as 0. Votes are then the same, bit for bit, for every θ from the floor on and for top-one voting.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchcert import distributed
from patchcert.checkpoint import write_atomically
from patchcert.data.folders import Images
from patchcert.errors import UsageError
from patchcert.progress import progress_bar
from patchcert.smoothing.ablation import Ablation, described
from patchcert.smoothing.certificate import Certifier, Verdicts
from patchcert.smoothing.voting import ThresholdVote, VoteRule

FORMAT = 1

ALLOWANCE = 1e-3
"""How far below the smallest θ the floor lies, and how far below the first class others are kept: numerical margins
up to this can be asked for later."""

FREE = 1 / 3
"""At most two classes are more probable than this, and those are kept anyway: no floor need be higher."""

ABLATIONS_AT_ONCE, PROBABILITIES_AT_ONCE = 512, 1 << 20


@dataclass(frozen=True)
class Entries:
    """Probabilities of N images' A copies, without those that decide no vote; E are kept.

    Attributes:
        kept: (N, A) int64, how many classes are kept of each copy.
        classes: (E,) int32, image by image, copy by copy, ascending.
        probabilities: (E,) float32.
    """

    kept: Tensor
    classes: Tensor
    probabilities: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence["Entries"]) -> "Entries":
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def ordered(self, numbers: Tensor) -> "Entries":
        """The images in the order of their `numbers` (N,)."""
        of_entries = numbers.repeat_interleave(self.kept.sum(dim=1))
        order = of_entries.argsort(stable=True)
        return Entries(self.kept[numbers.argsort()], self.classes[order], self.probabilities[order])

    def take(self, chosen: slice | Tensor) -> "Entries":
        """Those of some images, in their order here."""
        taken = torch.zeros(len(self.kept), dtype=torch.bool)
        taken[chosen] = True
        of_entries = taken.repeat_interleave(self.kept.sum(dim=1))
        return Entries(self.kept[taken], self.classes[of_entries], self.probabilities[of_entries])


class Recorder:
    """Passes chunks of probabilities on, keeps what later questions need of them, and writes it to a file.

    Args:
        rules: the votes that are asked for now.
    """

    def __init__(self, ablation: Ablation, rules: Iterable[VoteRule]):
        self.ablation = ablation
        thresholds = [rule.threshold for rule in rules if isinstance(rule, ThresholdVote)]
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

    def write(self, path: Path, dataset: Images, config: dict) -> None:
        """Write what all processes kept of the images of `dataset`, in their order; the first process does it."""
        parts = distributed.to_first(Entries.concatenate(self.parts))
        if not distributed.is_first():
            return
        numbers = [rank + len(parts) * torch.arange(len(part.kept)) for rank, part in enumerate(parts)]
        about = {
            "format": FORMAT,
            "dataset": config["dataset"],
            "ablation": self.ablation.description(),
            "class_count": self.class_count,
            "floor": self.floor,
            "config": config,
        }
        arrays = vars(Entries.concatenate(parts).ordered(torch.cat(numbers)))
        arrays = arrays | {"indices": dataset.indices, "labels": dataset.labels.cpu()}
        content = {name: tensor.numpy() for name, tensor in arrays.items()}
        write_atomically(path, lambda file: np.savez_compressed(file, about=json.dumps(about), **content))


@dataclass(frozen=True)
class SavedVotes:
    """The content of a file of votes.

    Attributes:
        ablation: the A ablations that voted.
        class_count: K.
        floor: the least θ that can be asked for.
        config: the script that wrote the file and its options.
        indices, labels: (N,) int64, see `dataset.Dataset`.
    """

    ablation: Ablation
    class_count: int
    floor: float
    config: dict
    indices: Tensor
    labels: Tensor
    entries: Entries

    def __len__(self) -> int:
        return len(self.labels)

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

    def batches(self) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """Yield for some images at a time what `voting.softmax_chunks` yields for them."""
        size = max(1, PROBABILITIES_AT_ONCE // (ABLATIONS_AT_ONCE * self.class_count))
        start = 0
        for kept in self.entries.kept.split(size):
            end = start + int(kept.sum())
            yield self._chunks(Entries(kept, self.entries.classes[start:end], self.entries.probabilities[start:end]))
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

    def is_consistent(self) -> bool:
        """Whether the arrays have the sizes and values that the rest of the file calls for."""
        kept, classes, probabilities = vars(self.entries).values()
        count = len(self.labels)
        return (
            self.indices.shape == self.labels.shape == (count,)
            and kept.shape == (count, self.ablation.count)
            and int(kept.min()) >= min(2, self.class_count)
            and classes.shape == probabilities.shape == (int(kept.sum()),)
            and int(classes.min()) >= 0
            and int(classes.max()) < self.class_count
            and probabilities.dtype == torch.float32
        )


def read(path: Path) -> SavedVotes:
    """The votes in a file that `Recorder.write` wrote; reading executes no code.

    Raises:
        UsageError: the file is missing or holds something else.
    """
    if not path.is_file():
        raise UsageError("votes", path, "no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "about"}
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}")
        entries = Entries(*(arrays.pop(name) for name in ("kept", "classes", "probabilities")))
        fields = {name: about[name] for name in ("class_count", "floor", "config")}
        saved = SavedVotes(ablation=described(about["ablation"]), entries=entries, **fields, **arrays)
        if not saved.is_consistent():
            raise ValueError("sizes differ")
    except Exception as error:  # zip, zlib, NumPy and JSON each have their own for a damaged file
        raise UsageError("votes", path, "not a whole file of votes as --save_votes writes it") from error
    return saved


def certify(saved: SavedVotes, certifier: Certifier) -> list[Verdicts]:
    """One `Verdicts` per question of `certifier` for all saved images, with a progress bar.

    Each process looks at its share of the images and gets the verdicts on all.
    """
    parts = []
    with progress_bar(len(saved), "certifying") as bar:
        for chunks in saved.take(distributed.share()).batches():
            parts.append(certifier(chunks))
            bar.update(len(parts[-1][0].predicted) * distributed.world())
    return [Verdicts.concatenate(answers).merged(len(saved)) for answers in zip(*parts, strict=True)]
