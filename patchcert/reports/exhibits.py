"""The gallery: which images are shown, and what of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from patchcert.patch import Patch

MOST_IMAGES = 60
"""In one report."""

MOST_COPIES = 1100
"""Of an image, for which a strip of them can be looked at; blocks of 32 × 32 pixels have 1,024."""

OUTCOMES = {
    "wrong, certified": "a wrong answer that no patch changes",
    "flipped": "right until the attack",
    "false alarm": "an alarm although nobody attacks, or too little is known to answer",
    "wrong": "a wrong answer",
    "uncertified": "a right answer without a certificate",
    "certified": "a right answer that no patch changes",
}
"""Of an image, the least common and most telling first."""

Rectangle = tuple[int, int, int, int]
"""Top, left, height and width, pixels."""


@dataclass(frozen=True)
class Windowed:
    """What is to be seen of one image that was shown without windows, alone and in pairs.

    Attributes:
        leads: for each window the least lead of the answer without it, of the questions that were asked.
        weakest: one or two windows without which the answer leads by least, or is lost.
        dissenting: windows without which it is another one than without most.
        asked: so many of all `questions`; of fewer, `leads` are at most what they say.
        said: what was asked in words, the class or an alarm (below 0), and whether that is certified.
    """

    leads: list[float]
    weakest: list[Rectangle]
    dissenting: list[Rectangle]
    asked: int
    questions: int
    said: list[tuple[str, int, bool]]


@dataclass(frozen=True)
class Views:
    """What is to be seen of n images; None where it is not known, or does not exist.

    Attributes:
        pictures: (n, C, H, W) uint8.
        weak_spots: (n, rows, columns), how much lead the answer keeps with the patch at each of its places.
        copies: (n, A, K), the probabilities that the network gave for each ablated copy.
        touched: (L, A) bool, the copies that the patch touches at each of its places.
        borders: (F−1,) int64, the copies with which another kind of copies begins.
        attacked: (n, C, H, W) uint8, as `pictures` where the attack failed.
        attacked_at: (n,) int64, the place of the patch that flipped the answer, below 0 where none did.
        predicted_after: (n,) int64.
        windowed: of each of the n images.
    """

    pictures: Tensor | None = None
    weak_spots: Tensor | None = None
    copies: Tensor | None = None
    touched: Tensor | None = None
    borders: Tensor | None = None
    attacked: Tensor | None = None
    attacked_at: Tensor | None = None
    predicted_after: Tensor | None = None
    windowed: list[Windowed] | None = None

    def take(self, chosen: Tensor) -> "Views":
        """What is to be seen of some of the images, none of which was shown without windows."""
        of_all = ("touched", "borders", "windowed")
        of_images = {name: value for name, value in vars(self).items() if value is not None and name not in of_all}
        return replace(self, **{name: value[chosen] for name, value in of_images.items()})


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery.

    Attributes:
        index: its place in the data set's own order.
        label, predicted, predicted_after: classes; the last is that of the attacked image.
        outcome: of `OUTCOMES`.
        lead: the least of `weak_spots`, or of the windows.
        weakest: where the patch leaves the least of `weak_spots`.
        touched: (A,) bool, the copies that a patch touches there.
        borders: the numbers of the copies with which another kind begins.
        attacked_at: the patch that flipped the answer.
    """

    index: int
    label: int
    predicted: int
    outcome: str
    picture: Tensor | None
    weak_spots: Tensor | None
    lead: float | None
    weakest: Rectangle | None
    copies: Tensor | None
    touched: Tensor | None
    borders: list[int]
    attacked: Tensor | None
    attacked_at: Rectangle | None
    predicted_after: int | None
    windowed: Windowed | None


@dataclass(frozen=True)
class Decisions:
    """What was found about N images; all are (N,).

    Attributes:
        outcomes: of `OUTCOMES`.
        slack: by how much the lead is above what a certificate takes, as far as it is known.
    """

    indices: Tensor
    labels: Tensor
    predicted: Tensor
    outcomes: list[str]
    slack: Tensor | None = None

    @classmethod
    def of(cls, indices: Tensor, labels: Tensor, columns: dict[str, Tensor], slack: Tensor | None) -> "Decisions":
        """From the columns of the table per image: predicted, certified by whatever kind, and under attack flipped."""
        predicted, certified = columns["predicted"], torch.zeros_like(labels, dtype=torch.bool)
        for name, answers in columns.items():
            if name.startswith("certified"):
                certified = certified | answers
        flipped = columns.get("flipped", torch.zeros_like(certified))
        seen = (predicted == labels, certified, flipped, predicted < 0)
        found = zip(*(answers.tolist() for answers in seen), strict=True)
        return cls(indices, labels, predicted, [_outcome(*answer) for answer in found], slack)

    def choose(self, most: int) -> Tensor:
        """(n,) int64 ascending: images for a gallery, in turn one of each outcome, the closest decisions first.

        Where it is not known how close they were, the first ones.
        """
        order = range(len(self.outcomes)) if self.slack is None else self.slack.abs().argsort(stable=True).tolist()
        queues = {outcome: [n for n in order if self.outcomes[n] == outcome] for outcome in OUTCOMES}
        chosen = []
        while len(chosen) < most and any(queues.values()):
            chosen += [queue.pop(0) for queue in queues.values() if queue]
        return torch.tensor(sorted(chosen[:most]), dtype=torch.int64)

    def exhibits(self, chosen: Tensor, views: Views, patch: Patch | None) -> list[Exhibit]:
        """The images `chosen` (n,), with what is to be seen of them, those whose decision was closest first."""
        found = [self._exhibit(number, place, views, patch) for place, number in enumerate(chosen.tolist())]
        slack = torch.zeros(len(chosen)) if self.slack is None else self.slack[chosen]
        leads = [s if e.lead is None else e.lead for e, s in zip(found, slack.tolist(), strict=True)]
        return [found[place] for place in torch.tensor(leads).abs().argsort(stable=True).tolist()]

    def _exhibit(self, number: int, place: int, views: Views, patch: Patch | None) -> Exhibit:
        def seen(of_all: Tensor | None) -> Tensor | None:
            return None if of_all is None else of_all[place].cpu()

        spots, weakest, touched = seen(views.weak_spots), None, None
        if spots is not None:
            least = int(spots.argmin())
            weakest = rectangle(least, spots.shape[1], patch)
            touched = None if views.touched is None else views.touched[least].cpu()
        windowed = None if views.windowed is None else views.windowed[place]
        lead = min(windowed.leads) if windowed else None if spots is None else float(spots.min())
        at = seen(views.attacked_at)
        flipped = at is not None and int(at) >= 0
        width = None if views.pictures is None else views.pictures.shape[3]
        return Exhibit(
            int(self.indices[number]),
            int(self.labels[number]),
            int(self.predicted[number]),
            self.outcomes[number],
            seen(views.pictures),
            spots,
            lead,
            weakest,
            seen(views.copies),
            touched,
            [] if views.borders is None else views.borders.tolist(),
            seen(views.attacked) if flipped else None,
            rectangle(int(at), width - patch.width + 1, patch) if flipped and patch else None,
            int(seen(views.predicted_after)) if flipped else None,
            windowed,
        )


@dataclass(frozen=True)
class Gallery:
    """Images of a run, as one of its questions sees them.

    Attributes:
        about: the question, in words.
        classes: their names; numbers beyond them stand for themselves.
        copies: what ablated copies there are, in words.
        windows: what windows are hidden, in words.
        unit: what leads are counted in.
        total: how many images there are, of which these are some.
        leads: of all images, by outcome, for the histogram; empty where they are not known.
        leads_are: what they are, in words.
        boundary: the lead from which on answers are certified, where that is known.
    """

    about: str
    classes: list[str]
    copies: str
    unit: str
    total: int
    exhibits: list[Exhibit]
    leads: dict[str, list[float]] = field(default_factory=dict)
    leads_are: str = ""
    boundary: float | None = None
    windows: str = ""


@dataclass(frozen=True)
class Run:
    """A result in the format of `--output`, what it is about, and its galleries."""

    name: str
    about: str
    result: dict
    galleries: list[Gallery]


def rectangle(place: int, columns: int, patch: Patch) -> Rectangle:
    """The pixels of `patch` at the place of that number, row-major in as many `columns` of places."""
    return *divmod(place, columns), patch.height, patch.width


def _outcome(right: bool, certified: bool, flipped: bool, alarm: bool) -> str:
    if alarm:
        return "false alarm"
    if not right:
        return "wrong, certified" if certified else "wrong"
    return "flipped" if flipped else "certified" if certified else "uncertified"


def by_outcome(outcomes: Sequence[str], values: Sequence[float]) -> dict[str, list[float]]:
    """The values of the images of each outcome that there is."""
    groups = {outcome: [v for o, v in zip(outcomes, values, strict=True) if o == outcome] for outcome in OUTCOMES}
    return {outcome: group for outcome, group in groups.items() if group}
