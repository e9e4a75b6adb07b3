"""Runs as reports show them, from what they left: JSON of `--output`, and beside it rows per image and votes."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchcert.ablations.ablation import Ablation
from patchcert.ablations.kinds import described
from patchcert.data import splits
from patchcert.data.folders import MODES
from patchcert.errors import UsageError
from patchcert.experiments import reporting, saved_windows, summaries, window_galleries
from patchcert.experiments.reporting import Subject
from patchcert.option_values import one_patch
from patchcert.patch import Patch
from patchcert.patch_sizes import in_words
from patchcert.reports.exhibits import Gallery, Run, Views
from patchcert.votes import archives, saved_answers, saved_votes
from patchcert.votes.certificate import Certifier, Question
from patchcert.votes.rules import ThresholdVote, TopOneVote

NUMBERS = ("index", "label", "predicted", "votes", "runner_up_votes", "row", "column", "predicted_after")
"""Columns of whole numbers in a table per image that are looked at."""


@dataclass(frozen=True)
class Rows:
    """A table per image of N images; all tensors are (N,).

    Attributes:
        columns: what was found, by name.
    """

    labels: Tensor
    indices: Tensor
    columns: dict[str, Tensor]


def saved_run(name: str, path: Path, record: dict, most: int) -> Run:
    """The run that left the `record` in the file `path`, with a gallery of at most so many images if it left enough.

    Raises:
        UsageError: its votes or its rows per image are not what they should be.
    """
    config = record["config"]
    parts = [config["script"], reporting.data_set(config), config.get("checkpoint") or config.get("votes")]
    return Run(name, ", ".join(filter(None, parts)), record, _galleries(path, record, most))


def _galleries(path: Path, record: dict, most: int) -> list[Gallery]:
    config, answers = record["config"], record.get("results") or record["models"]
    classes = reporting.class_names(config.get("config_of_votes", config))
    votes = _found(path, config.get("votes") or config.get("save_votes"))
    if record["kind"] == "certify" and votes:
        of_file = _of_votes if "threshold" in answers[0] else _of_windows
        return [of_file(votes, record, classes, most)]
    table = _found(path, config.get("per_image"))
    if table is None:
        return []
    rows = _read(table, [answer["total"] for answer in answers])
    if record["kind"] == "evaluate":
        return [
            reporting.gallery(_of_model(record, model, found), found, found.columns, classes, most // len(answers))
            for model, found in zip(answers, rows, strict=True)
        ]
    number = reporting.most_telling(answers)
    found, subject_of = rows[number], _of_attack if record["kind"] == "attack" else _of_answer
    return [reporting.gallery(subject_of(record, answers[number], found), found, found.columns, classes, most)]


def _found(path: Path, name: str | None) -> Path | None:
    """The file or folder of that name as the run wrote it, or as it lies beside the result; None if there is none."""
    there = [] if name is None else [Path(name), path.parent / Path(name).name]
    return next((place for place in there if place.exists()), None)


def _patch_of(answer: dict) -> Patch:
    """The patch that an answer is about.

    Raises:
        UsageError: it is about patches of any shape.
    """
    size = str(answer.get("size_to_certify", answer.get("attack_size")))
    if size.startswith("area:"):
        raise UsageError("size_to_certify", size, "no page can show it; report a run about sizes such as 5 or 2x8")
    return one_patch(size)


def _of_votes(votes: Path, record: dict, classes: list[str], most: int) -> Gallery:
    saved = splits.first(saved_votes.read(votes), *map(record["config"].get, ("limit", "per_class")))
    answer = record["results"][reporting.most_telling(record["results"])]
    rule = TopOneVote() if answer["threshold"] is None else ThresholdVote(answer["threshold"])
    asked = {name: answer[name] for name in ("certificate", "patches", "numerical_margin")}
    question = Question(_patch_of(answer), rule, **asked)
    saved.require(rule, question.numerical_margin)
    (verdicts,) = saved_votes.certify(saved, Certifier(saved.ablation, [question]))
    subject = reporting.of_saved(saved, question, verdicts.votes - verdicts.runner_up_votes)
    return reporting.gallery(subject, saved, vars(verdicts), classes, most)


def _of_windows(votes: Path, record: dict, classes: list[str], most: int) -> Gallery:
    saved = archives.read(votes, {saved_answers.KIND: saved_answers.of})
    saved = splits.first(saved, *map(record["config"].get, ("limit", "per_class")))
    return saved_windows.gallery(saved, record["results"], classes, most)


def _of_answer(record: dict, answer: dict, rows: Rows) -> Subject:
    """One answer of certifying without its votes: leads, and the images where the data is there."""
    config, columns, ablation = record["config"], rows.columns, _ablation(record["config"])
    if "windows" in answer:
        return window_galleries.subject_of_rows(answer, columns)
    patch = _patch_of(answer)
    about, copies = summaries.of_question(answer), str(ablation or "")
    if "lead" in columns:
        margin, leads_are = answer["numerical_margin"], "lead at the worst pair of masks"
        return Subject(about, copies, patch, _pictures(config, rows), columns["lead"], margin, leads_are, "logits")
    boundary = ablation and 2 * ablation.most_touched(patch, answer.get("patches", 1)) + 0.5
    leads = columns["votes"] - columns["runner_up_votes"]
    return Subject(about, copies, patch, _pictures(config, rows), leads, boundary, "lead over the runner-up")


def _of_model(record: dict, model: dict, rows: Rows) -> Subject:
    against = ", ".join(f"{name} {value}" for name, value in record["evaluated_against"].items())
    return Subject(f"{model['model_id']}, {against}", "", None, _pictures(record["config"], rows))


def _of_attack(record: dict, answer: dict, rows: Rows) -> Subject:
    """An attack: which images flipped, where the patch was, and images of it where --save_images wrote them."""
    config, size = record["config"], record["config"].get("size_of_attack")
    patch = one_patch(str(size)) if size and "%" not in str(size) else None  # of a share, as older versions wrote
    written = Path(config["save_images"]) if config.get("save_images") else None

    def look(chosen: Tensor) -> Views:
        pictures = reporting.saved_pictures(config, rows.indices[chosen])
        row, column, after = (rows.columns[name][chosen] for name in ("row", "column", "predicted_after"))
        if pictures is None:
            return Views(predicted_after=after)
        places = row * (pictures.shape[3] - patch.width + 1 if patch else 1) + column
        attacked = written and _attacked(pictures, rows.indices[chosen][places >= 0], places >= 0, written)
        return Views(pictures, attacked=attacked, attacked_at=places.where(row >= 0, -1), predicted_after=after)

    about = f"patch {in_words(size)}" if size else f"every pixel by up to {config['epsilon']:.3g}"
    return Subject(about, str(_ablation(config) or ""), patch, look)


def _attacked(pictures: Tensor, indices: Tensor, flipped: Tensor, folder: Path) -> Tensor | None:
    """The `pictures` (n, C, H, W), in place of those `flipped` (n,) what --save_images wrote; None where it is gone."""
    found = pictures.clone()
    files = [folder / f"image_{index:05d}_attacked.png" for index in indices.tolist()]
    if not all(file.is_file() for file in files):
        return None
    for number, file in zip(flipped.nonzero().flatten().tolist(), files, strict=True):
        with Image.open(file) as picture:
            pixels = torch.from_numpy(np.array(picture.convert(MODES[pictures.shape[1]])))
        found[number] = pixels.view(*pictures.shape[2:], -1).permute(2, 0, 1)
    return found


def _pictures(config: dict, rows: Rows) -> Callable[[Tensor], Views]:
    return lambda chosen: Views(reporting.saved_pictures(config, rows.indices[chosen]))


def _ablation(config: dict) -> Ablation | None:
    """The copies that a run looked at, where it says so."""
    about = (config.get("config_of_votes", config).get("about") or {}).get("run")
    return about and described(about["ablation"])


def _read(table: Path, totals: Sequence[int]) -> list[Rows]:
    """The rows of each answer, of which there are as many as `totals` say.

    Raises:
        UsageError: the file is another one.
    """
    try:
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if len(rows) != sum(totals):
            raise ValueError(f"it has {len(rows)} rows, the result is about {sum(totals)}")
        columns = {name: _column(name, [row[name] for row in rows]) for name in rows[0]}
        columns = {name: column for name, column in columns.items() if column is not None}
        labels, indices = columns.pop("label"), columns.pop("index")
    except (ValueError, KeyError, OSError, OverflowError, csv.Error) as error:
        raise UsageError("per_image", table, f"not the rows per image of the result: {error}") from error
    parts = [labels.split(totals), indices.split(totals)]
    found = {name: column.split(totals) for name, column in columns.items()}
    return [
        Rows(label, index, {name: parts[number] for name, parts in found.items()})
        for number, (label, index) in enumerate(zip(*parts, strict=True))
    ]


def _column(name: str, texts: list[str]) -> Tensor | None:
    """(N,): whole numbers, truths or leads; None of columns that are not looked at."""
    if name in NUMBERS:
        return torch.tensor([int(text) for text in texts])
    if name == "lead":
        return torch.tensor([float(text or "nan") for text in texts], dtype=torch.float64)  # not all answers have one
    if name == "flipped" or name.startswith("certified"):
        return torch.tensor([{"True": True, "False": False}[text] for text in texts])
    return None
