"""Files damaged or made to do harm: any file, and checkpoints."""

import copy
import io
import math
import os
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from patchcert import checkpoint

Writing = Callable[[Path, bytes], object]
"""Puts something at a path where there was a whole file, of which it gets the content."""

FINE = ", which is fine"
"""In the names of files that a script may take."""

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
    return lambda path, _: path.write_bytes(content)


def made(make: Callable[[bytes], bytes]) -> Writing:
    """Writes what `make` makes of the whole file."""
    return lambda path, whole: path.write_bytes(make(whole))


def link(target: str | None = None) -> Writing:
    """A link, by default to itself."""
    return lambda path, _: path.symlink_to(target or path.name)


def sparse(path: Path, _: bytes) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


SPECIAL = {
    "a pipe": lambda path, _: os.mkfifo(path),
    "a folder": lambda path, _: path.mkdir(),
    "a link to /dev/zero": link("/dev/zero"),
    "a link to /proc/kmsg, which never ends": link("/proc/kmsg"),
    "a link to itself": link(),
    "a link to nowhere": link("nowhere"),
    "not there": lambda path, _: None,
    "empty": write(b""),
    "a terabyte of zeros": sparse,
    "text": write(b"It was a dark and stormy night.\n"),
    "a pickle that executes": write(pickle.dumps(Bomb(), protocol=2)),
    "a pickle that fills the memory": write(pickle.dumps(Hole(), protocol=2)),
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


def changed(entry: str, change: Callable[[torch.Tensor, int], torch.Tensor]) -> Writing:
    """A checkpoint with other tensors in an entry, each made of the one that was there and its number."""

    def make(whole: bytes) -> bytes:
        content = loaded(whole)
        tensors = {key: change(tensor, number) for number, (key, tensor) in enumerate(content[entry].items())}
        return saved(content | {entry: tensors})

    return made(make)


def with_entry(name: str, value: object, **how) -> Writing:
    return made(lambda whole: saved(loaded(whole) | {name: value}, **how))


def laughs() -> list:
    """Few lists that hold each other so often that nobody can look at all."""
    lists = [0]
    for _ in range(60):
        lists = [lists, lists]
    return lists


def repacked(
    change: Callable[[str, bytes], bytes] = lambda name, content: content, method: int = zipfile.ZIP_STORED
) -> Writing:
    """The same zip archive with other entries, or packed otherwise."""

    def make(whole: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(file, "w", method) as packed:
            for entry in source.infolist():
                packed.writestr(entry.filename, change(entry.filename, source.read(entry)))
        return file.getvalue()

    return made(make)


def with_pickle(pickled: bytes) -> Writing:
    """A checkpoint whose content is what this pickle makes."""
    return repacked(lambda name, content: pickled if name.endswith("data.pkl") else content)


OLD = {"_use_new_zipfile_serialization": False}
"""How torch.save wrote until version 1.5."""

UNDECLARED = saved({"net": torch.zeros(7)}, **OLD).replace(b"K\x07N", b"J\x00\x00\x00\x40N")
"""It says that it has a storage of 2³⁰ numbers."""


def checkpoints(entry: str) -> dict[str, Writing]:
    """The ways in which a checkpoint can be wrong whose weights are its `entry`."""
    nested = b"\x80\x02}X\x03\x00\x00\x00net" + b"]" * 100_000 + b"a" * 99_999 + b"s."
    return {
        "a checkpoint that executes": with_entry("acc", Bomb()),
        "an old checkpoint that executes": with_entry("acc", Bomb(), **OLD),
        "a checkpoint that fills the memory": with_entry("acc", Hole()),
        "an old checkpoint that fills the memory": with_entry("acc", Hole(), **OLD),
        "an old checkpoint of more than it has": write(UNDECLARED),
        "a checkpoint of lists in lists": with_entry("settings", laughs()),
        "a checkpoint nested deeply": with_pickle(nested),
        "a checkpoint of very many dicts": with_pickle(b"\x80\x02](" + b"}" * 10**6 + b"e."),
        "a checkpoint packed": repacked(method=zipfile.ZIP_DEFLATED),
        "a checkpoint with packed zeros": repacked(
            lambda name, content: content + bytes((1 << 27) * name.endswith("/data/0")), zipfile.ZIP_DEFLATED
        ),
        f"an old checkpoint{FINE}": made(lambda whole: saved(loaded(whole), **OLD)),
        "a checkpoint of a number": write(saved(5)),
        "a checkpoint of text": write(saved("x" * 10**6)),
        "a checkpoint of nothing": write(saved({})),
        "weights in int64": changed(entry, of_types(torch.int64)),
        "weights in bool": changed(entry, of_types(torch.bool)),
        "weights in complex64": changed(entry, of_types(torch.complex64)),
        "weights in bfloat16 and float32": changed(entry, of_types(torch.bfloat16, torch.float32)),
        f"weights in float16{FINE}": changed(entry, of_types(torch.float16)),
        f"weights in float64{FINE}": changed(entry, of_types(torch.float64)),
        "weights in float8": changed(entry, of_types(torch.float8_e5m2)),
        "weights that are sparse": changed(entry, lambda tensor, _: tensor.to_sparse() if tensor.dim() else tensor),
        "weights without content": changed(entry, lambda tensor, _: tensor.to("meta")),
        "weights that are quantised": changed(entry, lambda tensor, _: quantised(tensor.float())),
        "weights of one number": changed(entry, lambda tensor, _: tensor.flatten()[:1].expand(10**9)),
        "weights that are not finite": changed(entry, lambda tensor, _: tensor / 0),
    }


def epochs() -> dict[str, Writing]:
    """The ways in which the epoch of a checkpoint can be wrong that ends with epoch 0."""
    wrong = [odd for odd in ODD if type(odd) is not int or odd not in (-1, 0)]
    return {f"epoch {str(odd)[:20]!r}": with_entry("epoch", odd) for odd in wrong}


def other_checkpoint(whole: bytes, draw: random.Random) -> bytes:
    """A checkpoint with one thing replaced."""
    return saved(replaced(loaded(whole), draw, ODD + odd_tensors()))
