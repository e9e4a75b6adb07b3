"""The command line: how options are parsed, how a script runs and fails, what it was asked."""

import argparse
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path

from patchcert import distributed
from patchcert.errors import BrokenCertificateError, UsageError
from patchcert.option_values import output_file


class Parser(argparse.ArgumentParser):
    """Shows defaults, takes whole option names only, and reports a wrong option in one line."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_known_args(self, *arguments, **more) -> tuple[argparse.Namespace, list[str]]:
        options, rest = super().parse_known_args(*arguments, **more)
        self._require_distinct_files(options)
        return options, rest

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
    """Run a script's `main`: errors become one line and exit code 2 (wrong use), 1 or 3 (broken certificate)."""
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
        if "--debug" in sys.argv:
            raise
        _stop(f"{type(error).__name__}: {error} (--debug shows where)".replace("\n", " "), 1)


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
