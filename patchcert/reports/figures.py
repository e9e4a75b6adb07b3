"""Figures of results: accuracy against patch size, θ, s and time; curves of training; how close decisions were."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from patchcert.files import write_atomically
from patchcert.patch_sizes import in_words
from patchcert.reports.points import ALERT, Point, curves, grouped, lines

INK = "#010101"
"""Of text and axes, black in print; a page puts its own in place of it."""

STYLE = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "pdf.fonttype": 42,  # TrueType, whole and searchable, as journals ask for
    "svg.hashsalt": "patchcert",  # the same file each time
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")
"""Of Okabe and Ito, which all eyes tell apart, on paper and on a dark page."""

AXES = {
    "patch": ("patch_size", "side of the patch, pixels"),
    "threshold": ("threshold", "θ of the vote"),
    "shown": ("shown", "s, pixels that a copy shows"),
    "milliseconds": ("time", "milliseconds for an image"),
}
"""What accuracy is drawn against, and there the name of the figure and of the axis."""

MOST_PANELS, PANEL = 3, 4.4
"""Beside each other, one for each data set, and how wide they then are, inches."""

PROMISES = {
    "alarms over τ, which stands beside each": {"linestyle": "-", "marker": "o", "markersize": 4},
    "alarms, strict": {"linestyle": "none", "marker": "s", "markersize": 6},
    "recovery, no alarm": {"linestyle": "none", "marker": "D", "markersize": 5},
}
"""How each promise of hidden windows is drawn, in words."""

MEASURES = {"certified": ("-", "o"), "clean": ("--", "."), "attacked": (":", "x")}
"""Line and marker of each accuracy."""

MEASURED = {"test": "-", "training": "--", "robust test": "-", "robust training": "--", "clean test": ":"}
"""Line of each accuracy in a training log."""

OUTCOMES = {
    "wrong, certified": "#8C564B",
    "wrong": "#CC79A7",
    "flipped": "#999933",
    "false alarm": "#8080FF",
    "uncertified": "#56B4E9",
    "certified": "#009E73",
}
"""Of outcomes in a histogram and beside images, where none of these colours means anything else; see `drawing`."""

BINS, MOST_WHOLE = 40, 100
"""Of a histogram, and the most of them where each is a whole number."""

HEIGHT, LINE = 3.2, 0.19
"""Of figures without their legends, and of a line of these, inches."""

LONG = 36
"""Characters of a legend beside which there is no room for another one."""


@rc_context(STYLE)
def accuracies(points: Sequence[Point]) -> dict[str, Figure]:
    """Accuracy against all that the points differ in, by the name of the figure."""
    figures = {}
    for x, (name, label) in AXES.items():
        placed = [point for point in points if isinstance(getattr(point, x), (int, float))]
        if x == "milliseconds":
            placed, label = _of_one_patch(placed, label)
        if len({getattr(point, x) for point in placed}) > (x == "milliseconds") + 1:  # of two times there is no figure
            figures[name] = _accuracy(placed, x, label)
    with_alarms = [point for point in points if point.goal == ALERT]
    if len({(point.confidence, point.clean) for point in with_alarms}) > 1:
        figures["alarms"] = _alarms([point for point in points if point.goal])
    return figures


@rc_context(STYLE)
def training(logs: dict[str, list[dict]]) -> Figure:
    """Loss and accuracy by epoch of training logs, by their names."""
    figure, (left, right) = _figure(2)
    drawn = {}
    for (name, rows), colour in zip(logs.items(), _colours(logs), strict=True):
        epochs = [row["epoch"] for row in rows]
        left.plot(epochs, [row["loss"] for row in rows], color=colour, label=name)
        drawn |= (shares := _shares(rows))
        for measured, values in shares.items():
            right.plot(epochs, values, MEASURED[measured], color=colour)
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    _show_shares(right, "epoch", "accuracy, as training measures it")
    right.legend(handles=[_handle(measured, linestyle=MEASURED[measured]) for measured in drawn])
    if len(logs) > 1:
        left.legend()
    return figure


@rc_context(STYLE)
def decisions(leads: dict[str, Sequence[float]], label: str, boundary: float | None) -> Figure:
    """A histogram of how far answers lead, by outcome; from `boundary` on they are certified."""
    figure, (axes,) = _figure(1)
    colours = [OUTCOMES[outcome] for outcome in leads]
    bins = _bins([lead for found in leads.values() for lead in found], boundary)
    axes.hist(list(leads.values()), bins, stacked=True, color=colours)
    said = [_handle(outcome, colour, marker="s") for outcome, colour in zip(leads, colours, strict=True)]
    if boundary is not None:
        axes.axvline(boundary, color="gray", linestyle="--")
        said.append(_handle("certified from here on", "gray", linestyle="--"))
    axes.set(xlabel=label, ylabel="images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.set_figheight(HEIGHT + LINE * _legend_below(figure, said, wide=True))
    return figure


@rc_context(STYLE)
def save(figure: Figure, path: Path) -> None:
    """Write a figure as what the path's suffix says, .pdf or .png."""
    how = {"format": path.suffix[1:], "metadata": {"CreationDate": None} if path.suffix == ".pdf" else None}
    write_atomically(path, lambda file: figure.savefig(file, dpi=150, **how))


@rc_context(STYLE)
def svg(figure: Figure) -> str:
    """A figure without a background, its text as outlines."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    return file.getvalue()


def _bins(leads: Sequence[float], boundary: float | None) -> list[float]:
    """Edges of a histogram's bins, one of which is the `boundary`, so that no bar has answers of both sides of it.

    There is a bin for each whole number, where leads are such and not far apart.
    """
    low, high = min(leads), max(leads)
    between = boundary is None or boundary % 1 == 0.5  # whole numbers
    if between and high - low <= MOST_WHOLE and all(float(lead).is_integer() for lead in leads):
        return [low - 0.5 + step for step in range(int(high - low) + 2)]
    width = (high - low) / BINS or 1.0
    start = low if boundary is None else math.nextafter(boundary, math.inf)  # at the boundary itself none is certified
    first, last = math.floor((low - start) / width), math.floor((high - start) / width) + 1
    return [start + step * width for step in range(first, last + 1)]


def _of_one_patch(points: Sequence[Point], label: str) -> tuple[list[Point], str]:
    """Of certifying, the points of that patch which most runs have, and the label that says so."""
    runs: dict[int | str, set[str]] = {}
    for point in points:
        if point.patch is not None and point.attacked is None:
            runs.setdefault(point.patch, set()).add(point.run)
    if not runs:
        return [], label
    patch = max(runs, key=lambda patch: len(runs[patch]))
    return [p for p in points if p.patch == patch and p.attacked is None], f"{label}, patch {in_words(patch)}"


def _accuracy(points: Sequence[Point], x: str, label: str) -> Figure:
    """Accuracy against `x`, with a panel for each data set if these are few."""
    panels = {data or "": panel for (data,), panel in grouped(points, ["data"]).items()}
    if len(panels) > MOST_PANELS:
        panels = {"": points}
    figure = Figure(figsize=(6.4 if len(panels) == 1 else PANEL * len(panels), HEIGHT), layout="constrained")
    parts = list(figure.subfigures(1, len(panels), squeeze=False)[0])
    legends: list[list[Line2D]] = []
    for part, (title, panel) in zip(parts, panels.items(), strict=True):
        axes, groups = part.subplots(), lines(panel, x)
        drawn = _draw_accuracy(axes, groups, x)
        _show_shares(axes, label, "share of the images")
        axes.set_title(title if len(panels) > 1 else "")
        legends.append(_handles_of(groups) + [_handle(measure, "gray", **how) for measure, how in drawn.items()])
    if len(parts) > 1:  # axes of one height need legends of one height
        legends = [handles + [_handle("")] * (max(map(len, legends)) - len(handles)) for handles in legends]
    rows = max(_legend_below(part, handles, len(parts) == 1) for part, handles in zip(parts, legends, strict=True))
    figure.set_figheight(HEIGHT + LINE * rows)
    return figure


@rc_context(STYLE)
def _alarms(points: Sequence[Point]) -> Figure:
    """Certified against clean accuracy of defences by hidden windows: alarms over τ, strict ones, and recovery."""
    figure, (axes,) = _figure(1)
    groups, drawn = curves(points), {}
    for found, colour in zip(groups.values(), _colours(groups), strict=True):
        over = [point for point in found if point.goal == ALERT and point.confidence is not None]
        strict = [point for point in found if point.goal == ALERT and point.confidence is None]
        recovery = [point for point in found if point.goal != ALERT]
        for (words, how), some in zip(PROMISES.items(), (over, strict, recovery), strict=True):
            if some:
                drawn[words] = how
                places = [point.clean for point in some], [point.certified for point in some]
                axes.plot(*places, color=colour, clip_on=False, **how)
        for point in over:
            where = (point.clean, point.certified)
            axes.annotate(f"{point.confidence:g}", where, (4, 4), textcoords="offset points", fontsize=7, color=colour)
    axes.set(xlabel="clean: right and no alarm, share of the images", ylabel="certified, share of the images")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:.0%}")
        axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.margins(0.08)
    said = [
        _handle(words, "gray", **{name: how[name] for name in ("linestyle", "marker")}) for words, how in drawn.items()
    ]
    figure.set_figheight(HEIGHT + LINE * _legend_below(figure, [*_handles_of(groups), *said], wide=True))
    return figure


def _handles_of(groups: dict[str, list[Point]]) -> list[Line2D]:
    """What a legend shows of groups that have a name."""
    return [_handle(name, colour, marker="s") for name, colour in zip(groups, _colours(groups), strict=True) if name]


def _legend_below(figure: Figure | SubFigure, handles: list[Line2D], wide: bool) -> int:
    """Write a legend below the axes; returns how many rows it has.

    Args:
        wide: whether there is room for two columns, if names are short.
    """
    columns = 2 if wide and all(len(handle.get_label()) <= LONG for handle in handles) else 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return -(-len(handles) // columns)


def _draw_accuracy(axes: Axes, groups: dict[str, list[Point]], x: str) -> dict[str, dict]:
    """Draw a line for each group and accuracy; returns how each accuracy is drawn."""
    drawn = {}
    for points, colour in zip(groups.values(), _colours(groups), strict=True):
        for measure, (style, marker) in MEASURES.items():
            found = [point for point in points if getattr(point, measure) is not None]
            if found:
                joined = x != "milliseconds" and all(point.joined for point in found)
                how = {"linestyle": style if joined else "none", "marker": marker}
                drawn.setdefault(measure, how)
                places, shares = ([getattr(point, name) for point in found] for name in (x, measure))
                axes.plot(places, shares, color=colour, markersize=5, clip_on=False, **how)
    if x == "milliseconds":
        axes.set_xlim(left=0)
    elif x in ("patch", "shown"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.4 if panels == 1 else 4.0 * panels, HEIGHT), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _show_shares(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, ylim=(0, 1))
    axes.yaxis.set_major_formatter("{x:.0%}")


def _handle(label: str, color: str = "gray", linestyle: str = "none", marker: str = "") -> Line2D:
    """What a legend shows beside `label`."""
    return Line2D([], [], color=color, linestyle=linestyle, marker=marker, markersize=5, label=label)


def _colours(things: Iterable) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number, _ in enumerate(things)]


def _shares(rows: Sequence[dict]) -> dict[str, list[float]]:
    """The accuracies in a training log, by what was measured."""
    if "clean_err" in rows[0]:
        errors = {"robust test": "robust_err", "robust training": "train_robust_err", "clean test": "clean_err"}
        return {measured: [1 - row[error] for row in rows] for measured, error in errors.items()}
    held_out = {"held out": "held_out_accuracy"} if "held_out_accuracy" in rows[0] else {"test": "test_accuracy"}
    found = held_out | {"training": "train_accuracy"}
    return {measured: [row[name] for row in rows] for measured, name in found.items()}
