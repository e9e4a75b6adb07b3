"""What an option's text means: a parser's `type=` for each kind of value that options have."""

import argparse
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from patchcert import files, inputs, result_format
from patchcert.inputs import InputError
from patchcert.patch import Patch
from patchcert.patch_sizes import Area, PatchSize, Share

MOST_PIXELS = 4096
"""On a side of an image."""

MEASURED = "measured"
"""The numerical margin that follows from what is measured when a run begins."""

MOST_SAID = 200
"""Characters of what is wrong with a file."""

MOST_READ = 1 << 26
"""Bytes of a file of results."""


def _number(kind: type, allowed: Callable[[float], bool], wanted: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"{text}: expected {wanted}")
        return value

    return parse


positive_int = _number(int, lambda v: 1 <= v <= 10**9, "a whole number from 1 to 1000000000")
index = _number(int, lambda v: 0 <= v <= 10**9, "a whole number from 0 to 1000000000")
pixels = _number(int, lambda v: 1 <= v <= MOST_PIXELS, f"a whole number from 1 to {MOST_PIXELS}")
seed = _number(int, lambda v: 0 <= v < 2**32, "a whole number from 0 to 4294967295")
gigabytes = _number(float, lambda v: 0 < v <= 1e6, "gigabytes, above 0")
positive_float = _number(float, lambda v: 0 < v < float("inf"), "a number above 0")
nonnegative_float = _number(float, lambda v: 0 <= v < float("inf"), "a number of at least 0")
fraction = _number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")
_percent = _number(float, lambda v: 0 < v < 100, "a share above 0 % and below 100 %, such as 2%")
_area = _number(int, lambda v: 1 <= v <= MOST_PIXELS**2, "a number of pixels, such as area:100")
level = _number(float, lambda v: 0 < v < 1, "a number between 0 and 1")


def several_of(known: Collection[str], wanted: str) -> Callable[[str], list[str]]:
    """One of the `known` names or several with commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"{text}: expected {wanted}")
        return names

    return parse


certificates = several_of(("margin", "exact", "masking"), "margin, exact, masking or several, as in margin,exact")

goals = several_of(("recover", "alert"), "recover, alert or both: recover,alert")


def _or_named(number: Callable[[str], float], names: dict[str, str | None]) -> Callable[[str], float | str | None]:
    """What parses a number, or one of the `names`, by which values go."""

    def parse(text: str) -> float | str | None:
        if text in names:
            return names[text]
        try:
            return number(text)
        except argparse.ArgumentTypeError as error:
            both = f"expected {', '.join(names)} or "
            raise argparse.ArgumentTypeError(str(error).replace("expected ", both, 1)) from error

    return parse


batch_size = _or_named(positive_int, {"auto": None})
"""A number of copies."""

numerical_margin = _or_named(nonnegative_float, {"auto": None})
"""A lead, in units of logits."""

numerical_margin_or_measured = _or_named(nonnegative_float, {"auto": None, MEASURED: MEASURED})

margin_of_votes = _or_named(fraction, {"auto": None})
"""A difference of probabilities."""


def named_otherwise(right: str) -> Callable[[str], None]:
    """Of an option that a script does not have: refuses every value and says what is `right`."""

    def refuse(text: str) -> None:
        raise argparse.ArgumentTypeError(f"{text}: {right}")

    return refuse


def share_of_255(text: str) -> float:
    """A step or distance between pixels above 0 and at most 1, written 0.05 or 0.5/255."""
    numerator, _, denominator = text.partition("/")
    try:
        value = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0 and at most 1, such as 0.05 or 0.5/255")
    return value


def fractions(text: str) -> list[float]:
    """One number from 0 to 1 or several with commas: 0.1,0.2."""
    return [fraction(part) for part in text.split(",")]


def hidden_pixels(text: str) -> str | tuple[float, ...]:
    """mean, drop, or a number from 0 to 1 for all channels, or one for each with commas."""
    return text if text in ("mean", "drop") else tuple(fractions(text))


def patches(text: str) -> list[Patch]:
    """Patch sizes: 5 (a square), 2x8 (rows × columns), 1-10, or several of these with commas."""
    return [patch for part in text.split(",") for patch in _patch_range(part)]


def patch_sizes(text: str) -> list[PatchSize]:
    """The same, and shares of an image's pixels (2%), and every rectangle of an area (area:100)."""
    return [size for part in text.split(",") for size in _patch_sizes(part)]


def _patch_sizes(text: str) -> list[PatchSize]:
    if text.endswith("%"):
        return [Share(_percent(text.removesuffix("%")))]
    if text.startswith("area:"):
        return [Area(_area(text.removeprefix("area:")))]
    return list(_patch_range(text))


def alarm_thresholds(text: str) -> list[float | None]:
    """τ of alarms: strict, which is None, or numbers from 0 to 1, or several with commas: strict,0,0.5."""
    return [alarm_threshold(part) for part in text.split(",")]


def one_patch(text: str) -> Patch:
    """One patch size: 5 (a square) or 2x8 (rows × columns)."""
    found = patches(text)
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"{text}: expected one size, such as 5 or 2x8")
    return found[0]


def one_patch_size(text: str) -> Patch | Share:
    """The same, or a share of an image's pixels (2%)."""
    found = patch_sizes(text)
    if len(found) != 1 or isinstance(found[0], Area):
        raise argparse.ArgumentTypeError(f"{text}: expected one size, such as 32, 2x8 or 2%")
    return found[0]


def alarm_threshold(text: str) -> float | None:
    """τ of alarms: strict, which is None, or a number from 0 to 1."""
    return None if text == "strict" else fraction(text)


def windows_or_none(text: str) -> tuple[int, int] | None:
    """Side and number along each side of windows, 11x4; None for none."""
    if text == "none":
        return None
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text, re.ASCII)
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: expected WxK, such as 11x4, or none")
    return int(found[1]), int(found[2])


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from 0 with commas: 32,64."""
    return tuple(index(part) for part in text.split(","))


def _patch_range(text: str) -> list[Patch]:
    try:
        if "x" in text:
            height, width = (int(side) for side in text.split("x"))
            found = [Patch(height, width)]
        else:
            first, last = (int(end) for end in (text.split("-") if "-" in text else (text, text)))
            found = [Patch(side) for side in range(first, min(last, MOST_PIXELS + 1) + 1)]
    except ValueError:
        found = []
    if not found or not all(side <= MOST_PIXELS for patch in found for side in (patch.height, patch.width)):
        right = f"expected sizes from 1 to {MOST_PIXELS}, such as 5 or 1-10 or 2,5 or 2x8"
        raise argparse.ArgumentTypeError(f"{text}: {right}")
    return found


def folder(text: str) -> Path:
    """A folder that takes new files; it is made if it does not exist."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot be made: {error.strerror}") from error
    _require_writable(text, path)
    return path


def device(text: str) -> torch.device:
    """auto, cpu or cuda; auto takes the GPU if there is one."""
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("cuda: there is no such device here; expected auto or cpu")
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text}: expected auto, cpu or cuda")
    return torch.device(text)


def result(text: str) -> tuple[Path, dict]:
    """A file that --output wrote: where it lies, and its content."""
    path = Path(text)
    (record,) = _json_in(path, whole=True)
    _require_format(text, record)
    return path, record


def result_or_log(text: str) -> tuple[Path, dict | list[dict]]:
    """A file that --output wrote, or a training log: where it lies, and its content, of a log its lines."""
    path = Path(text)
    if not {".jsonl", ".log"} & set(path.suffixes):
        return result(text)
    rows = _json_in(path, whole=False)
    for row in rows:
        _require_format(text, row, result_format.EPOCH)
    return path, rows


def _json_in(path: Path, whole: bool) -> list:
    """The content of a file of JSON, or of each of its lines."""
    try:
        text = inputs.content(path, MOST_READ).decode()
        found = [json.loads(part) for part in ([text] if whole else text.splitlines())]
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from error
    except (ValueError, RecursionError, OSError) as error:
        raise argparse.ArgumentTypeError(f"{path}: is not JSON") from error
    if not found:
        raise argparse.ArgumentTypeError(f"{path}: is empty")
    return found


def _require_format(text: str, record: object, part: str = "") -> None:
    flaw = result_format.flaw(record, part)
    if flaw:
        raise argparse.ArgumentTypeError(f"{text}: not a result as this version writes it: {flaw[:MOST_SAID]}")


def output_file(text: str) -> Path:
    """A file that can be written: its folder exists and takes new files."""
    path = Path(text)
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: is a folder or a device, expected a file")
    _require_writable(text, path.resolve().parent)
    return path


def _require_writable(text: str, folder: Path) -> None:
    """Raise ArgumentTypeError about the option's value `text` unless `folder` exists and takes new files."""
    try:
        files.prepare(folder)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot be written: {folder}: {error.strerror}") from error
