"""Write docs/scripts: a page for each script, made from what its --help says.

    python3 -m docs.make_pages

A script runs as far as its options are known, so a page cannot say anything else than --help. What is no longer a
script loses its page.
"""

import argparse
import runpy
import sys
from pathlib import Path
from unittest import mock

from patchcert import __main__ as command
from patchcert.cli import Parser
from patchcert.zoo import table

ROOT = Path(__file__).resolve().parent.parent

PAGES = ROOT / "docs" / "scripts"

FAMILIES = {
    "train_": "Train: networks for votes, for double masking, and undefended ones",
    "certify": "Certify",
    "attack": "Attack",
    "": "Interval bounds, reports and the quickstart",
}
"""Headings of the list of pages, by what names of scripts begin with; a script is listed under the first that fits."""

BEGINNING = """A page for each script, made from its `--help` by `make pages`.

[The command patchcert](patchcert.md) does what `certify.py`, `attack.py`, `report.py` and some others do. It needs no
clone, and it knows the networks that ship."""
"""Of the list of pages."""


class _Known(BaseException):
    """Raised where a script would parse its options; not an Exception, which scripts report."""


def scripts() -> list[Path]:
    """The scripts of the project, in the order of their names."""
    return [path for path in sorted(ROOT.glob("*.py")) if "cli.run(main)" in path.read_text()]


def parser_of(script: Path) -> Parser:
    """The parser of a script, with all its options."""

    def stop(parser: Parser, *_: object) -> None:
        raise _Known(parser)

    parsing = mock.patch.multiple(Parser, parse_args=stop, parse_intermixed_args=stop)
    with parsing, mock.patch.object(sys, "argv", [str(script)]):
        try:
            runpy.run_path(str(script))["main"]()
        except _Known as known:
            return known.args[0]
    raise ValueError(f"{script} does not parse options")


def page(name: str, parser: Parser) -> str:
    """The page of the script `name`."""
    others = {
        action: [other for other in group._group_actions if other is not action]
        for group in parser._mutually_exclusive_groups
        for action in group._group_actions
    }
    parts = [f"# {name}", parser.description.strip()]
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if shown:
            rows = [f"| `{_spelt(action)}` | {_meaning(parser, action, others.get(action, []))} |" for action in shown]
            parts.append("\n".join([f"## {group.title}", "", "| option | meaning |", "|---|---|", *rows]))
    parts.append("[All scripts](README.md). Made from `--help` by `make pages`.")
    return "\n\n".join(parts) + "\n"


def _spelt(action: argparse.Action) -> str:
    """What is typed: `--dataset {mnist,folder}`."""
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
    value = action.metavar or choices
    return f"{names} {value}".strip() + {"+": " …", "*": " …"}.get(action.nargs, "")


def _meaning(parser: Parser, action: argparse.Action, others: list[argparse.Action]) -> str:
    text = parser._get_formatter()._expand_help(action).replace("|", r"\|")
    required = "; **required**" if action.required and action.nargs != "*" else ""
    instead = " or ".join(f"`{other.option_strings[0]}`" for other in others)
    return text + required + (f"; not with {instead}" if instead else "")


def index(descriptions: dict[str, str]) -> str:
    """The list of pages, from what each script says of itself, by its name."""
    left, parts = dict(descriptions), ["# Scripts", BEGINNING]
    for start, heading in FAMILIES.items():
        names = [name for name in left if name.startswith(start)]
        lines = [f"- [{name}]({Path(name).stem}.md): {left.pop(name).strip().splitlines()[0]}" for name in names]
        parts.append("\n".join([f"## {heading}", "", *lines]))
    return "\n\n".join(parts) + "\n"


def page_of_command() -> str:
    """The page of the command `patchcert`: what it says of itself, and what ships."""
    helps = {"--help": command.USAGE, "models": table.overview() + "\n"}
    helps |= {f"{name} --help": command.help_on(name) for name in command.WAYS}
    parts = [f"```text\n$ patchcert {arguments}\n{text}```" for arguments, text in helps.items()]
    last = "[All scripts](README.md). Made by `make pages`."
    return "\n\n".join(["# The command patchcert", *parts, last]) + "\n"


def pages() -> dict[str, str]:
    """The content of every file in docs/scripts, by its name."""
    parsers = {script.name: parser_of(script) for script in scripts()}
    written = {f"{Path(name).stem}.md": page(name, parser) for name, parser in parsers.items()}
    written["patchcert.md"] = page_of_command()
    return written | {"README.md": index({name: parser.description for name, parser in parsers.items()})}


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    written = pages()
    for old in PAGES.glob("*.md"):
        if old.name not in written:
            old.unlink()
    for name, text in written.items():
        (PAGES / name).write_text(text)


if __name__ == "__main__":
    main()
