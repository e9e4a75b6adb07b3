"""Files that are read: that they are files at all, and hold no more than they may.

Whoever reads a file that a person names, or that lies where that person says, asks here first, so that a pipe does not
hang a run, a device does not fill the memory, and an archive of few bytes does not become one of many.
"""

import os
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

ALWAYS_UNPACKED, MOST_UNPACKED = 1 << 26, 100
"""Bytes that any file may unpack to, and how many times its own size otherwise. What is nearly all alike packs better,
such as a white image or the votes of a network that is always certain, but then it is small."""


class InputError(ValueError):
    """A file cannot be read; the message says why, for the person at the shell."""


def problem(path: Path | str) -> str | None:
    """What is wrong with `path` as a file to be read, in words; None if nothing is."""
    try:
        found = os.stat(path)
    except OSError as error:
        return error.strerror
    except ValueError as error:  # a null character in the name
        return str(error)
    if stat.S_ISDIR(found.st_mode):
        return "is a folder, expected a file"
    if not stat.S_ISREG(found.st_mode):
        return "is a device, a pipe or a socket, expected a file"
    if not os.access(path, os.R_OK):
        return "may not be read"
    return None if found.st_size else "is empty"  # as are those in /proc that never end


def opened(path: Path) -> BinaryIO:
    """The file, to be read and closed.

    Raises:
        InputError: `problem` says why it cannot be read.
    """
    wrong = problem(path)
    if wrong:
        raise InputError(wrong)
    return path.open("rb")


def content(path: Path, most: int) -> bytes:
    """What is in the file.

    Raises:
        InputError: it cannot be read, or has more than `most` bytes.
    """
    with opened(path) as file:
        size = size_of(file)
        if size > most:
            raise InputError(f"has {size} bytes, expected at most {most}")
        return file.read(size)


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def require_plausible(unpacked: int, size: int) -> None:
    """Raise InputError if a file of `size` bytes takes so many `unpacked` that it must be made to fill the memory."""
    most = max(ALWAYS_UNPACKED, MOST_UNPACKED * size)
    if unpacked > most:
        raise InputError(f"would take {unpacked} bytes unpacked, expected at most {most} from {size} bytes")


def entries(file: BinaryIO) -> list[zipfile.ZipInfo]:
    """The entries of the zip archive `file`.

    Raises:
        InputError: they would take too much memory; see `require_plausible`.
        zipfile.BadZipFile: it is none.
    """
    with zipfile.ZipFile(file) as archive:
        found = archive.infolist()
    require_plausible(sum(entry.file_size for entry in found), size_of(file))
    return found
