"""The command line: how options are parsed, how a script runs and fails, what it was asked."""

import argparse
import os
import re
import select
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from patchcert import distributed
from patchcert.errors import BrokenCertificateError, UsageError
from patchcert.option_values import output_file

NOBODY_READS = 141
"""Exit code where the output's reader has left, as in `| head -1`: that of a program that SIGPIPE ends, 128 + 13."""


class Parser(argparse.ArgumentParser):
    """Shows defaults, takes whole option names only, and reports a wrong option in one line.

    Attributes:
        if_missing: for some required options, what to say when they are not given.
    """

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
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
                near = [name for name in known if name.startswith(option)] or get_close_matches(option, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "--help lists the options"
                self.error(f"unrecognized {option}: {hint}")
        for option, what_there_is in self.if_missing.items():
            if not {option, "-h", "--help"} & set(given):
                self.error(f"{option} is missing: {what_there_is()}")

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
        self.exit(2, f"{self.prog}: error: {message}\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and shows defaults where they tell something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`: errors become one line and exit code 2 (wrong use), 1 or 3 (broken certificate).

    Where nobody reads the output any more it ends without a word, with exit code `NOBODY_READS`.
    """
    try:
        try:
            _run(main)
        finally:
            sys.stdout.flush()  # here, where a closed pipe can be dealt with, and not when the interpreter ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is left when the interpreter ends
        sys.exit(NOBODY_READS)


def _run(main: Callable[[], None]) -> None:
    try:
        main()
        distributed.stop()
    except KeyboardInterrupt as stop:
        _stop("; ".join(["interrupted", *stop.args]), 130)
    except UsageError as error:
        _stop(str(error), 2)
    except BrokenCertificateError as error:
        _stop(str(error), 3)
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
    distributed.let_first_speak()
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    sys.exit(code)


def configuration(options: argparse.Namespace) -> dict:
    """The script and all its options, in JSON's types."""
    return {"script": Path(sys.argv[0]).name} | {name: _plain(value) for name, value in vars(options).items()}


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)
