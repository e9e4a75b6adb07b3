"""How far a run is."""

from tqdm import tqdm

from patchcert import distributed

STEPS_BETWEEN_READINGS = 25
"""Steps after which the bar of a training reads loss and accuracy, which waits for the device."""


def progress_bar(total: int, what: str, unit: str = "image") -> tqdm:
    """A bar over `total` images or other units; none where the output is not a terminal, and one for all processes."""
    return tqdm(total=total, desc=what, unit=unit, leave=False, disable=None if distributed.is_first() else True)
