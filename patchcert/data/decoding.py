"""One image from its file: the pixels that it shows, or why there is no telling."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from patchcert import first_bytes, inputs
from patchcert.inputs import InputError

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Of the extensions that count as images. Pillow would open others by their content, PostScript by running it."""

EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""What Pillow calls images of which it knows how they look in colour and in grey."""

DAMAGED = "a damaged image; repair or remove it"

END_OF_JPEG = b"\xff\xd9"


def decode(path: str, mode: str) -> Image.Image:
    """The image in a file, in memory, in Pillow's `mode`: L is grey, RGB colour. Profiles are not looked at.

    Nor is it turned as EXIF data may say, except that Pillow turns TIFF. Of 16 bits the upper 8 are taken.

    Raises:
        InputError: it is damaged or too large, moves, is transparent, or has values of unknown meaning.
    """
    wrong = inputs.problem(path)
    if wrong:
        raise InputError(wrong)
    try:
        with _opened(path) as picture:
            _require_opaque(picture)
            return _in_mode(picture, mode)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"an image of more than {Image.MAX_IMAGE_PIXELS} pixels") from error
    except InputError:
        raise
    except Exception as error:  # Pillow has every kind of them for damaged files
        raise InputError(_why_not(path)) from error


def require_whole(path: str, mode: str) -> None:
    """Raise InputError if `decode` would, as far as the file's headers and its end tell.

    Only where these leave a doubt is the image decoded. What is damaged in the middle, `decode` alone may find.
    """
    if inputs.problem(path) or not _seems_whole(path):
        decode(path, mode)


def _seems_whole(path: str) -> bool:
    """Whether headers and end are those of one whole image. Of formats that do not mark their end, nobody knows."""
    try:
        with _opened(path) as picture:
            if picture.format == "PNG":
                picture.verify()  # that all parts are there, and their checksums
                return True
            if picture.format not in ("JPEG", "MPO"):
                return picture.format == "WEBP"  # which Pillow has read up to its end by now
            with open(path, "rb") as file:
                file.seek(-len(END_OF_JPEG), os.SEEK_END)
                return file.read() == END_OF_JPEG
    except Exception:  # decoding says what it is
        return False


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """The image in a file, whose headers were read, and are plausible.

    Raises:
        InputError: it is too large, moves, or has values of unknown meaning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow about metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as picture:
            values = picture.width * picture.height * len(picture.getbands())
            inputs.require_plausible(values, os.path.getsize(path))
            _require_plain(picture)
            yield picture


def _why_not(path: str) -> str:
    """Why there is no image in a file that Pillow cannot read."""
    with open(path, "rb") as file:
        kind = first_bytes.kind(file.read(first_bytes.LOOKED_AT))
    wanted = f"an image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return DAMAGED if kind is None or kind in first_bytes.READABLE else f"is {kind}, expected {wanted}"


def _require_plain(picture: Image.Image) -> None:
    """Raise InputError unless it is one image of 8 or 16 bits. In a camera's JPEG a second one is a preview."""
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        raise InputError(f"{picture.n_frames} images in one file, expected one")
    if picture.mode not in EIGHT_BITS and not picture.mode.startswith("I;16"):
        raise InputError(f"an image of mode {picture.mode}, expected 8 or 16 bits for each value")


def _require_opaque(picture: Image.Image) -> None:
    """Raise InputError if it hides something."""
    if picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise InputError("a transparent image: what shows through it is unknown")


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.copy() if picture.mode == mode else picture.convert(mode)
