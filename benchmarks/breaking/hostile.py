"""Lets scripts read more than a thousand hostile files of every kind: one line, no harm, no more memory than is due.

Each file takes the place of a good one that a script reads: pipes, devices, links, damaged bytes, pickles and archives
that are made to harm, contents of which one thing is another. A run must be refused with exit code 1 or 2 and one line,
or be a correct one; it may execute nothing and take no more memory than the file justifies. Scripts run one after the
other in a process that is watched, and if one of them ends it, the next goes on in another.
"""

import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from benchmarks.breaking import Row
from tests.faults.hostile import Outcome, Victims

OF_EACH_KIND = 120
"""Files; there are 15 kinds."""


class Watched:
    """A process that runs scripts in a folder of its own; there is another one where it has ended."""

    victims: Victims

    def __init__(self, root: Path):
        self.root = root
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (root,))

    def ask(self, question: Callable, *about: object) -> object:
        """What `question` answers there; None if that was the process's end."""
        try:
            return self.pool.submit(question, *about).result()
        except BrokenProcessPool:
            self.__init__(self.root)
            return None


def tried() -> Iterator[Row]:
    """One row for each kind of file."""
    with tempfile.TemporaryDirectory() as root:
        watched = Watched(Path(root))
        for kind, attempts in watched.ask(_all_attempts).items():
            codes, lost, most = Counter(), [], 0
            for what in attempts:
                outcome, wrong = watched.ask(_attempt, kind, what) or (Outcome(-1, "", 0), "ended the process")
                codes[outcome.code] += 1
                most = max(most, outcome.peak)
                lost += [f"{what}: {wrong}"] * bool(wrong)
            ended = f"{codes[2]} refused, {codes[1]} failed in one line, {codes[0]} ran; at most {most >> 20} MB more"
            yield Row("hostile files", kind, len(attempts), len(lost), "; ".join([ended, *lost]))
        watched.pool.shutdown()


def _begin(root: Path) -> None:
    Watched.victims = Victims(Path(tempfile.mkdtemp(dir=root)))


def _all_attempts() -> dict[str, list[str]]:
    victims = Watched.victims
    return {kind: list(islice(victims.attempts(kind), OF_EACH_KIND)) for kind in victims.targets}


def _attempt(kind: str, what: str) -> tuple[Outcome, str | None]:
    return Watched.victims.attempt(kind, what)
