"""The mistakes that a person at the shell can mend, and the one that nobody there can."""

MOST_OF_VALUE, MOST_OF_RIGHT = 160, 320
"""Characters that an error shows of what was given, and of what would be right."""


def one_line(text: object, most: int = MOST_OF_VALUE) -> str:
    """`text` as a terminal may show it: in one line, of at most so many characters, without control characters."""
    shown = _shortened(str(text), most)
    return _shortened("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown), most)


def _shortened(text: str, most: int) -> str:
    """The text, or its beginning and its end: of a path, say, where it lies and what it is."""
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


class UsageError(Exception):
    """An option has a value that cannot work; scripts print it as one line and exit with code 2.

    Args:
        option: the option's name without dashes; parameters that are options carry the same name.
        value: what was given.
        right: what would be right; kept as an attribute.
    """

    def __init__(self, option: str, value: object, right: str):
        super().__init__(f"--{option} {one_line(value)}: {one_line(right, MOST_OF_RIGHT)}")
        self.right = right


def require_within(option: str, value: int, low: int, high: int, what: str) -> None:
    """Raise UsageError unless `value` is a whole number from `low` to `high`; `what` says why these bounds."""
    if not low <= value <= high:
        raise UsageError(option, value, f"expected a whole number from {low} to {high} ({what})")


class BrokenCertificateError(Exception):
    """An attack flipped an image of which a certificate says that it cannot; scripts exit with code 3.

    Args:
        number: the image's place among those attacked.
        message: for the person at the shell.
    """

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.number = number
