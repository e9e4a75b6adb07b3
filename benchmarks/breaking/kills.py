"""Ends trainings of every kind at any moment, while they save, too: what lies there is whole, and the end is the same.

Each is taken up again by the same command until it is over; then every bit of what it left is compared with what a
training that nothing ended left.
"""

import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.breaking import Row
from tests.faults.trainings import COMMANDS, Trainings, difference

AT_RANDOM = {signal.SIGKILL: 30, signal.SIGTERM: 6, signal.SIGINT: 6}
"""How often each signal comes at a random time."""

WHILE_SAVING = {"inside": 10, "before": 10}
"""How often SIGKILL comes inside a file, or before it gets its name."""

IN_TWO_PROCESSES = {signal.SIGKILL: 4, signal.SIGTERM: 4}

FILES = 8
"""A kill while saving comes at one of so many files."""


def tried() -> Iterator[Row]:
    """One row for each kind of training and way to end it."""
    for kind in COMMANDS:
        yield from _rows(kind, 1, AT_RANDOM, WHILE_SAVING)
    yield from _rows("columns", 2, IN_TWO_PROCESSES, {})


def _rows(kind: str, processes: int, signals: dict[signal.Signals, int], saving: dict[str, int]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        trainings = Trainings(Path(folder), kind, processes)
        whole, seconds = unbroken(trainings)
        draw = random.Random(f"{kind} {processes}")
        ways = {f"{number.name} at a random time": at_random(number, seconds, draw) for number in signals}
        ways |= {f"SIGKILL {moment} a file": while_saving(moment, draw) for moment in saving}
        for (what, ends), times in zip(ways.items(), [*signals.values(), *saving.values()], strict=True):
            lost, remark = ended(trainings, what, ends, times, whole)
            yield Row("kills", f"{kind} in {processes} process{'es' * (processes > 1)}: {what}", times, lost, remark)


def at_random(number: int, seconds: float, draw: random.Random) -> Iterator[dict]:
    """Ways to end a training that takes so many seconds: the signal `number`."""
    while True:
        yield {"after": draw.uniform(0, seconds), "number": number}


def while_saving(moment: str, draw: random.Random, number: int = signal.SIGKILL) -> Iterator[dict]:
    """Ways to end a training: the signal `number` comes `inside` a file, or `before` it gets its name."""
    while True:
        yield {"dies": (moment, draw.randrange(FILES), number), "number": number}


def unbroken(trainings: Trainings) -> tuple[dict[str, object], float]:
    """What a training leaves that nothing ends, and how many seconds it takes."""
    for name in ("importing", "unbroken"):  # processes can be forked after the first one
        started = time.perf_counter()
        if trainings.run(name) != 0:
            raise RuntimeError(f"{trainings.kind} fails by itself: {trainings.said(name)}")
    return trainings.left("unbroken"), time.perf_counter() - started


def ended(
    trainings: Trainings, what: str, ends: Iterator[dict], times: int, whole: dict[str, object]
) -> tuple[int, str]:
    """End trainings `times` times in all and let each be over at last; how often something was lost, and what.

    Args:
        ends: arguments of `Trainings.run`.
        whole: what a training must leave.
    """
    trouble, tried, number = [], 0, 0
    while tried < times:
        name, number = f"{what} {number}", number + 1
        while tried < times and (code := trainings.run(name, **(end := next(ends)))) != 0:
            tried += 1
            trouble += trainings.broken(name)
            by_the_signal = code in (-end["number"], 128 + end["number"])
            if not by_the_signal and trainings.processes == 1:  # of two, one may fail because the other has ended
                trouble.append(f"exit code {code}: {trainings.said(name)}")
        if trainings.run(name) != 0:
            trouble.append(f"does not go on: {trainings.said(name)}")
        elif other := difference(whole, trainings.left(name)):
            trouble.append(f"comes to another end:{other}")
    return min(times, len(trouble)), "; ".join(" ".join(text.split()) for text in trouble)
