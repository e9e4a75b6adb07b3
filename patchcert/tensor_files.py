"""What torch.save writes, numbers, text and tensors in lists and dicts, or safetensors. Reading executes nothing and
trusts no size.

torch's own safe reader (`weights_only=True`) still calls whatever makes a tensor or a bytearray of any size, unpacks
what is compressed, and does not look at the checksums of zip archives. So a file is looked through before it is loaded,
and its content afterwards.
"""

import hashlib
import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from patchcert import first_bytes, inputs
from patchcert.inputs import InputError

MOST_STEPS, MOST_PICKLED = 500_000, 1 << 24
"""Steps of the pickle machine, and bytes in old files: those of a ResNet-152 in training are 100,000 and 1 MB."""

MOST_ITEMS, DEEPEST = 1_000_000, 50
"""Entries of lists and dicts, and how deep these lie in each other."""

KNOWN = re.compile(
    r"collections OrderedDict|torch Size|torch device|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch (Float|Double|Half|BFloat16|Byte|Char|Short|Int|Long|Bool|ComplexFloat|ComplexDouble)Storage"
    r"|torch (float|double|half|bfloat|u?int|bool|complex)\d*"
)
"""What a pickle may name: strided tensors, and what they are made of."""

ZIP = b"PK\3\4"
"""What files begin with since torch 1.6."""

LEGACY_PICKLES = 5
"""What earlier ones have before the tensors: two numbers, a dict, the content, the names of storages."""

WANTED = "expected what torch.save or safetensors write"

ARCHIVES = {
    "/constants.pkl": "a TorchScript program",
    "/archive_format": "an exported program",
    ".npy": "arrays of NumPy",
}
"""What zip archives are that torch.save did not write, by how one of the names in them ends."""


def load(path: Path) -> object:
    """The content of the file, on the CPU.

    Raises:
        InputError: why it is refused, in words.
    """
    with inputs.opened(path) as file:
        kind = first_bytes.kind(file.read(first_bytes.LOOKED_AT))
        if kind == first_bytes.SAFETENSORS:
            return _safetensors(path)
        if kind not in (None, first_bytes.ZIP):
            raise InputError(f"is {kind}, {WANTED}")
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch about its own types
                content = torch.load(_looked_through(file), map_location="cpu", weights_only=True)
        except InputError:
            raise
        except Exception as error:  # files of anything else make readers fail in every way there is
            raise InputError(f"cannot be read ({type(error).__name__})") from error
        _require_plain(content, inputs.size_of(file))
    return content


def _safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        InputError: it is damaged, or safetensors is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError("is a safetensors file: pip install safetensors") from error
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"is a safetensors file that cannot be read: {error}") from error


def _looked_through(file: BinaryIO) -> BinaryIO:
    """What torch may read of the file; of a zip archive a copy, so that it holds what was looked at and nothing else.

    Raises:
        InputError: it would take more memory than the file has bytes, names what is not known, or is damaged.
    """
    if file.read(len(ZIP)) != ZIP:
        file.seek(0)
        _require_known(io.BytesIO(file.read(MOST_PICKLED)), LEGACY_PICKLES)
        file.seek(0)
        return file
    copy, entries = io.BytesIO(), inputs.entries(file)
    _require_saved([entry.filename for entry in entries])
    if sum(entry.file_size for entry in entries) > inputs.size_of(file):
        raise InputError("is compressed, which torch.save never does")
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as copied:
        for entry in entries:
            entry_content = archive.read(entry)  # whose checksum this looks at
            if entry.filename.endswith("data.pkl"):
                _require_known(io.BytesIO(entry_content), 1)
            copied.writestr(entry.filename, entry_content)
    copy.seek(0)
    return copy


def _require_saved(names: list[str]) -> None:
    """Raise InputError if an archive with entries of these `names` is one of something else."""
    other = next((kind for end, kind in ARCHIVES.items() if any(name.endswith(end) for name in names)), None)
    if not other and not any(name.endswith("data.pkl") for name in names):
        other = "a zip archive of something else"
    if other:
        raise InputError(f"is {other}, {WANTED}")


def _require_known(pickled: BinaryIO, count: int) -> None:
    """Raise InputError unless so many pickles, one after the other, name nothing but what is known and end soon."""
    steps = 0
    for _ in range(count):
        for step, argument, _ in pickletools.genops(pickled):
            steps += 1
            if "GLOBAL" in step.name and not KNOWN.fullmatch(str(argument)):
                what = str(argument or "something").replace(" ", ".")
                raise InputError(f"holds {what}, expected tensors, numbers and text in lists and dicts")
            if steps > MOST_STEPS:
                raise InputError("describes its content in too many steps")


def _require_plain(content: object, size: int) -> None:
    """Raise InputError unless all of `content`, from a file of `size` bytes, can be looked at without surprises."""
    left, items, storages = [(content, 0)], 0, {}
    while left:
        value, depth = left.pop()
        items += 1
        if items > MOST_ITEMS or depth > DEEPEST:
            raise InputError("holds too many lists and dicts, or lies too deep in them")
        if isinstance(value, dict):
            if not all(type(key) in (str, int) for key in value):
                raise InputError("has a dict whose keys are neither text nor whole numbers")
            left += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, (list, tuple)):
            left += [(item, depth + 1) for item in value]
        elif isinstance(value, Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            if value.numel() * value.element_size() > size:
                raise InputError(f"has a tensor {tuple(value.shape)}, of more bytes than the file")
    if sum(storages.values()) > size:
        raise InputError("has tensors of more bytes than the file")


def digest(content: object) -> str:
    """SHA-256 of names, types and values: of tensors, numbers and text in lists and dicts.

    Raises:
        TypeError: there is something else.
    """
    found = hashlib.sha256()
    _feed(content, found.update)
    return found.hexdigest()


def bytes_of(tensor: Tensor) -> np.ndarray:
    """The values, row by row, as hashes take them."""
    values = tensor.detach().cpu().flatten().contiguous()
    return values.unsqueeze(-1).view(torch.uint8).flatten().numpy()  # one alone may keep the stride of many


def _feed(value: object, update: Callable) -> None:
    if isinstance(value, Tensor):
        update(f"{value.dtype} {tuple(value.shape)};".encode())
        update(bytes_of(value))
    elif isinstance(value, dict):
        update(f"dict {len(value)};".encode())
        for pair in value.items():
            _feed(pair, update)
    elif isinstance(value, (list, tuple)):
        update(f"{'list' if isinstance(value, list) else 'tuple'} {len(value)};".encode())
        for item in value:
            _feed(item, update)
    elif type(value) in (str, int, float, bool, type(None)):
        text = repr(value).encode()
        update(b"%s %d;%s" % (type(value).__name__.encode(), len(text), text))
    else:
        raise TypeError(f"a {type(value).__name__} has no digest")
