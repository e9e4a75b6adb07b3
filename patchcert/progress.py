"""How far a run is: a bar on a terminal, elsewhere a line a minute. A quiet run shows neither."""

import sys
import time
from contextlib import suppress
from typing import Self, TypeAlias

from tqdm import tqdm

from patchcert import distributed

STEPS_BETWEEN_READINGS = 25
"""Steps after which the bar of a training reads loss and accuracy, which waits for the device."""

SILENCE = 60.0
"""Seconds after which a line says how far a run is, where the output is no terminal."""

_quiet = False


def be_quiet(quiet: bool) -> None:
    """At the beginning of a run: show nothing on the way from now on, or show it."""
    global _quiet
    _quiet = quiet
    _Silence.begin()


def say(line: str) -> None:
    """Print a line on the way."""
    if not _quiet:
        print(line, flush=True)
        _Silence.begin()


class _Silence:
    """When it began, and when a bar was last seen: silence lasts from one bar to the next, but not over long breaks."""

    since = seen = float("-inf")

    @classmethod
    def begin(cls) -> None:
        cls.since = cls.seen = time.monotonic()

    @classmethod
    def is_broken(cls) -> bool:
        """Whether it has lasted long enough."""
        cls.seen = time.monotonic()
        return cls.seen - cls.since >= SILENCE


class Lines:
    """What a bar is where the output is no terminal: a line on stderr whenever nothing was said for a minute.

    Args:
        total, what, unit, done: see `progress_bar`.
    """

    def __init__(self, total: int | None, what: str, unit: str, done: int):
        self.total, self.what, self.unit, self.done, self.shown = total, what, unit, done, ""
        self._said = done, time.monotonic()
        if time.monotonic() - _Silence.seen >= SILENCE:
            _Silence.begin()

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        if _Silence.is_broken():
            with suppress(OSError):  # a run does not end because nobody can read this
                print(self, file=sys.stderr, flush=True)
            self._said = self.done, time.monotonic()
            _Silence.begin()

    def set_postfix(self, **shown: str) -> None:
        """What the next line says besides, by name."""
        self.set_postfix_str(", ".join(f"{name} {value}" for name, value in shown.items()))

    def set_postfix_str(self, shown: str) -> None:
        """What the next line says besides."""
        self.shown = shown

    def __str__(self) -> str:
        """Speed is that since the line before."""
        before, then = self._said
        parts = [f"{self.what}: {self.done:,}{f' of {self.total:,}' if self.total else ''} {self.unit}s"]
        if self.done > before:
            speed = (self.done - before) / max(time.monotonic() - then, 1e-9)
            parts.append(f"{speed:,.0f} a second" if speed >= 100 else f"{speed:.2g} a second")
            if self.total:
                parts.append(f"{tqdm.format_interval(max(0, self.total - self.done) / speed)} left")
        return ", ".join([*parts, *filter(None, [self.shown])])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


Bar: TypeAlias = "tqdm | Lines"


def progress_bar(total: int | None, what: str, unit: str = "image", done: int = 0, delay: float = 0.0) -> Bar:
    """A bar over `total` images or other units, or `Lines` where stderr is no terminal; one for all processes.

    Args:
        total: None if nobody knows.
        done: how many are when it begins.
        delay: seconds until it is there.
    """
    shown = distributed.is_first() and not _quiet
    if shown and not sys.stderr.isatty():
        return Lines(total, what, unit, done)
    return tqdm(total=total, desc=what, unit=unit, initial=done, leave=False, disable=not shown, delay=delay)
