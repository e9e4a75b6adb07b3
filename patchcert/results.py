"""The numbers of a run: printed table, JSON, one row per image."""

import csv
import io
import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from patchcert import distributed, result_format
from patchcert.errors import one_line
from patchcert.files import write_atomically
from patchcert.progress import say

COUNTED = ("correct", "certified_correct", "certified_wrong")


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
    """How many of `total` images are classified correctly, and how many answers are certified, right or wrong."""

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
            return f"robust accuracy is at most the attacked, {attacked}; no certificate bounds it from below"
        certified, between = max(bounds), self.attacked_correct - max(bounds)
        return (
            f"robust accuracy is at least the certified, {certified / self.total:.2%}, and at most the attacked, "
            f"{attacked}: {between} of {self.total} images lie between, neither certified nor flipped"
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
            close = f"{entry['close_votes']} of {self.total} ablated copies have a vote within"
            said.append(f"{close} {entry['numerical_margin']} of being decided otherwise{rule}")
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
    """Of how many images the numerical margin took the certificate, by patch size."""

    within_margin: dict[int | str, int]

    def lines(self) -> list[str]:
        """What there is to say."""
        found = ", ".join(f"{count} at {size}" for size, count in self.within_margin.items() if count)
        return [f"certificates that the numerical margin took: {found or 'none'}"]

    def as_json(self) -> dict:
        return {"within_numerical_margin": {str(size): count for size, count in self.within_margin.items()}}


def print_answers(
    about: str, answers: list[tuple[dict, Counts | AttackCounts]], seconds: float, remarks: Remarks | None = None
) -> None:
    """Print (question, counts) pairs: a block of lines for one, a table for several, less columns of one value.

    Args:
        about: a line above them that says what was asked of which images.
    """
    print(about)
    if len(answers) == 1:
        counts = answers[0][1]
        print(counts)
        if isinstance(counts, AttackCounts):
            print(counts.relation())
    else:
        varying = [name for name in answers[0][0] if len({question[name] for question, _ in answers}) > 1]
        print("  ".join(f"{name:>18s}" for name in [*varying, *COUNTED]))
        for question, counts in answers:
            asked = ["-" if question[name] is None else str(question[name]) for name in varying]
            print("  ".join(f"{cell:>18s}" for cell in [*asked, *(counts.share(name) for name in COUNTED)]))
    print(f"{answers[0][1].total} images in {seconds:.1f} s")
    for line in remarks.lines() if remarks else ():
        print(line)


def print_side_by_side(outputs: dict[str, Path]) -> None:
    """Print accuracies by patch size from the files that `--output` wrote, by the name of each defence.

    The files answer one question for each of the same patch sizes.
    """
    records = {name: json.loads(path.read_text())["results"] for name, path in outputs.items()}
    columns = [f"{name}: {what}" for name in records for what in ("clean", "certified")]
    print("  ".join(f"{cell:>18s}" for cell in ["patch", *columns]))
    for answers in zip(*records.values(), strict=True):
        shares = [answer[f"{what}_accuracy"] for answer in answers for what in ("clean", "certified")]
        cells = [str(answers[0]["size_to_certify"]), *(f"{share:.2%}" for share in shares)]
        print("  ".join(f"{cell:>18s}" for cell in cells))


def print_batch_size(found: int) -> None:
    """Print what `--batch_size auto` took."""
    say(f"--batch_size {found}")


def print_epoch(row: dict, end_epoch: int, measured: str) -> None:
    """Print one row of the training log; `measured` is what the accuracy on test images is called."""
    say(
        f"epoch {row['epoch']}/{end_epoch}  loss {row['loss']:.4f}  training {row['train_accuracy']:.2%}"
        f"  {measured} {row['test_accuracy']:.2%}  {row['seconds']:.1f} s"
    )


def print_interval_epoch(model_id: str, attack_type: str, row: dict) -> None:
    """Print one row of the log of training with interval bounds; robust is measured at the places of `attack_type`."""
    say(
        f"{model_id} epoch {row['epoch']}  eps {row['epsilon']:.4f}  lr {row['lr']:.1e}  loss {row['loss']:.4f}"
        f"  test error: robust ({attack_type}) {row['robust_err']:.2%}, clean {row['clean_err']:.2%}"
        f"  {row['train_seconds']:.1f} s"
    )


def print_models(about: str, rows: list[dict], summary: dict[str, dict[str, float]]) -> None:
    """Print what was asked of which images, each model's errors, and how they vary over the models."""
    print(about)
    for row in rows:
        found = ", ".join(f"{error.replace('_', ' ')} {row[error]:.2%}" for error in summary)
        taken = f"certificates that rounding took: {row['within_rounding']}"
        print(f"{row['model_id']}: {found}, {taken}  ({row['total']} images in {row['seconds']:.1f} s)")
    for error, values in summary.items():
        print(f"{error.replace('_', ' '):15s}  " + "  ".join(f"{name} {value:.2%}" for name, value in values.items()))


def print_training(path: Path, state: dict, measured: str) -> None:
    """Print where a finished run lies and what was `measured` of it at the end."""
    print(f"{path}: {measured} {state['acc']:.2f} % after epoch {state['epoch']}")


def print_finished(path: Path, state: dict, measured: str) -> None:
    """Print that there is nothing to do: the run that would write `path` is finished."""
    reached = f"{measured} {state['acc']:.2f} % after epoch {state['epoch']}"
    print(f"{path} is finished: {reached}; --overwrite trains anew")


def print_unlocked(path: Path) -> None:
    """Print that another run at once, which writes `path` too, would go unnoticed."""
    print(f"note: {path}: its file system has no locks; see that no other process trains it", file=sys.stderr)


def print_going_on(epoch: int, end_epoch: int, source: Path | None = None, position: dict | None = None) -> None:
    """Print that training goes on with `epoch`, or inside of it, from the file `source`, unless `--resume` named it."""
    inside = f" after step {position['step']} of {position['of']}" if position else ""
    say(f"going on with epoch {epoch} of {end_epoch}{inside}" + (f" from {source}" if source else ""))


def print_going_on_with(what: str, source: Path) -> None:
    """Print that a run takes its beginning from the file `source` and goes on with a piece of work."""
    print(f"going on with {what} from {source}", flush=True)


def print_not_kept(path: Path, reason: str) -> None:
    """Print, beside the results, that what a run has done is not in `path`."""
    print(f"note: {path} cannot be written: {reason}; an interrupted run would lose what it has done", file=sys.stderr)


def print_finished_model(path: Path, epoch: int) -> None:
    """Print that there is nothing to do: the run with interval bounds that writes `path` is finished."""
    print(f"{path} is finished after epoch {epoch}; --overwrite trains anew", flush=True)


def print_networks(states: dict[Path, dict | None], attack_type: str, schedule_end: int) -> None:
    """Print where a model's last and best state lie and what is known of them; None where there is none."""
    for path, state in states.items():
        if state is None:
            print(f"{path}: there is none, ε grows until epoch {schedule_end}")
        else:
            errors = f"robust ({attack_type}) {state['robust_err']:.2%}, clean {state['clean_err']:.2%}"
            print(f"{path}: epoch {state['epoch']}, test error: {errors}")


def print_other_kind(name: str, trained: str, run: str) -> None:
    """Print, beside the results, that a network is not run as what it was trained as."""
    said = f"{one_line(name)} was trained with {one_line(trained)}; this run has {one_line(run)}"
    print(f"note: {said}", file=sys.stderr)


def print_in_both(root: Path, count: int) -> None:
    """Print, beside the results, how many pictures in `root` are tested on that may have been trained on."""
    print(f"warning: {one_line(root)}: {count} pictures in test/ are in train/ too, byte for byte", file=sys.stderr)


def print_report(page: Path) -> None:
    """Print where the page of a report lies."""
    print(f"report: {page}")


def print_pictures(folder: Path, count: int, still_wrong: int) -> None:
    """Print how many flipped images were saved, and on how many rounding to a PNG's 256 values undid the attack."""
    print(f"{folder}: {count} flipped images; rounded to 8 bits, {still_wrong} of them are still classified wrongly")


def run_record(
    answers: list[tuple[dict, Counts | AttackCounts]], seconds: float, config: dict, remarks: Remarks | None = None
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
    return record | {"config": config, "environment": environment()}


class Labelled(Protocol):
    """N images, or votes of them: `labels` (N,) and `indices` (N,), places in the data set's own order."""

    labels: Tensor
    indices: Tensor


def image_rows(dataset: Labelled, answers: list[tuple[dict, dict[str, Tensor]]]) -> list[dict]:
    """One row per image and question: place in the data set, label, and entry in each of the answer's (N,) tensors."""
    rows = []
    for question, columns in answers:
        columns = {"index": dataset.indices, "label": dataset.labels} | columns
        by_image = zip(*(column.tolist() for column in columns.values()), strict=True)
        rows += [question | dict(zip(columns, values, strict=True)) for values in by_image]
    return rows


def write_json(content: dict, path: Path) -> None:
    """Write a result, and raise ValueError if it is not in `result_format`; even then the file is there."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    result_format.require(content, str(path))


def write_csv(rows: list[dict], path: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def environment() -> dict:
    """What a reader needs to run the same again: versions, hardware, threads and the project's commit."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "processes": distributed.world(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
