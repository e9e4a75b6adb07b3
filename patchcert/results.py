"""The numbers of a run: counts, JSON, one row per image."""

import csv
import io
import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import PIL
import torch
from PIL import features
from torch import Tensor

from patchcert import distributed, result_format
from patchcert.files import write_atomically


class _Shares:
    """Counts out of a `total`, printed one to a line."""

    total: int

    def __str__(self) -> str:
        names = [name for name, count in vars(self).items() if name != "total" and count is not None]
        width = max(17, *map(len, names))
        lines = [f"{name.replace('_', ' '):{width}s}  {self.share(name)}" for name in names]
        return "\n".join([f"{'total':{width}s}  {self.total:5d}", *lines])

    def share(self, name: str) -> str:
        """The count `name` and its share of the total."""
        count = getattr(self, name)
        return f"{count:5d} ({count / self.total:7.2%})"


@dataclass(frozen=True)
class Counts(_Shares):
    """How many of `total` images are classified correctly, and how many right and wrong answers are certified."""

    total: int
    correct: int
    certified_correct: int
    certified_wrong: int

    @classmethod
    def of(cls, predicted: Tensor, certified: Tensor, labels: Tensor) -> "Counts":
        right = predicted == labels
        return cls(len(labels), int(right.sum()), int((certified & right).sum()), int((certified & ~right).sum()))

    def as_json(self) -> dict:
        return vars(self) | {
            "clean_accuracy": self.correct / self.total,
            "certified_accuracy": self.certified_correct / self.total,
        }


@dataclass(frozen=True)
class AlarmCounts(Counts):
    """The same of a defence with alarms, for clean images: each of the `false_alarms` counts as an error, too."""

    false_alarms: int

    @classmethod
    def of(cls, predicted: Tensor, certified: Tensor, labels: Tensor) -> "AlarmCounts":
        counts = Counts.of(predicted, certified, labels)
        return cls(**vars(counts), false_alarms=int((predicted < 0).sum()))


@dataclass(frozen=True)
class AttackCounts(_Shares):
    """How many of `total` images are classified correctly, before and under attack.

    The certified ones, by the margin and by the exact certificate of votes, are None where there is no certificate;
    double masking has one, the first.
    """

    total: int
    correct: int
    certified_correct: int | None
    certified_correct_exact: int | None
    attacked_correct: int

    def relation(self) -> str:
        """A sentence on what certified and attacked accuracy say of robust accuracy, which lies between them."""
        attacked = f"{self.attacked_correct / self.total:.2%}"
        bounds = [count for count in (self.certified_correct, self.certified_correct_exact) if count is not None]
        if not bounds:
            return f"robust accuracy is at most {attacked} (attacked); no certificate gives a lower bound"
        certified, between = max(bounds), self.attacked_correct - max(bounds)
        return (
            f"robust accuracy lies between {certified / self.total:.2%} (certified) and {attacked} (attacked); "
            f"{between} of {self.total} images are neither certified nor flipped"
        )

    def as_json(self) -> dict:
        shares = {
            "clean_accuracy": self.correct,
            "certified_accuracy": self.certified_correct,
            "certified_accuracy_exact": self.certified_correct_exact,
            "attacked_accuracy": self.attacked_correct,
        }
        return vars(self) | {name: None if n is None else n / self.total for name, n in shares.items()}


@dataclass(frozen=True)
class Copies:
    """What was done with the ablated copies of all images.

    Attributes:
        total: how many there are.
        classified: how many the network saw before the answers were final.
        close_votes: entries with `threshold`, `numerical_margin` and `close_votes`, the number of copies of which a
            vote lies that close to being decided otherwise.
    """

    total: int
    classified: int
    close_votes: list[dict]

    def lines(self) -> list[str]:
        """What there is to say."""
        spared = self.total - self.classified
        said = [f"early decision spared {spared / self.total:.1%} of {self.total} ablated copies"] if spared else []
        for entry in self.close_votes:
            rule = "" if entry["threshold"] is None else f" (θ = {entry['threshold']})"
            close = f"{entry['close_votes']} of {self.total} ablated copies have a vote that changes if a probability"
            said.append(f"{close} changes by {entry['numerical_margin']}{rule}")
        return said

    def as_json(self) -> dict:
        return {"copies": self.total, "copies_classified": self.classified, "close_votes": self.close_votes}


class Remarks(Protocol):
    """What there is to say of a run besides its counts."""

    def lines(self) -> list[str]:
        """For people."""

    def as_json(self) -> dict:
        """For `--output`."""


@dataclass(frozen=True)
class CloseLeads:
    """How many images lost their certificate to the numerical margin, by patch size."""

    within_margin: dict[int | str, int]

    def lines(self) -> list[str]:
        """What there is to say."""
        found = ", ".join(f"{count} at {size}" for size, count in self.within_margin.items() if count)
        return [f"certificates lost to the numerical margin: {found or 'none'}"]

    def as_json(self) -> dict:
        return {"within_numerical_margin": {str(size): count for size, count in self.within_margin.items()}}


@dataclass(frozen=True)
class Passes:
    """How often the network was asked, of all `images` together."""

    images: int
    passes: int

    def lines(self) -> list[str]:
        """What there is to say."""
        return [f"{self.passes / self.images:.1f} passes of the network for each image"]

    def as_json(self) -> dict:
        return {"passes": self.passes}


@dataclass(frozen=True)
class NotKnown:
    """Of how many images saved answers leave open what was asked, for each question."""

    images: list[int]

    def lines(self) -> list[str]:
        """What there is to say."""
        if not any(self.images):
            return []
        found = ", ".join(map(str, self.images))
        what = f"images whose verdict depends on a pair of windows that was not tried: {found}"
        return [f"{what}; they count as not certified, and against two patches as alarms; --ask_all tries all pairs"]

    def as_json(self) -> dict:
        return {"not_known": self.images}


@dataclass(frozen=True)
class TestHalf:
    """The counts on the test half alone, one for each question, of a run that looked at both halves."""

    counts: list[Counts]

    def lines(self) -> list[str]:
        """What there is to say."""
        return [
            f"{name} on the test half alone, {self.counts[0].total} images: "
            + ", ".join(f"{count.as_json()[f'{name}_accuracy']:.2%}" for count in self.counts)
            for name in ("clean", "certified")
        ]

    def as_json(self) -> dict:
        return {"test_half": [count.as_json() for count in self.counts]}


@dataclass(frozen=True)
class Together:
    """Several remarks, one after the other."""

    parts: Sequence[Remarks]

    def lines(self) -> list[str]:
        """What there is to say."""
        return [line for part in self.parts for line in part.lines()]

    def as_json(self) -> dict:
        return {name: value for part in self.parts for name, value in part.as_json().items()}


def computed_with(precision: str, engine: str, processors: Iterable[str]) -> dict:
    """What certificates were counted with, and hold for; all processes ask, and get the same.

    Args:
        precision: one of `arithmetic.NUMERICAL_MARGINS`.
        processors: those that this process's numbers come from, see `arithmetic.processor`.
    """
    everywhere = distributed.from_first(sorted(set().union(*distributed.to_first(set(processors)))))
    return {"precision": precision, "engine": engine, "processors": everywhere}


def run_record(
    answers: list[tuple[dict, Counts | AttackCounts]],
    seconds: float,
    config: dict,
    arithmetic: dict,
    remarks: Remarks | None = None,
) -> dict:
    """What `--output` holds: the list `results`, one entry per question; a single one also beside it.

    An answer with a numerical margin goes with the plain one and does not count as another.
    """
    entries = [question | counts.as_json() for question, counts in answers]
    counted = [counts.as_json() for _, counts in answers]
    plain = [shares for entry, shares in zip(entries, counted, strict=True) if not entry.get("numerical_margin")]
    record = plain[0] if len(plain) == 1 else counted[0] if len(counted) == 1 else {}
    record = result_format.stamp("attack" if isinstance(answers[0][1], AttackCounts) else "certify") | record
    record |= {"seconds": seconds, "results": entries} | (remarks.as_json() if remarks else {})
    return record | {"config": config, "arithmetic": arithmetic, "environment": environment()}


class Labelled(Protocol):
    """N images, or votes of them: `labels` (N,) and `indices` (N,), places in the data set's own order."""

    labels: Tensor
    indices: Tensor


def image_rows(dataset: Labelled, answers: list[tuple[dict, dict[str, Tensor]]]) -> list[dict]:
    """One row per image and question: place in the data set, label, and entry in each of the answer's columns."""
    rows = []
    for question, columns in answers:
        columns = {"index": dataset.indices, "label": dataset.labels} | columns
        by_image = zip(*map(entries, columns.values()), strict=True)
        rows += [question | dict(zip(columns, values, strict=True)) for values in by_image]
    return rows


def entries(column: Tensor) -> list:
    """What stands in the N rows of a column: the values (N,), or of (N, M) bool the numbers that are true, "3 7 9"."""
    if column.dim() == 1:
        return column.tolist()
    return [" ".join(map(str, row.nonzero().flatten().tolist())) for row in column]


def write_json(content: dict, path: Path) -> None:
    """Write a result, and raise ValueError if it is not in `result_format`; even then the file is there."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    result_format.require(content, str(path))


def write_csv(rows: list[dict], path: Path) -> None:
    """Write a column for each name that some row has; empty where a row has none, as alarms by confidence no lead."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(chain.from_iterable(rows))))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def environment() -> dict:
    """What a reader needs to run the same again: versions, hardware, threads and the project's commit."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "decoder": _decoder(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "processes": distributed.world(),
        "commit": _commit(),
    }


def _decoder() -> str:
    """What turns the files of images into pixels; of JPEG files another one makes others."""
    turbo = features.version_feature("libjpeg_turbo")
    return f"Pillow {PIL.__version__}, " + (f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}")


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
