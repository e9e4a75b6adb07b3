"""One image of the gallery as the page shows it: images as data: addresses, boxes in percent, names of classes."""

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
"""Pixels on a side above which images are photographs, and go into the page as JPEG, a tenth of the size."""


@dataclass(frozen=True)
class Card:
    """What the page shows of an exhibit; None of what there is nothing.

    Attributes:
        label, predicted, after: names of classes; the last is that of the attacked image.
        picture, attacked, spots, strip: data: addresses.
        aspect: of the image.
        large: whether it is a photograph, not to be shown pixel by pixel.
        spots_at, attacked_at: boxes in it.
        weakest: where a patch, or hiding windows, hurts most; boxes in it.
        dissenting: windows without which the answer is another one; boxes in it.
        lead: the least, and where.
        said: what each question about windows says, and whether that is certified.
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
    weakest: Sequence[str] = ()
    dissenting: Sequence[str] = ()
    lead: str | None = None
    said: Sequence[tuple[str, bool]] = ()
    strip: str | None = None
    rows: Sequence[str] = ()
    borders: Sequence[float] = ()


def scale_of(exhibits: Sequence[Exhibit]) -> float:
    """The lead at which colours end, for all images of a gallery: one that nine places of ten do not exceed."""
    leads = [exhibit.weak_spots.flatten().double().abs() for exhibit in exhibits if exhibit.weak_spots is not None]
    sample = torch.cat(leads).sort().values if leads else torch.ones(1)
    return max(float(sample[int(0.9 * len(sample))]), 1e-9)


def write_picture(exhibit: Exhibit, scale: float, path: Path) -> None:
    """Write the image of an exhibit for other documents to `path` with a suffix: .png, of photographs .jpeg."""
    picture, kind = drawing.composed(exhibit, scale), _kind(exhibit.picture)
    write_atomically(path.with_suffix(f".{kind}"), lambda file: picture.save(file, kind, optimize=True))


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
        found |= {"aspect": f"{size[1]} / {size[0]}", "weakest": [_box(exhibit.weakest, size)]}
        found["spots_at"] = _box(((height - 1) / 2, (width - 1) / 2, rows, columns), size)
        found["lead"] = f"lead {_signed(exhibit.lead)} {unit} with the patch at row {top}, column {left}"
    if exhibit.windowed is not None:
        found |= _of_windows(exhibit, classes, unit, size)
    if exhibit.copies is not None:
        found["strip"] = _data(drawing.strip(exhibit))
        found["rows"] = [_named(number, classes) for number in drawing.classes_of_strip(exhibit)]
        found["borders"] = [round(100 * border / len(exhibit.copies), 2) for border in exhibit.borders]
    return Card(exhibit, **found)


def _of_windows(exhibit: Exhibit, classes: Sequence[str], unit: str, size: tuple[int, int] | None) -> dict:
    """What a card says of an image that was shown without windows; of no known `size` it draws none of them."""
    seen, boxes = exhibit.windowed, {}
    if size is not None:
        boxes = {name: [_box(window, size) for window in getattr(seen, name)] for name in ("weakest", "dissenting")}
    at_most = "at most " if seen.asked < seen.questions else ""
    lead = f"lead {at_most}{_signed(exhibit.lead)} {unit} without the outlined windows; "
    said = []
    for question, answer, certified in seen.said:
        named = "an alarm" if answer < 0 else _named(answer, classes)
        other = "" if answer == exhibit.predicted else f"{named}, "
        said.append((f"{question}: {other}{'certified' if certified else 'not certified'}", certified))
    return boxes | {"lead": f"{lead}{seen.asked} of {seen.questions} questions asked", "said": said}


def _signed(lead: float) -> str:
    return f"{lead:+.3g}".replace("-", "−")


def _named(number: int, classes: Sequence[str]) -> str:
    if number < 0:
        return "alarm"
    return classes[number] if number < len(classes) else str(number)


def _box(rectangle: Rectangle, size: tuple[int, int]) -> str:
    """Where a rectangle lies in an image of that height and width, as CSS says it."""
    (top, left, height, width), (rows, columns) = rectangle, size
    sides = {"top": top / rows, "left": left / columns, "height": height / rows, "width": width / columns}
    return "; ".join(f"{name}: {100 * share:.2f}%" for name, share in sides.items())


def _address(image: Tensor) -> str:
    return _data(drawing.pixels(image), _kind(image))


def _kind(image: Tensor) -> str:
    return "jpeg" if max(image.shape[1:]) > LARGE else "png"


def _data(pixels: np.ndarray, kind: str = "png") -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
