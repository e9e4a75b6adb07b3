"""How far a run is: bars and lines on the way to its results. A quiet run shows none of them."""

from tqdm import tqdm

from patchcert import distributed

STEPS_BETWEEN_READINGS = 25
"""Steps after which the bar of a training reads loss and accuracy, which waits for the device."""

_quiet = False


def be_quiet(quiet: bool) -> None:
    """Show nothing on the way from now on, or show it again."""
    global _quiet
    _quiet = quiet


def say(line: str) -> None:
    """Print a line on the way."""
    if not _quiet:
        print(line, flush=True)


def progress_bar(total: int, what: str, unit: str = "image") -> tqdm:
    """A bar over `total` images or other units; none where the output is not a terminal, and one for all processes."""
    shown = distributed.is_first() and not _quiet
    return tqdm(total=total, desc=what, unit=unit, leave=False, disable=None if shown else True)
