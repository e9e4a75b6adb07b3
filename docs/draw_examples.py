"""Draw the examples of docs/certificates.md: scikit-learn's digits of 8 × 8 pixels, a defence that needs no training.

    python3 -m docs.draw_examples

Each of 8 copies of a digit shows 2 of its columns, and is compared with the mean of each class in these columns. That
answers poorly, but everything is real: votes, certificates and bounds are those of the package. Writes
docs/figures/*.svg; the page has the captions, and a test holds them against what is drawn.
"""

import io
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from scipy.special import betaincinv
from sklearn.datasets import load_digits
from torch import Tensor, nn

from patchcert.ablations.ablation import Band
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.classifiers.window_masked import WindowMaskedClassifier, alarms_of
from patchcert.engines.asking import DenseNetwork, softmax_over
from patchcert.engines.plain import PlainNetwork
from patchcert.intervals.places import Scale, Threat, all_places
from patchcert.intervals.worst_places import Batch, all_margins
from patchcert.masking.alarms import ALARM, Alarms
from patchcert.masking.double_masking import DoubleMasking
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.votes.certificate import Certifier, Question
from patchcert.votes.rules import ThresholdVote, TopOneVote

FIGURES = Path(__file__).parent / "figures"
BANDS, PATCH, THETA, ALPHA = Band(8, 8, 2), Patch(2, 2), 0.25, 0.05
PLACES = 8 - PATCH.width + 1
WINDOWS = HiddenWindows.for_patch(8, 8, PATCH, per_side=3)
MARGIN = 1e-3
"""ν, as scripts have it."""

LEARNT = 1000
"""Digits from which the means are taken; examples are among the others."""

INK, DARK_INK, GREY, BLUE, RED = "#24292f", "#e6edf3", "#8b949e", "#2f81f7", "#e5534b"
HIDDEN = torch.tensor([0.45, 0.52, 0.62])
STYLE = f"""<style>@media (prefers-color-scheme: dark) {{
[style*="fill: {INK}"] {{fill: {DARK_INK} !important}} [style*="stroke: {INK}"] {{stroke: {DARK_INK} !important}}
}}</style>"""
"""Turns what is drawn in ink light where the reader's screen is dark; the background is the page's own."""


class Means(nn.Module):
    """Logits of copies (B, 2, 8, 8): how far what they show is from the mean of each class."""

    def __init__(self, means: Tensor):
        super().__init__()
        self.means = means  # (K, 8, 8)

    def forward(self, copies: Tensor) -> Tensor:
        shown = copies.sum(dim=1, keepdim=True)  # x + (1 − x) where a pixel is shown, 0 where it is hidden
        return -5 * (copies[:, :1] - self.means * shown).square().sum(dim=(2, 3))


@dataclass(frozen=True)
class Digits:
    """The digits that examples are taken from, and what the copies say of them.

    Attributes:
        images: (N, 8, 8) in [0, 1]; labels: (N,).
        means: (K, 8, 8), of each class.
        probabilities: (N, A, K) of the copies.
    """

    images: Tensor
    labels: Tensor
    means: Tensor
    probabilities: Tensor

    @classmethod
    def load(cls) -> "Digits":
        data = load_digits()
        images, labels = torch.tensor(data.images, dtype=torch.float32) / 16, torch.tensor(data.target)
        means = torch.stack([images[:LEARNT][labels[:LEARNT] == label].mean(dim=0) for label in range(10)])
        images, labels = images[LEARNT:], labels[LEARNT:]
        engine = DenseNetwork(Means(means), BANDS)
        return cls(images, labels, means, softmax_over(engine, images[:, None], BANDS, batch_size=128))

    def linear(self) -> nn.Module:
        """The same classifier of whole digits (B, 1, 8, 8): a linear layer, less what all classes have in common."""
        layer = nn.Linear(64, 10)
        with torch.no_grad():
            layer.weight.copy_(2 * self.means.flatten(1))
            layer.bias.copy_(-self.means.flatten(1).square().sum(dim=1))
        return nn.Sequential(nn.Flatten(), layer).eval()

    def certified(self, kind: str) -> Tensor:
        """(N,) bool: right, and certified by this certificate of the votes."""
        question = Question(PATCH, ThresholdVote(THETA), kind)
        (verdicts,) = Certifier(BANDS, [question])([(torch.arange(BANDS.count), self.probabilities)])
        return verdicts.certified & (verdicts.predicted == self.labels)

    def votes(self, number: int) -> Tensor:
        """(A, K) int64: who votes for what."""
        return ThresholdVote(THETA)(self.probabilities[number]).to(torch.int64)


def first(chosen: Tensor) -> int:
    return int(chosen.nonzero()[0])


def canvas(*widths: float) -> tuple[Figure, list[Axes]]:
    """Axes in a row, of these widths to one another."""
    figure, axes = pyplot.subplots(1, len(widths), figsize=(8, 2.6), width_ratios=widths, squeeze=False)
    return figure, list(axes.flat)


def show_digit(axes: Axes, image: Tensor, shown: Tensor | None = None, edge: str = GREY) -> None:
    """A digit, less the pixels that are not `shown` (8, 8) bool."""
    pixels = image[..., None].expand(-1, -1, 3)
    if shown is not None:
        pixels = pixels.where(shown[..., None], HIDDEN)
    axes.imshow(pixels.numpy(), interpolation="none")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=edge, linewidth=1 if edge == GREY else 2.5)


def outline(axes: Axes, row: int, column: int, size: Patch = PATCH, edge: str = RED) -> None:
    corner = (column - 0.5, row - 0.5)
    axes.add_patch(Rectangle(corner, size.width, size.height, fill=False, edgecolor=edge, linewidth=2.5))


def plain(axes: Axes, title: str, xlabel: str = "", ylabel: str = "") -> None:
    axes.set_title(title, fontsize=10)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)


def draw_margin(digits: Digits) -> tuple[Figure, str]:
    counts = ThresholdVote(THETA)(digits.probabilities).sum(dim=1)
    most = BANDS.most_touched(PATCH)
    second, winner = counts.sort().values[:, -2:].T
    number = int(second.where(digits.certified("margin") & (winner - second > 2 * most), -1).argmax())
    votes = counts[number]
    place = 3
    touched = BANDS.touched_by(PATCH)[place]
    figure, axes = pyplot.subplot_mosaic(
        [["digit", *range(4), "votes"], ["digit", *range(4, 8), "votes"]],
        figsize=(8, 2.4), width_ratios=[2.1, 1, 1, 1, 1, 3.2],
    )  # fmt: skip
    show_digit(axes["digit"], digits.images[number])
    outline(axes["digit"], 3, place)
    plain(axes["digit"], f"a patch of {PATCH.height} × {PATCH.width}")
    for copy, mask in enumerate(BANDS.masks()):
        show_digit(axes[copy], digits.images[number], mask, RED if touched[copy] else GREY)
        chosen = digits.votes(number)[copy].nonzero().flatten().tolist()
        axes[copy].set_xlabel(", ".join(map(str, chosen)) or "none", labelpad=2)
    winner, second = votes.argsort(descending=True, stable=True)[:2].tolist()
    axes["votes"].bar(range(10), votes.tolist(), color=[BLUE if k == winner else GREY for k in range(10)])
    axes["votes"].set_xticks(range(10))
    plain(axes["votes"], f"lead {votes[winner] - votes[second]}, needed: more than {2 * most}", "class", "votes")
    return figure, (
        f"The digit is a {winner}. Of {BANDS.count} copies, {votes[winner]} vote for {winner}, and {votes[second]} "
        f"vote for the runner-up. A patch touches at most Δ = {most} copies, here the red ones, and changes a lead by "
        f"at most {2 * most}. {int(digits.certified('margin').sum())} of {len(digits.images)} digits are certified in "
        f"this way."
    )


def draw_exact(digits: Digits) -> tuple[Figure, str]:
    gained = digits.certified("exact") & ~digits.certified("margin")
    number = first(gained)
    votes = digits.votes(number)
    touched = BANDS.touched_by(PATCH)[:PLACES].to(torch.int64)  # (L, A), the places of one row
    kept = (1 - touched) @ votes  # (L, K)
    winner = int(votes.sum(dim=0).argmax())
    rivals = kept + touched.sum(dim=1, keepdim=True)
    rivals[:, winner] = 0
    lead = int(votes.sum(dim=0)[winner] - votes.sum(dim=0).sort().values[-2])
    figure, axes = canvas(1, 2.6)
    show_digit(axes[0], digits.images[number])
    plain(axes[0], f"a {winner}")
    places = np.arange(PLACES)
    axes[1].bar(places - 0.2, kept[:, winner].tolist(), 0.4, color=BLUE, label=f"votes for {winner} that are left")
    axes[1].bar(
        places + 0.2, rivals.amax(dim=1).tolist(), 0.4, color=RED, label="the best rival, with all that are touched"
    )
    axes[1].set_ylim(0, 9.5)
    axes[1].legend(frameon=False, fontsize=9, ncols=2, loc="upper center")
    plain(axes[1], "", "column where the patch begins", "votes")
    return figure, (
        f"This {winner} leads by {lead} votes. That is fewer than 2Δ = {2 * BANDS.most_touched(PATCH)}, so `margin` "
        f"proves nothing. But wherever the patch lies, no rival gets more votes than the {winner} keeps, and the lower "
        f"class wins a tie. Of {len(digits.images)} digits, {int(gained.sum())} is certified by `exact` and not by "
        f"`margin`."
    )


def draw_masking(digits: Digits) -> tuple[Figure, str]:
    scores = digits.probabilities.log().double()
    verdicts = DoubleMasking(BANDS, PATCH).verdicts(scores, Margin.of_scores(MARGIN, "float32"))
    certified = verdicts.certified & (verdicts.predicted == digits.labels)
    number = int(verdicts.lead.where(certified & ~digits.certified("exact"), -1).argmax())
    winner = int(verdicts.predicted[number])
    touched = BANDS.touched_by(PATCH)[:PLACES]  # (L, A), the places of one row
    kept = ~(touched[:, None] | touched)  # (L, L, A)
    sums = kept.double() @ scores[number]  # (L, L, K)
    leads = (sums[..., [winner]] - sums).index_fill(2, torch.tensor([winner]), math.inf).amin(dim=2)
    worst = divmod(int(leads.argmin()), PLACES)
    figure, axes = canvas(1, 1, 1.9)
    show_digit(axes[0], digits.images[number])
    plain(axes[0], f"a {winner}")
    left = (BANDS.masks()[kept[worst]]).any(dim=0)
    show_digit(axes[1], digits.images[number], left)
    plain(axes[1], "what the worst pair leaves")
    shown = axes[2].imshow(leads.numpy(), cmap="viridis", vmin=0, aspect="auto")
    figure.colorbar(shown, ax=axes[2], label="lead")
    axes[2].add_patch(Rectangle((worst[1] - 0.5, worst[0] - 0.5), 1, 1, fill=False, edgecolor=RED, linewidth=2.5))
    plain(axes[2], "", "one place is left out", "and another")
    return figure, (
        f"This is a {winner}. The worst pair of places begins at columns {worst[0]} and {worst[1]}: if the bands that "
        f"are touched there are left out, the {winner} still leads by {verdicts.lead[number]:.2f}. After any other "
        f"pair, or a single place (the diagonal), it leads by more. {int(certified.sum())} of {len(digits.images)} "
        f"digits are certified in this way."
    )


def asked(classifier: WindowMaskedClassifier, images: Tensor) -> tuple[Tensor, Alarms]:
    """The answers without each window, (N, M), and what alarms follow from, for images (N, 8, 8)."""
    singles = [verdict.singles for verdict in classifier.verdicts(images[:, None], MARGIN, certify=False)]
    whole = classifier.of_whole(images[:, None]).classes
    return torch.stack([answers.classes for answers in singles]), alarms_of(singles, whole)


def patched(image: Tensor) -> Tensor:
    """(P, 8, 8): a digit with each patch of black and white pixels, for one place (L) after the other."""
    patches = torch.tensor(list(product((0.0, 1.0), repeat=PATCH.height * PATCH.width)))
    images = image.repeat(PLACES, PLACES, len(patches), 1, 1)
    for row, column in product(range(PLACES), repeat=2):
        shown = images[row, column, :, row : row + PATCH.height, column : column + PATCH.width]
        shown.copy_(patches.view_as(shown))
    return images.flatten(0, 2)


def show_windows(figure: SubFigure, image: Tensor, answers: Tensor, edges: list[str]) -> Axes:
    """A digit, and below it what is left without each of 3 × 3 windows, and the answers (9,). Returns the digit's."""
    axes = figure.subplot_mosaic([["whole"] * 3, [0, 1, 2], [3, 4, 5], [6, 7, 8]], height_ratios=[2.2, 1, 1, 1])
    show_digit(axes["whole"], image)
    for window, (answer, edge) in enumerate(zip(answers.tolist(), edges, strict=True)):
        (hidden,) = WINDOWS.hidden(torch.tensor([[window, window]]))
        show_digit(axes[window], image, ~hidden, edge)
        axes[window].set_xlabel(answer, labelpad=3, fontsize=12)
    return axes["whole"]


def draw_alarms(digits: Digits) -> tuple[Figure, str]:
    network = PlainNetwork(digits.linear(), hidden=float(digits.means.mean()))
    classifier = WindowMaskedClassifier(network, WINDOWS, batch_size=256)
    clean, of_clean = asked(classifier, digits.images)
    certified = of_clean.strict(MARGIN)[1] & (of_clean.agreed == digits.labels)
    recovered = torch.tensor([verdict.certified for verdict in classifier.verdicts(digits.images[:, None], MARGIN)])
    covering = WINDOWS.covering(PATCH).flatten(1)  # (M, L)
    patches = 2 ** (PATCH.height * PATCH.width)
    by_one_window = (covering.sum(dim=0) == 1).repeat_interleave(patches)  # (P,)

    def wrong(number: int) -> Tensor:
        """(P,) bool: with which patches, that one window covers, the network gives another class."""
        answers = network(patched(digits.images[number])[:, None]).argmax(dim=1)
        return by_one_window & (answers != digits.labels[number])

    number = next(number for number in certified.nonzero().flatten().tolist() if wrong(number).any())
    image, label = digits.images[number], int(digits.labels[number])
    attacked = patched(image)
    answers, alarms = asked(classifier, attacked)
    changed = (answers != label).sum(dim=1)
    worst = int(changed.where(wrong(number), -1).argmax())
    place = worst // patches
    (window,) = covering[:, place].nonzero().flatten().tolist()
    top, bottom, left, right = WINDOWS.rectangles[window].tolist()
    figure = pyplot.figure(figsize=(5.2, 5.2))
    before, after = figure.subfigures(1, 2, wspace=0.06)
    plain(show_windows(before, image, clean[number], [GREY] * WINDOWS.count), "no patch", f"the whole: {label}")
    edges = [BLUE if other == window else RED for other in range(WINDOWS.count)]
    whole = show_windows(after, attacked[worst], answers[worst], edges)
    plain(whole, f"a patch of {PATCH.height} × {PATCH.width}", f"the whole: {int(alarms.whole[worst])}")
    outline(whole, *divmod(place, PLACES))
    outline(whole, top, left, Patch(bottom - top, right - left), BLUE)
    before.supxlabel(f"all answer {label}: the output is {label}", fontsize=11)
    after.supxlabel("the answers differ: alarm", fontsize=11)
    raised, kept = int((alarms.agreed == ALARM).sum()), int((alarms.agreed == label).sum())
    return figure, (
        f"The {WINDOWS.count} small images hide one window each, of {bottom - top} × {right - left} pixels. Below each "
        f"is its answer. Left: all answers are {label}, so the output is {label}. Right: a patch, outlined in red, "
        f"changes the answer for the whole image to {int(alarms.whole[worst])}. The blue window covers the patch. If "
        f"it is hidden, the answer is still {label}. The red images show some of the patch, and "
        f"{int(changed[worst])} of their answers have changed. So the answers differ, and the output is the alarm. "
        f"Of {len(attacked)} patches of black and white pixels, {raised} raise the alarm, {kept} leave the output at "
        f"{label}, and {len(attacked) - raised - kept} give another class. {int(certified.sum())} of "
        f"{len(digits.images)} digits are certified in this way. With the same windows, double masking certifies "
        f"{int((recovered & certified).sum())}."
    )


def draw_randomized(digits: Digits) -> tuple[Figure, str]:
    shares = TopOneVote()(digits.probabilities).double().mean(dim=1).gather(1, digits.labels[:, None])[:, 0]
    needed = 0.5 + BANDS.most_touched(PATCH) / BANDS.count
    samples = np.arange(1, 201)
    figure, (axes,) = canvas(1)
    reached = []
    for share, colour in ((1.0, BLUE), (0.875, GREY)):
        number = first(shares == share)
        draws = np.random.default_rng(0).random(len(samples)) < share
        successes = draws.cumsum()
        bounds = betaincinv(successes, samples - successes + 1, ALPHA)
        axes.plot(samples, bounds, color=colour, label=f"a {int(digits.labels[number])}, {share:.1%} of the copies")
        reached += samples[bounds > needed].tolist()
    axes.axhline(needed, color=RED, label=f"needed: more than 1/2 + Δ/A = {needed}")
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    plain(axes, "", "samples", "lower bound of the share")
    return figure, (
        f"If every copy votes for the class, {reached[0]} samples are enough at α = {ALPHA}. If 7 of 8 copies do, no "
        f"number of samples is enough: their share is {needed}, and it would have to be larger."
    )


def draw_intervals(digits: Digits) -> tuple[Figure, str]:
    scale, images = Scale((0.0,), (1.0,)), digits.images[:, None]
    batch = Batch(digits.linear(), images, digits.labels, Threat(PATCH), scale)
    bounds = all_margins(batch, all_places(images, PATCH))  # (L, N, K)
    lowest = bounds.scatter(2, digits.labels.expand(len(bounds), -1)[..., None], math.inf).amin(dim=2)  # (L, N)
    number = int(lowest.amin(dim=0).argmax())
    label, place = int(digits.labels[number]), int(lowest[:, number].argmin())
    clean = batch.network(images[[number]])[0].detach()
    figure, axes = canvas(1, 1.6, 1.3)
    show_digit(axes[0], digits.images[number])
    outline(axes[0], *divmod(place, PLACES))
    plain(axes[0], f"a {label}, and the worst place")
    axes[1].bar(range(10), (clean[label] - clean).tolist(), color=GREY, label="of the digit itself")
    axes[1].bar(range(10), bounds[place, number].tolist(), 0.5, color=BLUE, label="at least, whatever the patch shows")
    axes[1].set_ylim(0, 1.4 * float((clean[label] - clean).max()))
    axes[1].legend(frameon=False, fontsize=9, loc="upper center")
    axes[1].set_xticks(range(10))
    plain(axes[1], "its lead there", "over class", "lead")
    shown = axes[2].imshow(lowest[:, number].view(PLACES, PLACES).numpy(), cmap="viridis", vmin=0)
    figure.colorbar(shown, ax=axes[2], label="lowest margin")
    plain(axes[2], "every place", "column", "row")
    return figure, (
        f"This is a {label}. At the worst place of the patch, its lead over "
        f"{int(bounds[place, number].argsort()[1])} may fall from "
        f"{float(clean[label] - clean[bounds[place, number].argsort()[1]]):.2f}, but not below "
        f"{float(lowest[place, number]):.2f}. At every other place it keeps more. "
        f"{int((lowest.amin(dim=0) > 0).sum())} of {len(digits.images)} digits are certified in this way."
    )


DRAWN = {
    "margin": draw_margin,
    "exact": draw_exact,
    "masking": draw_masking,
    "alarms": draw_alarms,
    "randomized": draw_randomized,
    "intervals": draw_intervals,
}


def save(figure: Figure, path: Path) -> None:
    """As SVG that is the same on every day."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    head, start, rest = text.getvalue().partition("<defs>")
    path.write_text(head + STYLE + start + rest)


def main(folder: Path = FIGURES) -> dict[str, str]:
    """Draw all examples into `folder`; returns the captions, by the figures' names."""
    in_ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    same_every_day = {"svg.fonttype": "none", "svg.hashsalt": "patchcert", "figure.constrained_layout.use": True}
    folder.mkdir(parents=True, exist_ok=True)
    digits, captions = Digits.load(), {}
    with matplotlib.rc_context(same_every_day | in_ink):
        for name, draw in DRAWN.items():
            figure, captions[name] = draw(digits)
            save(figure, folder / f"{name}.svg")
    return captions


if __name__ == "__main__":
    for name, caption in main().items():
        print(f"{name}: {caption}")
