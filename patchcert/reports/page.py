"""The page of a report: one HTML file that needs nothing else, and beside it its figures, images and numbers."""

import json
from collections.abc import Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from patchcert import result_format
from patchcert.files import write_atomically
from patchcert.patch_sizes import in_words
from patchcert.reports import figures, glossary
from patchcert.reports.cards import card, scale_of, write_picture
from patchcert.reports.exhibits import OUTCOMES, Gallery, Run
from patchcert.reports.points import Point, points_of
from patchcert.version import VERSION

HERE = Path(__file__).parent

DIGITS = 4
"""Of leads in report.json, after the point."""


def write(runs: Sequence[Run], folder: Path) -> Path:
    """Write index.html, report.json and the PNGs of figures/ and gallery/ to `folder`; returns the page."""
    points = [point for run in runs for point in points_of(run.name, run.result)]
    galleries = [(run.name, gallery) for run in runs for gallery in run.galleries if gallery.exhibits]
    drawn = figures.accuracies(points)
    for number, (_, gallery) in enumerate(galleries):
        if gallery.leads:
            drawn[f"leads_{number}"] = figures.decisions(
                gallery.leads, f"{gallery.leads_are}, {gallery.unit}", gallery.boundary
            )
    for name, figure in drawn.items():
        figures.save(figure, folder / "figures" / f"{name}.png")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    table = _table(points)
    shown = [_shown(number, name, gallery, folder) for number, (name, gallery) in enumerate(galleries)]
    text = environment.get_template("page.html").render(
        runs=runs,
        table=table,
        explained=glossary.COLUMNS,
        glossary=glossary.of(table, {point.certificate for point in points}, _words(shown)),
        figures={name: (_svg(figure), figure.get_figwidth()) for name, figure in drawn.items()},
        galleries=shown,
        outcomes=OUTCOMES,
        colours=figures.OUTCOMES,
        zip=zip,
        version=VERSION,
    )
    record = result_format.stamp("report") | {"runs": [_as_json(run) for run in runs]}
    write_atomically(folder / "report.json", lambda file: file.write(json.dumps(record).encode()))
    write_atomically(folder / "index.html", lambda file: file.write(text.encode()))
    result_format.require(record, str(folder / "report.json"))
    return folder / "index.html"


def _table(points: Sequence[Point]) -> dict[str, list[tuple[str, object]]]:
    """Columns of the table of answers, each of texts and the values to sort by, less those that say nothing.

    The shares come first, so that a narrow screen shows them; before them stands only the run, if there are several.
    """
    columns: dict[str, list[tuple[str, object]]] = {}
    for point in points:
        for heading, (pattern, value) in _cells(point).items():
            said = "" if value is None else pattern.format(value).replace("%", " %")
            columns.setdefault(heading, []).append((said, value))
    if len(set(columns.get("run", []))) == 1:
        del columns["run"]
    return {heading: cells for heading, cells in columns.items() if any(text for text, _ in cells)}


def _cells(point: Point) -> dict[str, tuple[str, object]]:
    return {
        "run": ("{}", point.run),
        "clean": ("{:.2%}", point.clean),
        "certified": ("{:.2%}", point.certified),
        "attacked": ("{:.2%}", point.attacked),
        "patch": ("{}", None if point.patch is None else in_words(point.patch).replace(" × ", "\u00a0×\u00a0")),
        "patches": ("{}", point.patches if point.patches > 1 else None),
        "θ": ("{}", point.threshold),
        "certificate": ("{}", point.certificate),
        "promise": ("{}", point.promise),
        "ν": ("{}", point.numerical_margin or None),
        "s": ("{}", point.shown),
        "certified wrong": ("{}", point.certified_wrong),
        "images": ("{}", point.total),
        "ms per image": ("{:.2f}", point.milliseconds),
    }


def _words(galleries: Sequence[dict]) -> list[str]:
    """What galleries speak of, of the words in the glossary."""
    cards = [card for shown in galleries for card in shown["cards"]]
    there = {
        "copy": any(shown["gallery"].copies for shown in galleries),
        "lead": any(shown["gallery"].leads for shown in galleries) or any(card.lead for card in cards),
        "weak spot": any(card.spots for card in cards),
        "window": any(shown["gallery"].windows for shown in galleries),
        "dissent": any(card.dissenting for card in cards),
    }
    return [word for word, occurs in there.items() if occurs]


def _svg(figure: Figure) -> str:
    """A figure as an element of a page, in the page's own colour of text."""
    text = figures.svg(figure)
    return text[text.index("<svg") :].replace(figures.INK, "currentColor")


def _shown(number: int, run: str, gallery: Gallery, folder: Path) -> dict:
    """What the template needs of a gallery, whose images are written."""
    scale = scale_of(gallery.exhibits)
    cards = []
    for exhibit in gallery.exhibits:
        if exhibit.picture is not None:
            write_picture(exhibit, scale, folder / "gallery" / f"{number}_{exhibit.index:05d}")
        cards.append(card(exhibit, gallery.classes, gallery.unit, scale))
    return {"number": number, "run": run, "gallery": gallery, "cards": cards}


def _as_json(run: Run) -> dict:
    about = {"name": run.name, "about": run.about, "result": run.result}
    return about | {"galleries": [_numbers(gallery) for gallery in run.galleries]}


def _numbers(gallery: Gallery) -> dict:
    """A gallery in report.json, its images left out."""
    images = []
    names = ("index", "label", "predicted", "outcome", "lead", "weakest", "attacked_at", "predicted_after")
    for exhibit in gallery.exhibits:
        image, spots = {name: getattr(exhibit, name) for name in names}, exhibit.weak_spots
        if exhibit.windowed:  # whose weak spots follow from the windows' leads, and are very many
            image["windows"], spots = vars(exhibit.windowed), None
        image["weak_spots"] = None if spots is None else spots.double().round(decimals=DIGITS).tolist()
        images.append(image)
    about = {"about": gallery.about, "unit": gallery.unit, "total": gallery.total, "boundary": gallery.boundary}
    return about | {"images": images}
