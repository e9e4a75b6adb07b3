"""Files made to do harm or to pass for others: votes, configs, splits, data sets, pictures."""

import io
import json
import math
import random
import struct
import zlib

import numpy as np
import torch
from PIL import Image

from tests.faults.mutations import FINE, ODD, Writing, made, replaced, saved, write


def huge_votes(whole: bytes) -> bytes:
    """Votes that say of very many copies that they are nobody's."""
    with np.load(io.BytesIO(whole)) as arrays:
        file = io.BytesIO()
        np.savez_compressed(file, **dict(arrays) | {"kept": np.zeros(1 << 24, np.int64)})
        return file.getvalue()


VOTES = {"votes that fill the memory": made(huge_votes)}


def other_votes(whole: bytes, draw: random.Random) -> bytes:
    """Votes with one array replaced, or one thing that the file says of itself."""
    with np.load(io.BytesIO(whole)) as file:
        arrays = {key: value.copy() for key, value in file.items()}
    if draw.random() < 0.4:
        about = json.loads(str(arrays["about"]))
        arrays["about"] = np.array(json.dumps(replaced(about, draw, ODD)))
    else:
        name = draw.choice(("kept", "classes", "probabilities", "indices", "labels"))
        array = arrays[name]
        place, value = draw.randrange(array.size), draw.choice((-1, 200, 10**9, 0.5, math.nan, math.inf, 1.5))
        spoiled = array.astype(np.float64)
        spoiled.flat[place] = value
        with np.errstate(invalid="ignore"):
            arrays[name] = draw.choice((
                spoiled, spoiled.astype(array.dtype), array[:-1], array[None], array[::-1], array.astype(np.float16),
                array.astype(object), array.astype(str), array > 0, array * 1j, array[:0],
            ))  # fmt: skip
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def other_json(whole: bytes, draw: random.Random) -> bytes:
    """A JSON file with one thing replaced."""
    return json.dumps(replaced(json.loads(whole), draw, ODD)).encode()


CONFIGS = {
    "nested deeply": write(b'{"models":' * 100_000),
    "of very many keys": write(json.dumps({str(number): 0 for number in range(60_000)}).encode()),
    "of one key twice": write(b'{"dataset": "mnist", "dataset": "mnist"}'),
    "of many bytes": write(b" " * (1 << 24) + b"{}"),
    "of a number without end": write(b'{"dataset": ' + b"9" * 100_000 + b"}"),
    "that extends a device": write(b'{"extends": "/dev/zero"}'),
    "that extends itself": write(b'{"extends": "config.json"}'),
    "of a std of nearly nothing": write(b'{"extends": "base.json", "std": [1e-320]}'),
    "of a huge network": write(
        b'{"extends": "base.json", "models": [{"model_id": "m", "model_class": "cnn_2layer", '
        b'"model_params": {"width": 100000, "linear_size": 100000}}]}'
    ),
}

SPLITS = {
    "a tensor of floats": write(saved(torch.rand(4))),
    "a mask": write(saved(torch.ones(20) > 0)),
    "complex numbers": write(saved(torch.arange(4) * 1j)),
    "one index for very many": write(saved(torch.zeros(1).expand(10**11))),
    "a list": write(saved([1, 2])),
    "numbers without end": write(b"1 " * (1 << 22)),
    "a number of very many digits": write(b"9" * 10**6),
}


def idx(magic: int, *sizes: int, content: bytes = b"") -> Writing:
    return write(np.array([magic, *sizes], ">u4").tobytes() + content)


IMAGES = {
    "32 × 32": idx(2051, 20, 32, 32, content=bytes(20 * 1024)),
    "fewer than there are labels": idx(2051, 19, 28, 28, content=bytes(19 * 784)),
    "none": idx(2051, 0, 28, 28),
    "more than there are bytes": idx(2051, 2**32 - 1, 28, 28, content=bytes(784)),
    "labels": idx(2049, 20, content=bytes(20)),
    "of another type": idx(0x0D03, 20, 28, 28, content=bytes(20 * 784 * 4)),
}

LABELS = {
    "of 200": idx(2049, 20, content=bytes([200] * 20)),
    "of 10": idx(2049, 20, content=bytes([10] + [0] * 19)),
    "more than there are images": idx(2049, 21, content=bytes(21)),
    "images": idx(2051, 20, 28, 28, content=bytes(20 * 784)),
}


def picture(image: Image.Image | np.ndarray, kind: str = "PNG", **how) -> Writing:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return lambda path, _: image.save(path, format=kind, **how)


def plain(mode: str, color: object, size: int = 12) -> Image.Image:
    """A picture of one colour."""
    return Image.new(mode, (size, size), color)


def with_palette() -> Image.Image:
    image = plain("P", 3)
    image.putpalette(range(30))
    return image


def frames(kind: str) -> Writing:
    return picture(plain("RGB", "red"), kind, save_all=True, append_images=[plain("RGB", "green")])


def white(size: int) -> Writing:
    return lambda path, _: plain("RGB", "white", size).save(path, format="PNG")


def header_alone(width: int, height: int) -> Writing:
    """A PNG that says how large it is."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return write(b"\x89PNG\r\n\x1a\n" + chunk)


PICTURES = {
    f"of 16 bits{FINE}": picture(np.full((12, 12), 1000, np.uint16)),
    "of 32 bits": picture(np.full((12, 12), 70_000, np.int32), "TIFF"),
    "of floats": picture(np.ones((12, 12), np.float32), "TIFF"),
    f"of grey and opaque{FINE}": picture(plain("LA", (9, 255))),
    "of grey and transparent": picture(plain("LA", (9, 0))),
    "of colour and transparent": picture(plain("RGBA", (1, 2, 3, 100))),
    f"of a palette{FINE}": picture(with_palette()),
    "of a palette with a hole": picture(with_palette(), transparency=3),
    f"of one bit{FINE}": picture(plain("1", 1)),
    f"of cyan, magenta, yellow and black{FINE}": picture(plain("CMYK", (1, 2, 3, 4)), "JPEG"),
    "of moving PNG": frames("PNG"),
    "of moving WebP": frames("WEBP"),
    "of pages": frames("TIFF"),
    "of GIF": picture(with_palette(), "GIF"),
    "of PostScript": write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(executed) (w) file closefile\n"),
    "of 14,000 × 14,000": lambda path, _: plain("L", 255, 14_000).save(path, format="PNG"),
    "of 6,000 × 6,000": white(6000),
    f"of 4,000 × 4,000{FINE}": white(4000),
    "of 60,000 × 60,000, so it says": header_alone(60_000, 60_000),
    "of 2,147,483,647 × 1, so it says": header_alone(2**31 - 1, 1),
    f"of a pixel{FINE}": white(1),
    f"of an opened folder{FINE}": lambda path, _: path.with_suffix("").mkdir(),
}
