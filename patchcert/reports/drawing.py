"""Images of the gallery: weak spots drawn over an image, what its copies said, patches outlined."""

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from patchcert.reports.exhibits import Exhibit, Rectangle

BROKEN, WEAK = (204, 51, 17), (240, 162, 2)
"""Red where the lead is lost, amber where little is left, nothing where the answer is safe."""

MARKED, BORDER = (136, 51, 204), (0, 0, 0)
"""Of the patch or the windows that are outlined, and of the copies touched; of the lines between kinds of copies."""

DISSENTING = (0, 190, 190)
"""Of windows without which the answer is another one."""

PREDICTED, LABEL, OTHERS = (0, 114, 178), (213, 94, 0), (128, 128, 128)
"""Of classes in a strip; the label's is seen where it is not predicted."""

MOST_CLASSES = 10
"""Rows of a strip."""

SIDE, GAP = 224, 8
"""Of images in files, at least, and between them, pixels."""


def pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) uint8 as (H, W) grey or (H, W, 3) colour."""
    found = image.permute(1, 2, 0).numpy()
    return found[:, :, 0] if found.shape[2] == 1 else found


def weak_spots(leads: Tensor, scale: float) -> np.ndarray:
    """(rows, columns, 4) uint8: a colour for each place; leads beyond `scale` are safe, or lost, altogether."""
    size = (leads.double().numpy() / scale).clip(-1, 1)
    opacity = np.where(size < 0, 0.6 + 0.25 * -size, 0.6 * (1 - size))
    found = np.where((size < 0)[..., None], BROKEN, WEAK)
    return np.concatenate([found, 255 * opacity[..., None]], axis=2).astype(np.uint8)


def classes_of_strip(exhibit: Exhibit) -> list[int]:
    """The classes that a strip has rows for, in order: all of few, else the most probable, and the label."""
    means = exhibit.copies.mean(dim=0)
    most = means.argsort(descending=True).tolist()[:MOST_CLASSES]
    return sorted({*most[: MOST_CLASSES - 1], most[-1] if exhibit.label in most else exhibit.label})


def strip(exhibit: Exhibit) -> np.ndarray:
    """(rows, A, 4) uint8: a row for each of `classes_of_strip`, the more probable the class the more opaque.

    Below them the copies are marked that the patch touches where it hurts most.
    """
    classes = classes_of_strip(exhibit)
    found = np.zeros((len(classes) + 1, len(exhibit.copies), 4), dtype=np.uint8)
    colours = {exhibit.label: LABEL} | {exhibit.predicted: PREDICTED}
    for row, number in enumerate(classes):
        found[row, :, :3] = colours.get(number, OTHERS)
    found[:-1, :, 3] = (255 * exhibit.copies[:, classes].T.double().numpy().clip(0, 1)).astype(np.uint8)
    if exhibit.touched is not None:
        found[-1, exhibit.touched.numpy()] = (*MARKED, 255)
    return found


def composed(exhibit: Exhibit, scale: float) -> Image.Image:
    """One drawing of an exhibit for other documents: the image, its weak spots, the attacked image, the strip."""
    height, width = exhibit.picture.shape[1:]
    times = -(-SIDE // max(height, width))
    panels = [_enlarged(pixels(exhibit.picture), times)]
    if exhibit.weak_spots is not None:
        panels.append(_with_weak_spots(panels[0].copy(), exhibit, scale, times))
    if exhibit.windowed is not None:
        marked = panels.pop() if len(panels) > 1 else panels[0].copy()
        for colour, windows in ((MARKED, exhibit.windowed.weakest), (DISSENTING, exhibit.windowed.dissenting)):
            for window in windows:
                _outline(marked, window, times, colour)
        panels.append(marked)
    if exhibit.attacked is not None:
        panels.append(_enlarged(pixels(exhibit.attacked), times))
        _outline(panels[-1], exhibit.attacked_at, times)
    said = None if exhibit.copies is None else _enlarged(strip(exhibit), GAP, "RGBA")
    step = width * times + GAP
    whole = step * len(panels) - GAP
    page = Image.new("RGB", (whole, height * times + (GAP + said.height if said else 0)), "white")
    for number, panel in enumerate(panels):
        page.paste(panel, (number * step, 0))
    if said:
        stretched = said.resize((whole, said.height), Image.Resampling.NEAREST)
        page.paste(stretched, (0, height * times + GAP), stretched)
        for border in exhibit.borders:
            x = whole * border // len(exhibit.copies)
            ImageDraw.Draw(page).line((x, height * times + GAP, x, page.height), fill=BORDER)
    return page


def _enlarged(found: np.ndarray, times: int, mode: str = "RGB") -> Image.Image:
    picture = Image.fromarray(found).convert(mode)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _outline(picture: Image.Image, patch: Rectangle | None, times: int, colour: tuple[int, int, int] = MARKED) -> None:
    if patch is not None:
        top, left, height, width = (times * side for side in patch)
        ImageDraw.Draw(picture).rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=2)


def _with_weak_spots(picture: Image.Image, exhibit: Exhibit, scale: float, times: int) -> Image.Image:
    """The enlarged image with the colour of each place in the middle of the patch there, and the weakest outlined."""
    colours = _enlarged(weak_spots(exhibit.weak_spots, scale), times, "RGBA")
    middle = ((picture.width - colours.width) // 2, (picture.height - colours.height) // 2)
    picture.paste(colours, middle, colours)
    if exhibit.windowed is None:
        _outline(picture, exhibit.weakest, times)
    return picture
