"""One image of the gallery as the page shows it: pictures as data: addresses, boxes in percent, names of classes."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchcert.files import write_atomically
from patchcert.reports import drawing
from patchcert.reports.exhibits import Exhibit, Rectangle

LARGE = 64
"""Pixels on a side above which pictures are photographs, and go into the page as JPEG, a tenth of the size."""


@dataclass(frozen=True)
class Card:
    """What the page shows of an exhibit; None of what there is nothing.

    Attributes:
        label, predicted, after: names of classes; the last is that of the attacked picture.
        picture, attacked, spots, strip: data: addresses.
        aspect: of the picture.
        large: whether it is a photograph, not to be shown pixel by pixel.
        spots_at, weakest, attacked_at: boxes in it.
        lead: the least, and where.
        rows: what the strip's rows are about.
        borders: where another kind of copies begins in it, percent from the left.
    """

    exhibit: Exhibit
    label: str
    predicted: str
    after: str | None = None
    picture: str | None = None
    attacked: str | None = None
    attacked_at: str | None = None
    aspect: str = "1 / 1"
    large: bool = False
    spots: str | None = None
    spots_at: str | None = None
    weakest: str | None = None
    lead: str | None = None
    strip: str | None = None
    rows: Sequence[str] = ()
    borders: Sequence[float] = ()


def scale_of(exhibits: Sequence[Exhibit]) -> float:
    """The lead at which colours end, for all images of a gallery: one that nine places of ten do not exceed."""
    leads = [exhibit.weak_spots.flatten().double().abs() for exhibit in exhibits if exhibit.weak_spots is not None]
    sample = torch.cat(leads).sort().values if leads else torch.ones(1)
    return max(float(sample[int(0.9 * len(sample))]), 1e-9)


def write_picture(exhibit: Exhibit, scale: float, path: Path) -> None:
    """Write the picture of an exhibit for other documents."""
    picture = drawing.composed(exhibit, scale)
    write_atomically(path, lambda file: picture.save(file, "png", optimize=True))


def card(exhibit: Exhibit, classes: Sequence[str], unit: str, scale: float) -> Card:
    """What the page shows of an exhibit; see `exhibits.Gallery`."""
    found = {"label": _named(exhibit.label, classes), "predicted": _named(exhibit.predicted, classes)}
    size = None
    if exhibit.picture is not None:
        size = height, width = tuple(exhibit.picture.shape[1:])
        found |= {"picture": _address(exhibit.picture), "aspect": f"{width} / {height}", "large": max(size) > LARGE}
    if exhibit.attacked is not None:
        found["attacked"] = _address(exhibit.attacked)
    if exhibit.predicted_after is not None:
        found["after"] = _named(exhibit.predicted_after, classes)
    if exhibit.attacked_at is not None:
        found["attacked_at"] = _box(exhibit.attacked_at, size)
    if exhibit.weak_spots is not None:
        top, left, height, width = exhibit.weakest
        rows, columns = exhibit.weak_spots.shape
        size = rows + height - 1, columns + width - 1
        found |= {"spots": _data(drawing.weak_spots(exhibit.weak_spots, scale))}
        found |= {"aspect": f"{size[1]} / {size[0]}", "weakest": _box(exhibit.weakest, size)}
        found["spots_at"] = _box(((height - 1) / 2, (width - 1) / 2, rows, columns), size)
        lead = f"{exhibit.lead:+.3g}".replace("-", "−")
        found["lead"] = f"lead {lead} {unit} with the patch at row {top}, column {left}"
    if exhibit.copies is not None:
        found["strip"] = _data(drawing.strip(exhibit))
        found["rows"] = [_named(number, classes) for number in drawing.classes_of_strip(exhibit)]
        found["borders"] = [round(100 * border / len(exhibit.copies), 2) for border in exhibit.borders]
    return Card(exhibit, **found)


def _named(number: int, classes: Sequence[str]) -> str:
    return classes[number] if number < len(classes) else str(number)


def _box(rectangle: Rectangle, size: tuple[int, int]) -> str:
    """Where a rectangle lies in a picture of that height and width, as CSS says it."""
    (top, left, height, width), (rows, columns) = rectangle, size
    sides = {"top": top / rows, "left": left / columns, "height": height / rows, "width": width / columns}
    return "; ".join(f"{name}: {100 * share:.2f}%" for name, share in sides.items())


def _address(image: Tensor) -> str:
    photograph = max(image.shape[1:]) > LARGE
    return _data(drawing.pixels(image), "jpeg" if photograph else "png")


def _data(pixels: np.ndarray, kind: str = "png") -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
