"""What `--report` shows of a run: which question, which images, and what is to be seen of them."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from patchcert import messages
from patchcert.ablations.ablation import Ablation
from patchcert.ablations.windows import BandsAndWindows
from patchcert.classifiers import weak_spots
from patchcert.data import class_numbers, folders, listing
from patchcert.data.folders import Images, PictureFolder
from patchcert.errors import UsageError
from patchcert.experiments import summaries
from patchcert.experiments.setting import load_images
from patchcert.patch import Patch
from patchcert.reports.exhibits import MOST_COPIES, MOST_IMAGES, Decisions, Gallery, Run, Views, by_outcome
from patchcert.results import Labelled
from patchcert.votes.certificate import Question
from patchcert.votes.rules import TopOneVote
from patchcert.votes.saved_votes import SavedVotes

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class Subject:
    """A question as a report shows it.

    Attributes:
        about: the question in words.
        copies: what ablated copies there are, in words.
        patch: None where the adversary has none.
        look: numbers (n,) of some of the images, to what is to be seen of them.
        leads: (N,), how far each answer leads; None where that is not known.
        boundary: the lead from which on answers are certified, where that is known.
        leads_are: what leads are, and `unit` what they are counted in.
        windows: what windows are hidden, in words.
    """

    about: str
    copies: str
    patch: Patch | None
    look: Callable[[Tensor], Views]
    leads: Tensor | None = None
    boundary: float | None = None
    leads_are: str = ""
    unit: str = "votes"
    windows: str = ""


def most_telling(answers: list[dict]) -> int:
    """The number of that answer in a result which certifies nearest to half of what is right.

    By the margin, or with alarms, only if need be: weak spots are those of `exact` and of recovery, and explain their
    answers best.
    """

    def dullness(number: int) -> tuple[bool, float]:
        answer = answers[number]
        explained_by_another = answer.get("certificate") == "margin" or answer.get("goal") == "alert"
        return explained_by_another, abs((answer["certified_correct"] or 0) - answer["correct"] / 2)

    return min(range(len(answers)), key=dullness)


def write(folder: Path, runs: list[Run]) -> None:
    """Write the page of these runs to `folder` and say so."""
    from patchcert.reports import page  # with Jinja and matplotlib, which other runs do without

    messages.print_report(page.write(runs, folder))


def of_run(
    name: str,
    about: str,
    images: Labelled,
    record: dict,
    columns: list[dict[str, Tensor]],
    subject: Callable[[int], Subject],
) -> Run:
    """A run as a report shows it.

    Args:
        about: what was asked of which images, in words.
        record: what `--output` holds.
        columns: for each answer in it those of the table per image, (N,) each.
        subject: the number of an answer, to what is shown of it.
    """
    number = most_telling(record["results"])
    shown = gallery(subject(number), images, columns[number], class_names(record["config"]), MOST_IMAGES)
    return Run(name, about, record, [shown])


def gallery(subject: Subject, images: Labelled, columns: dict[str, Tensor], classes: list[str], most: int) -> Gallery:
    """At most so many of the images, as a `subject` shows them."""
    columns = {name: column.cpu() for name, column in columns.items()}
    leads = subject.leads
    if leads is not None:
        leads = leads.cpu().double() if leads.isfinite().all() else None  # of one class alone they are infinite
    slack = None if leads is None else leads - (subject.boundary or 0.0)
    decisions = Decisions.of(images.indices, images.labels.cpu(), columns, slack)
    chosen = decisions.choose(most)
    return Gallery(
        subject.about,
        classes,
        subject.copies,
        subject.unit,
        len(images.labels),
        decisions.exhibits(chosen, subject.look(chosen), subject.patch),
        {} if leads is None else by_outcome(decisions.outcomes, leads.tolist()),
        subject.leads_are,
        subject.boundary,
        subject.windows,
    )


def of_votes(ablation: Ablation, question: Question, leads: Tensor, look: Callable[[Tensor], Views]) -> Subject:
    """A question about votes; `leads` (N,) are over the runner-up."""
    boundary = 2 * ablation.most_touched(question.patch, question.patches) + 0.5  # of 2Δ, a tie may go either way
    words = summaries.of_question(question.as_json())
    return Subject(words, str(ablation), question.patch, look, leads, boundary, "lead over the runner-up")


def of_saved(saved: SavedVotes, question: Question, leads: Tensor) -> Subject:
    """A question about saved votes."""

    def shown(chosen: Tensor) -> Tensor | None:
        return saved_pictures(saved.config, saved.indices[chosen])

    def votes(chosen: Tensor) -> list[Iterable[tuple[Tensor, Tensor]]]:
        return [chunks for chunks, _ in saved.take(chosen).batches(len(chosen))]

    look = looking_at_votes(saved.ablation, question, votes, shown)
    return of_votes(saved.ablation, question, leads, look)


def of_top_one(ablation: Ablation, patch: Patch, votes: Tensor, shown: Callable[[Tensor], Tensor]) -> Subject:
    """What random samples are drawn from: all votes (N, A, K) bool, and where a patch breaks their majority."""
    question, every = Question(patch, TopOneVote(), "exact"), torch.arange(ablation.count, device=votes.device)
    look = looking_at_votes(ablation, question, lambda chosen: [[(every, votes[chosen].float())]], shown)
    first, second = votes.sum(dim=1).topk(2, dim=1).values.unbind(dim=1)
    about = summaries.of_question({"attack_size": patch.size})
    return replace(of_votes(ablation, question, first - second, look), about=f"{about}; weak spots of all votes")


def looking_at_votes(
    ablation: Ablation,
    question: Question,
    batches: Callable[[Tensor], Iterable[Iterable[tuple[Tensor, Tensor]]]],
    shown: Callable[[Tensor], Tensor | None],
) -> Callable[[Tensor], Views]:
    """What is to be seen of images whose copies vote, those of the numbers (n,).

    Args:
        batches: for some of these images at a time what `Certifier` takes.
        shown: (n, C, H, W) uint8, their images.
    """

    def look(chosen: Tensor) -> Views:
        seen = [_votes_of_batch(ablation, question, chunks) for chunks in batches(chosen)]
        spots, copies = (None if parts[0] is None else torch.cat(parts) for parts in zip(*seen, strict=True))
        return Views(shown(chosen), spots, copies, touched_by(ablation, question.patch), borders_of(ablation))

    return look


def touched_by(ablation: Ablation, patch: Patch) -> Tensor | None:
    """(L, A) bool, the copies that a patch touches at each place, where they are few enough to look at."""
    return ablation.touched_by(patch) if ablation.count <= MOST_COPIES else None


def borders_of(ablation: Ablation) -> Tensor:
    """(F−1,) int64: the numbers of the copies with which another kind begins, such as bands of rows after columns."""
    joint = isinstance(ablation, BandsAndWindows)
    kinds = [*ablation.bands.families(), ablation.windows] if joint else ablation.families()
    return torch.tensor([kind.count for kind in kinds]).cumsum(dim=0)[:-1]


def _votes_of_batch(
    ablation: Ablation, question: Question, chunks: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor | None, Tensor | None]:
    """Weak spots, None where there are too many pairs of places, and the copies, None of too many."""
    kept = []

    def passing() -> Iterator[tuple[Tensor, Tensor]]:
        for indices, probabilities in chunks:
            if ablation.count <= MOST_COPIES:
                kept.append(probabilities)
            yield indices, probabilities

    try:
        spots = weak_spots.of_votes(ablation, question, passing())
    except UsageError:
        spots = None
        list(passing())
    return spots, torch.cat(kept, dim=1) if kept else None


def pictures(dataset: Images, chosen: Tensor) -> Tensor:
    """(n, C, H, W) uint8: the images of those numbers."""
    if isinstance(dataset, PictureFolder):
        return torch.cat([*dataset.decoded(chosen.split(folders.DECODED_AT_ONCE))])
    return dataset.images[chosen]


def saved_pictures(config: dict, indices: Tensor) -> Tensor | None:
    """The images (n, C, H, W) uint8 that a run with these options looked at; None where they cannot be had.

    Args:
        indices: (n,), places in the data set's own order.
    """
    dataset, places = data_set(config), {name: Path(config[name]) for name in ("data", "valpath") if name in config}
    if dataset != "digits" and not any(place.is_dir() for place in places.values()):
        return None  # and no download into a folder that somebody else's file names
    if dataset == "folder" and ("image_size" not in config or "network" in (config.get("about") or {})):
        return None  # only the network's own transform makes them
    try:
        return pictures(load_images(Namespace(**config | {"dataset": dataset} | places), train=False), indices)
    except (UsageError, IndexError):
        return None


def data_set(config: dict) -> str:
    """The data set that a run looked at, from its options."""
    config = config.get("config_of_votes", config)
    return config["experiment"]["dataset"] if "experiment" in config else config["dataset"]


def class_names(config: dict) -> list[str]:
    """What the classes of a run's data set are called, from its options; none where numbers say it all.

    A run that was elsewhere may name files and folders that are not here: then there are none, either.
    """
    dataset, config = data_set(config), config.get("config_of_votes", config)
    if config.get("classes"):
        with suppress(UsageError):
            return class_numbers.read("classes", config["classes"])
        return []
    if dataset in ("folder", "imagenet"):
        where = config.get("data" if dataset == "folder" else "valpath")
        where = where and (class_numbers.part_of(Path(where), train=False) if dataset == "folder" else Path(where))
        return listing.class_names("data", where) if where and where.is_dir() else []
    if dataset == "fashion-mnist":
        from torchvision.datasets import FashionMNIST

        return FashionMNIST.classes
    return CIFAR10 if dataset == "cifar10" else []
