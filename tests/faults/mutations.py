"""Files of every kind that is read, damaged or made to do harm."""

import copy
import io
import json
import math
import os
import pickle
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from patchcert import checkpoint

Writing = Callable[[Path], object]
"""Puts something where a file should be."""

ODD = (
    None, True, -1, -5, 0, 7, 10**9, 10**30, 1e9, 0.5, math.nan, -math.inf, 1e-320, "", "x" * 5000, "a\nb\x1b[31m",
    "\ud800", [], {}, [[]] * 3, {"kind": "Block"}, [1, "2"], {"a": {"b": {}}},
)  # fmt: skip


class Bomb:
    """Unpickled it makes a file."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


class Hole:
    """Unpickled it fills the memory."""

    def __reduce__(self) -> tuple:
        return bytearray, (10**10,)


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """`whole` with a bit, a byte or a stretch changed, cut out, doubled or moved, or an end cut off or put on."""
    start = draw.randrange(len(whole))
    end = min(len(whole), start + draw.choice((1, 1, 8, 200, 5000)))
    noise = draw.randbytes(end - start)
    flipped = bytes([whole[start] ^ 1 << draw.randrange(8)])
    return draw.choice((
        whole[:start] + flipped + whole[start + 1 :],
        whole[:start] + flipped + whole[start + 1 :],
        whole[:start] + noise + whole[end:],
        whole[:start] + bytes(end - start) + whole[end:],
        whole[:start] + whole[end:],
        whole[:end] + whole[start:],
        whole[:start],
        whole + noise,
        noise + whole,
    ))  # fmt: skip


def write(content: bytes) -> Writing:
    return lambda path: path.write_bytes(content)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


SPECIAL = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /proc/kmsg, which never ends": lambda path: path.symlink_to("/proc/kmsg"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "not there": lambda path: None,
    "empty": write(b""),
    "a terabyte of zeros": sparse,
    "text": write(b"It was a dark and stormy night.\n"),
    "a pickle that executes": lambda path: path.write_bytes(pickle.dumps(Bomb(), protocol=2)),
    "a pickle that fills the memory": lambda path: path.write_bytes(pickle.dumps(Hole(), protocol=2)),
}
"""What lies there instead of a file."""


def replaced(value: object, draw: random.Random, odd: tuple) -> object:
    """A copy of nested dicts and lists in which one of `odd` stands in place of something."""
    value = copy.copy(value)
    if isinstance(value, (dict, list)) and value and draw.random() < 0.9:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[key] = replaced(value[key], draw, odd)
        return value
    return draw.choice(odd)


def saved(content: object, **how) -> bytes:
    """What torch.save writes, without a digest."""
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def loaded(whole: bytes) -> dict:
    content = torch.load(io.BytesIO(whole), weights_only=True)
    content.pop(checkpoint.DIGEST, None)
    return content


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):  # of torch, which gives them up
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def odd_tensors() -> tuple:
    """What is no weight of a network, or has no end."""
    eye = torch.eye(4)
    return (
        torch.arange(4), torch.tensor([True]), eye * 1j, eye.to_sparse(), eye.to("meta"), eye / 0, eye[:0],
        quantised(eye), torch.zeros(1).expand(10**12), eye.to(torch.float8_e5m2),
        torch.zeros(1).expand(2**20, 2**20), eye.bfloat16(), torch.nn.Parameter(eye),
    )  # fmt: skip


def of_types(*dtypes: torch.dtype) -> Callable[[torch.Tensor, int], torch.Tensor]:
    return lambda tensor, number: tensor.to(dtypes[number % len(dtypes)]) if tensor.is_floating_point() else tensor


CHANGES = {
    "in int64": of_types(torch.int64),
    "in bool": of_types(torch.bool),
    "in complex64": of_types(torch.complex64),
    "in bfloat16 and float32": of_types(torch.bfloat16, torch.float32),
    "in float16": of_types(torch.float16),
    "in float64": of_types(torch.float64),
    "in float8": of_types(torch.float8_e5m2),
    "sparse": lambda tensor, _: tensor.to_sparse() if tensor.dim() else tensor,
    "without content": lambda tensor, _: tensor.to("meta"),
    "quantised": lambda tensor, _: quantised(tensor) if tensor.is_floating_point() else tensor,
    "of one number, expanded": lambda tensor, _: tensor.flatten()[:1].expand(10**9) if tensor.numel() else tensor,
    "not finite": lambda tensor, _: tensor / 0 if tensor.is_floating_point() else tensor,
}
"""Of the weights."""


def bombs(whole: bytes) -> dict[str, bytes]:
    """Checkpoints that execute something or take the memory if they are read without care."""
    laughs = [0]
    for _ in range(60):
        laughs = [laughs, laughs]
    nested = []
    for _ in range(100_000):
        nested = [nested]
    content = loaded(whole)
    zeros = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in source.infolist():
            packed.writestr(entry.filename, source.read(entry) + bytes((1 << 28) * entry.filename.endswith("/data/0")))
    return {
        "that executes": saved(content | {"acc": Bomb()}),
        "that executes, as of old": saved(content | {"acc": Bomb()}, _use_new_zipfile_serialization=False),
        "that fills the memory": saved(content | {"acc": Hole()}),
        "that fills the memory, as of old": saved(content | {"acc": Hole()}, _use_new_zipfile_serialization=False),
        "of lists in lists": saved(content | {"settings": laughs}),
        "nested deeply": b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b".",
        "of very many dicts": b"\x80\x02]" + b"(" + b"}" * 10**7 + b"e.",
        "packed": zeros.getvalue(),
        "as of old": saved(content, _use_new_zipfile_serialization=False),
        "of a number": saved(5),
        "of text": saved("x" * 10**6),
        "of no entries": saved({}),
        "of a storage that it has not, as of old": saved(
            {"net": torch.zeros(7)}, _use_new_zipfile_serialization=False
        ).replace(b"K\x07N", b"J\x00\x00\x00\x40N"),
    }


def checkpoints(whole: bytes, entry: str) -> dict[str, Writing]:
    """The ways in which a checkpoint can be wrong whose weights are its `entry`."""
    content = loaded(whole)
    made = {f"a checkpoint {what}": write(content) for what, content in bombs(whole).items()}
    for what, change in CHANGES.items():
        tensors = {key: change(tensor, number) for number, (key, tensor) in enumerate(content[entry].items())}
        made[f"weights {what}"] = write(saved(content | {entry: tensors}))
    for odd in ODD:
        made[f"epoch {str(odd)[:20]!r}"] = write(saved(content | {"epoch": odd}))
    return made


def other_checkpoint(whole: bytes, draw: random.Random) -> bytes:
    """A checkpoint with one thing replaced."""
    return saved(replaced(loaded(whole), draw, ODD + odd_tensors()))


def votes(whole: bytes) -> dict[str, Writing]:
    """The ways in which votes can be wrong; see `other_votes` for more."""
    with np.load(io.BytesIO(whole)) as file:
        arrays = dict(file)
    huge = io.BytesIO()
    np.savez_compressed(huge, **arrays | {"kept": np.zeros(1 << 27, np.int64)})
    return {"votes that fill the memory": write(huge.getvalue())}


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
    "of very many keys": lambda path: path.write_text(json.dumps({str(number): 0 for number in range(60_000)})),
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


def picture(mode: str, size: tuple[int, int], color: object = None, **how) -> Writing:
    """A picture of one colour, by default white."""
    return lambda path: Image.new(mode, size, color or "white").save(path, **{"format": "PNG"} | how)


def frames(kind: str) -> Writing:
    first, *others = (Image.new("RGB", (12, 12), color) for color in ("red", "green"))
    return lambda path: first.save(path, format=kind, save_all=True, append_images=others)


def header_alone(width: int, height: int) -> Writing:
    """A PNG that says how large it is."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return write(b"\x89PNG\r\n\x1a\n" + chunk)


PICTURES = {
    "of 16 bits": lambda path: Image.fromarray(np.full((12, 12), 1000, np.uint16)).save(path, format="PNG"),
    "of 32 bits": lambda path: Image.fromarray(np.full((12, 12), 70_000, np.int32)).save(path, format="TIFF"),
    "of floats": lambda path: Image.fromarray(np.ones((12, 12), np.float32)).save(path, format="TIFF"),
    "of grey and opaque": picture("LA", (12, 12), (9, 255)),
    "of grey and transparent": picture("LA", (12, 12), (9, 0)),
    "of colour and transparent": picture("RGBA", (12, 12), (1, 2, 3, 100)),
    "of a palette": picture("P", (12, 12), 3),
    "of a palette with a hole": picture("P", (12, 12), 3, transparency=3),
    "of one bit": picture("1", (12, 12), 1),
    "of cyan, magenta, yellow and black": picture("CMYK", (12, 12), (1, 2, 3, 4), format="JPEG"),
    "of moving PNG": frames("PNG"),
    "of moving WebP": frames("WEBP"),
    "of pages": frames("TIFF"),
    "of GIF": picture("P", (12, 12), 3, format="GIF"),
    "of PostScript": write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(executed) (w) file closefile\n"),
    "of 14,000 × 14,000": picture("L", (14_000, 14_000), 255),
    "of 6,000 × 6,000": picture("RGB", (6000, 6000)),
    "of 4,000 × 4,000": picture("RGB", (4000, 4000)),
    "of 60,000 × 60,000, so it says": header_alone(60_000, 60_000),
    "of 2,147,483,647 × 1, so it says": header_alone(2**31 - 1, 1),
    "of a pixel": picture("RGB", (1, 1)),
    "of an opened folder": lambda path: path.with_suffix("").mkdir(exist_ok=True),
}
