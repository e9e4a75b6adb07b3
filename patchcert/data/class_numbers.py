"""Which number each folder of images has, and in which folders the parts of a data set lie."""

from collections import Counter
from pathlib import Path

from patchcert import inputs
from patchcert.errors import UsageError
from patchcert.inputs import InputError

KNOWN = {"imagenet": Path(__file__).with_name("imagenet_wnids.txt")}
"""Files of class names that ship, by the name that `--classes` takes."""

MOST_BYTES = 1 << 24


def read(option: str, text: str) -> list[str]:
    """The names of the folders in the order of their numbers: what `--option text` names, a file of one name a line.

    Raises:
        UsageError: it cannot be read, or a name is there twice.
    """
    path = KNOWN.get(text, Path(text))
    try:
        names = [line.strip() for line in inputs.content(path, MOST_BYTES).decode().splitlines()]
    except (InputError, UnicodeDecodeError) as error:
        right = f"{error}; expected a file with the name of a class's folder in each line, or {', '.join(KNOWN)}"
        raise UsageError(option, text, right) from error
    while names and not names[-1]:
        names.pop()
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(option, text, f"{twice[0] or 'an empty line'} is there twice: which number does it have?")
    if len(names) < 2:
        raise UsageError(option, text, "expected the names of two or more classes, one on each line")
    return names


def part_of(root: Path, train: bool) -> Path:
    """Where the images of a part of a folder lie: `root`/train, or `root`/test; without either `root` is the test."""
    here = root / ("train" if train else "test")
    return here if train or has_parts(root) else root


def has_parts(root: Path) -> bool:
    """Whether there are `root`/train or `root`/test."""
    return any((root / name).is_dir() for name in ("train", "test"))
