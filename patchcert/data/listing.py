"""Which classes and images lie in folders, and which of them in two."""

import hashlib
import itertools
import os
import re
from pathlib import Path

from patchcert import inputs
from patchcert.errors import UsageError

LEFT_BY_SYSTEMS = ("__MACOSX", "@eaDir")
"""Folders that are no classes, as is everything whose name begins with a dot."""

NAMED = 5
"""Classes that a message names."""


def class_names(option: str, root: Path) -> list[str]:
    """The names of the folders in `root`, in order: the classes.

    Raises:
        UsageError: there are none.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(root) if _is_meant(entry.name) and entry.is_dir())
    except OSError:
        names = []
    if not names:
        raise UsageError(option, root, "expected a folder with one folder of images for each class")
    return names


def pictures(option: str, root: Path) -> list[list[str]]:
    """The paths of each class's images, in its folder and those inside, in the order of torchvision's ImageFolder.

    Raises:
        UsageError: there are no classes, one has no images, or links lead to a folder twice.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found, seen = {}, set()
    for name in class_names(option, root):
        inside, other = [], []
        for folder, folders, files in os.walk(root / name, followlinks=True):
            folders[:] = filter(_is_meant, folders)
            place = os.path.realpath(folder)
            if place in seen:
                raise UsageError(option, folder, "its images are there twice: a link leads to this folder again")
            seen.add(place)
            files = sorted(filter(_is_meant, files))
            inside.append((folder, [file for file in files if file.lower().endswith(IMG_EXTENSIONS)]))
            other += files
        found[name] = [os.path.join(folder, file) for folder, files in sorted(inside) for file in files]
        if not found[name]:
            there = f" but {other[0]}" if other else ""
            wanted = f"expected images ({', '.join(IMG_EXTENSIONS)}) in each class's folder"
            raise UsageError(option, root, f"{wanted}, there are none in {name}{there}")
    return list(found.values())


def _is_meant(name: str) -> bool:
    """Whether a person put it there, and not a system or a program for its own use."""
    return not name.startswith(".") and name not in LEFT_BY_SYSTEMS


def difference(option: str, first: Path, second: Path) -> str | None:
    """In words, which classes one of two folders has and the other has not; None if they have the same."""
    names = {folder: class_names(option, folder) for folder in (first, second)}
    for has, lacks in ((first, second), (second, first)):
        missing = [name for name in names[has] if name not in names[lacks]]
        if missing:
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            return f"{lacks} has no {', '.join(missing[:NAMED])}{more}, which {has} has"
    return None


def numbered_otherwise(names: list[str]) -> bool:
    """Whether numbers in the names of classes would put them into another order than the names as text do."""
    return names != sorted(names, key=lambda name: [int(part) if part.isdecimal() else part for part in _parts(name)])


def _parts(name: str) -> list[str]:
    """Text and numbers in turn."""
    return re.split(r"(\d+)", name)


def count_in_both(root: Path) -> int:
    """How many files of the images in `root`/test are those of images in `root`/train, byte for byte."""
    if not (root / "train").is_dir():
        return 0
    sizes: dict[int, tuple[list[str], list[str]]] = {}
    for part, name in enumerate(("train", "test")):
        for path in itertools.chain(*pictures("data", root / name)):
            if not inputs.problem(path):
                sizes.setdefault(os.path.getsize(path), ([], []))[part].append(path)
    count = 0
    for train, test in sizes.values():
        if train and test:
            trained_on = set(map(digest, train))
            count += sum(digest(path) in trained_on for path in test)
    return count


def digest(path: str) -> bytes:
    """SHA-256 of the file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
