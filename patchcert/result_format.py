"""The one format of all results: `results.schema.json`, a JSON Schema, beside this file; docs/results-format.md."""

import json
from functools import cache
from pathlib import Path

FORMAT = 1

EPOCH = "#/$defs/epoch"
"""Of the schema: a line of a training log."""

ARITHMETIC = "#/$defs/arithmetic"
"""Of the schema: what numbers were computed with."""

WINDOWS = "#/$defs/windows"
"""Of the schema: what a file of answers about hidden windows says of itself."""


def stamp(kind: str) -> dict:
    """What a record of this `kind` begins with."""
    return {"format": FORMAT, "kind": kind}


def flaw(record: object, part: str = "") -> str | None:
    """What keeps a record from being a result in this format, in one line; None if nothing does.

    Args:
        part: of the schema, such as `EPOCH`; else what a record of its kind must be.
    """
    errors = list(_validator(part).iter_errors(record))
    if not errors:
        return None
    error = min(errors, key=lambda error: error.validator == "unevaluatedProperties")  # which others bring with them
    where = "".join(f"[{step!r}]" for step in error.absolute_path)
    return f"{where or 'the whole'}: {error.message}"


def require(record: object, what: str, part: str = "") -> None:
    """Raise ValueError about `what` it is unless a record is in this format; see `flaw`."""
    found = flaw(record, part)
    if found:
        raise ValueError(f"{what} is not in the format of results {FORMAT}: {found}")


@cache
def schema() -> dict:
    return json.loads(Path(__file__).with_name("results.schema.json").read_text())


@cache
def _validator(part: str):
    from jsonschema import Draft202012Validator

    return Draft202012Validator({"$ref": part, "$defs": schema()["$defs"]} if part else schema())
