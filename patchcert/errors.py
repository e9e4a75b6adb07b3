"""The mistakes that a person at the shell can mend, and the one that nobody there can."""


class UsageError(ValueError):
    """An option or argument has a value that cannot work; scripts print it as one line and exit with code 2.

    Args:
        option: the option's name without dashes; parameters that are options carry the same name.
        value: what was given.
        right: what would be right; kept as an attribute.
    """

    def __init__(self, option: str, value: object, right: str):
        super().__init__(f"--{option} {value}: {right}")
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
