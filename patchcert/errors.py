"""The mistakes that a person at the shell can mend, and the one that nobody there can."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path

NAMED = 5
"""Files that an error names."""

MOST_OF_VALUE, MOST_OF_RIGHT = 160, 320
"""Characters that an error shows of what was given, and of what would be right."""


def one_line(text: object, most: int = MOST_OF_VALUE) -> str:
    """`text` as a terminal may show it: in one line, of at most so many characters, without control characters."""
    shown = _shortened(str(text), most)
    return _shortened("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown), most)


def _shortened(text: str, most: int) -> str:
    """The text, or its beginning and its end: of a path, say, where it lies and what it is."""
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


class Note(UserWarning):
    """What whoever asked should know besides the answer; scripts print it as one line."""


class UsageError(ValueError):
    """An option or argument has a value that cannot work; scripts print it as one line and exit with code 2.

    Args:
        option: the option's name without dashes; parameters that are options carry the same name.
        value: what was given.
        right: what would be right; all three are kept as attributes.
    """

    def __init__(self, option: str, value: object, right: str):
        super().__init__(f"{option} {one_line(value)}: {one_line(right, MOST_OF_RIGHT)}")
        self.option, self.value, self.right = option, value, right

    def at_shell(self) -> str:
        """The message as scripts print it, where arguments are options."""
        return f"--{self}"


class PlaceError(UsageError):
    """A file or folder that no option names cannot be used; what is printed of it is one line, and the exit code 2."""

    def __init__(self, path: Path, right: str):
        Exception.__init__(self, f"{path}: {right}")
        self.path, self.right = path, right

    def at_shell(self) -> str:
        return str(self)


@contextmanager
def called(**names: str) -> Iterator[None]:
    """Let a UsageError inside speak of arguments as this caller's are called, `called(size_to_certify="patch")`."""
    try:
        yield
    except UsageError as error:
        raise UsageError(names.get(error.option, error.option), error.value, error.right) from error


def require_within(option: str, value: int, low: int, high: int, what: str) -> None:
    """Raise UsageError unless `value` is a whole number from `low` to `high`; `what` says why these bounds."""
    if not isinstance(value, Integral) or not low <= value <= high:
        raise UsageError(option, _as_written(value), f"expected a whole number from {low} to {high} ({what})")


def require_count(option: str, value: int, what: str) -> None:
    """Raise UsageError unless `value` is a whole number from 1 on, of `what`."""
    if not isinstance(value, Integral) or value < 1:
        raise UsageError(option, _as_written(value), f"expected a whole number from 1 on ({what})")


def require_number(option: str, value: float, low: float, high: float) -> None:
    """Raise UsageError unless `value` is a number from `low` to `high`, and not infinite."""
    if not isinstance(value, Real) or not low <= value <= high or value == math.inf:
        right = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise UsageError(option, _as_written(value), f"expected a number {right}")


def _as_written(value: object) -> object:
    """In Python: a text that looks like a number has quotes."""
    return repr(value) if isinstance(value, str) else value


class BrokenCertificateError(Exception):
    """An attack flipped an image of which a certificate says that it cannot; scripts exit with code 3.

    Args:
        number: the image's place among those attacked.
        message: for the person at the shell.
    """

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.number = number


class WriteError(Exception):
    """Files that cannot be written; scripts print it as one line and exit with code 1.

    Args:
        reasons: why, by the path of each; kept as an attribute.
        way_out: what the person at the shell can do; ends the message.
    """

    def __init__(self, reasons: dict[Path, str], way_out: str = ""):
        named = [f"{path}: {reason}" for path, reason in reasons.items()]
        more = [f"and {len(named) - NAMED} more"] if len(named) > NAMED else []
        super().__init__(f"cannot be written: {', '.join(named[:NAMED] + more)}{way_out}")
        self.reasons = reasons
