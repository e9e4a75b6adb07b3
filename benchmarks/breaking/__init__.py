"""The ways in which `break_it.py` breaks runs; each module yields rows of what it tried and what was lost."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """So many attempts of one kind, and how many of them lost something, which must be none."""

    kind: str
    what: str
    tried: int
    lost: int
    remark: str = ""
