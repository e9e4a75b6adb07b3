"""The command line: how options are parsed, how a script runs and fails, what it was asked."""

import argparse
import os
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from patchcert import allocator, distributed, messages, progress, stopping
from patchcert.errors import BrokenCertificateError, Note, UsageError, WriteError, one_line
from patchcert.option_values import output_file
from patchcert.patch_sizes import PatchSize

NOBODY_READS = 141
"""Exit code where the output's reader has left, as in `| head -1`: that of a program that SIGPIPE ends, 128 + 13."""

MOST_SAID = 500
"""Characters that an error has."""


class Parser(argparse.ArgumentParser):
    """Shows defaults, takes whole option names only, and reports a wrong option in one line.

    Attributes:
        what, data, recipe, attack, certificate, engine, output: the groups of options, in the order of --help. What a
            script adds to the parser itself is of the first: the network, and what its copies show.
        if_missing: for some required options, what to say when they are not given.
    """

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False, add_help=False)
        self.what = self._optionals
        self.what.title = "what"
        self.data, self.recipe, self.attack, self.certificate, self.engine, self.output = map(
            self.add_argument_group, ("data", "recipe", "attack", "certificate", "engine", "output")
        )
        self.output.add_argument("-h", "--help", action="help", help="show this message and exit")
        self.output.add_argument(
            "--quiet", action="store_true", help="print only results, notes and errors: no progress bars, no epochs"
        )
        self.output.add_argument("--debug", action="store_true", help="show the traceback of an error")
        self.if_missing: dict[str, Callable[[], str]] = {}

    def parse_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None):
        self._require_good_names(args)
        return super().parse_args(args, namespace)

    def parse_intermixed_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None):
        self._require_good_names(args)
        return super().parse_intermixed_args(args, namespace)

    def parse_known_args(self, *arguments, **more) -> tuple[argparse.Namespace, list[str]]:
        options, rest = super().parse_known_args(*arguments, **more)
        self._require_distinct_files(options)
        return options, rest

    def _require_good_names(self, args: list[str] | None) -> None:
        """Before argparse complains of what is missing: name the option that a misspelt one may mean."""
        known = self._option_string_actions
        given = [text.partition("=")[0] for text in takewhile("--".__ne__, sys.argv[1:] if args is None else args)]
        for option in given:
            if re.fullmatch(r"--?[A-Za-z][\w-]*", option) and option not in known:
                near = [name for name in known if name.startswith(option)] or self._nearest(option)
                hint = f"did you mean {near[0]}?" if near else "--help lists the options"
                self.error(f"unrecognized {option}: {hint}")
        for option, what_there_is in self.if_missing.items():
            if not {option, "-h", "--help"} & set(given):
                self.error(f"{option} is missing: {what_there_is()}")

    def _nearest(self, option: str) -> list[str]:
        """The option with the nearest name, if one is near. Dashes are left out, since all names share them."""
        names = {name.lstrip("-"): name for name in self._option_string_actions}
        return [names[name] for name in get_close_matches(option.lstrip("-"), names, n=1)]

    def _require_distinct_files(self, options: argparse.Namespace) -> None:
        options_by_file = {}
        for action in self._actions:
            path = action.type is output_file and getattr(options, action.dest)
            if path:
                (option,) = action.option_strings
                other = options_by_file.setdefault(path.resolve(), option)
                if other != option:
                    self.error(f"argument {option}: {path}: is the file of {other} too")

    def error(self, message: str) -> None:
        distributed.let_first_speak()
        self.exit(2, f"{self.prog}: error: {one_line(message, MOST_SAID)}\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and shows defaults where they tell something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False:
            return action.help
        if action.default is True:
            return f"{action.help} (default)"
        return super()._get_help_string(action)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`: errors become one line and exit code 2 (wrong use), 1 or 3 (broken certificate).

    What it warns of with a `Note` becomes one line of the first process, too.

    Where nobody reads the output any more it ends without a word, with exit code `NOBODY_READS`. The signals that ask
    for the end (`stopping.ENDING`) end it in order, with exit code 128 + their number.
    """
    allocator.keep_freed_memory()
    progress.be_quiet("--quiet" in sys.argv)
    try:
        try:
            with stopping.at_once(), _notes_in_one_line():
                _run(main)
        finally:
            _flush()
    except BrokenPipeError:
        _discard_output()
        sys.exit(NOBODY_READS)


@contextmanager
def _notes_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_in_one_line(message: Warning | str, category: type[Warning], *where: object) -> None:
            if not issubclass(category, Note):
                show(message, category, *where)
            elif distributed.is_first():
                messages.print_note(str(message))

        warnings.showwarning = show_in_one_line
        warnings.simplefilter("always", Note)
        yield


def _flush() -> None:
    """Write what is left of the output now, when a failure can be dealt with, and not when the interpreter ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        if error.__context__ is None:  # else something failed before, and has been said
            _stop(f"cannot be written: output: {error.strerror}", 1)


def _discard_output() -> None:
    """Let the interpreter's end not fail over what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(main: Callable[[], None]) -> None:
    try:
        main()
        distributed.stop()
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        how = "interrupted" if number == signal.SIGINT else "terminated"
        if distributed.is_spoken_for():
            sys.exit(128 + number)
        _stop("; ".join([how, *stop.args]), 128 + number)
    except UsageError as error:
        _stop(error.at_shell(), 2)
    except BrokenCertificateError as error:
        _stop(str(error), 3)
    except WriteError as error:
        _stop(str(error), 1)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            raise
        distributed.let_lost_be_named(error)
        if "--debug" in sys.argv:
            raise
        _stop(f"{type(error).__name__}: {error} (--debug shows where)".replace("\n", " "), 1)


def _reader_has_left() -> bool:
    """Whether it is the output's pipe that broke, and not one between processes, which is a failure."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # errors are reported anyway
    return any(event & select.POLLERR for _, event in output.poll(0))


def _stop(message: str, code: int) -> None:
    try:
        distributed.let_first_speak()
    except KeyboardInterrupt:  # it spoke
        sys.exit(code)
    if "--debug" in sys.argv:
        traceback.print_exc()
    with suppress(OSError):  # of a terminal that has been closed
        print(f"{Path(sys.argv[0]).name}: error: {one_line(message, MOST_SAID)}", file=sys.stderr, flush=True)
    sys.exit(code)


def configuration(options: argparse.Namespace) -> dict:
    """The script and all its options, in JSON's types; sizes of patches as people write them."""
    return {"script": Path(sys.argv[0]).name} | {name: _plain(value) for name, value in vars(options).items()}


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, PatchSize):
        return value.size
    if is_dataclass(value):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)
