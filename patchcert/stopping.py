"""How signals end a script: at once but in order, or, in training, after the step at hand."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What asks for the end: Ctrl-C, a terminal that closes, and what schedulers send before they take the machine."""

ECHO = 1.0
"""Seconds within which signals count as one: `timeout` and torchrun pass on what everyone gets anyway."""


class Stopped(KeyboardInterrupt):
    """A signal asked for the end; scripts exit with code 128 + its `number`.

    Args:
        said: how to go on, for the person at the shell.
    """

    def __init__(self, number: int, *said: str):
        super().__init__(*said)
        self.number = number


class Request:
    """Whether a signal has asked for the end, and which, its `number`; at the second one there is no waiting."""

    number: int | None = None

    def note(self, number: int) -> None:
        if self.number is not None:
            raise Stopped(number, "the same command continues from what was saved last")
        self.number = number


@contextmanager
def at_once() -> Iterator[None]:
    """Inside, the signals of `ENDING` raise `Stopped`, so that temporary files go and one line is said."""

    def stop(number: int) -> None:
        raise Stopped(number)

    with _handled_by(stop):
        yield


@contextmanager
def after_a_step() -> Iterator[Request]:
    """Inside, the signals of `ENDING` become a request, for the code there to follow; what ends before that raises."""
    request = Request()
    with _handled_by(request.note):
        yield request
    if request.number is not None:
        raise Stopped(request.number, "training was over and is saved")


class _Clock:
    """When the last signal came that was no echo."""

    last = float("-inf")


@contextmanager
def _handled_by(handle: Callable[[int], None]) -> Iterator[None]:
    """Inside, the signals call `handle`, but for those that the process was started to ignore."""

    def called(number: int, _: object) -> None:
        now = time.monotonic()
        if now - _Clock.last > ECHO:
            _Clock.last = now
            handle(number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other one may say what signals do
        before = {number: signal.getsignal(number) for number in ENDING}
        before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, called)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
