"""Write docs/field.md, what has been published against patches, from docs/field.json.

    python3 -m docs.make_field

docs/field.schema.json says what an entry holds. Our own entries are held against docs/results by a test.
"""

import json
from pathlib import Path

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).resolve().parent

PAGE = FOLDER / "field.md"

HEAD = """# What the field has published

Certified and clean accuracy against one square patch that may lie anywhere in the picture, in percent. Our own numbers
stand among the others. This page is made from [field.json](field.json) by `make pages`.

**How to read it.** Numbers compare within one table, where *other data*, what the network saw besides the training set,
is the same. An empty cell means that we do not know. *Standing* says who measured, and links to where we read it:

- *reported*: the authors say so, and we have not run it.
- *recomputed by others*: somebody else ran the published code.
- *recomputed here*: we trained or certified it with this repository. For defences that are ours it means that our own
  command counted it ([results](results.md)), on pictures by which nothing was chosen.

*Project notes* are ours: what they hold was read in a public list, in a repository or in an abstract, and they do not
say in which. Most rows come from second hand, so read the paper before you quote one. *Passes* are those of the network
for one picture that is certified.

**To add a row**, add an entry to `numbers` in [field.json](field.json), and one to `defences` if the defence is new.
[field.schema.json](field.schema.json) says what each field holds. Leave out what you do not know. Then run `make pages`
and open a pull request. A test checks the entry, and that page and file agree."""

ALARMS = """A defence with alarms may answer "attacked" instead of a class. It is certified where no patch brings it to
a wrong class without an alarm. That is a weaker promise, so these numbers do not compare with those above. The column
*false alarms* says whether the clean accuracy counts an alarm on a clean picture as an error, as ours does. **Where it
does not, the clean accuracy is higher than it would be otherwise.**"""

GOALS = {"recover": "the right class", "alarm": "the right class or an alarm"}

FALSE_ALARMS = {True: "are errors", False: "**not counted**", None: ""}


def read() -> dict:
    """What docs/field.json holds.

    Raises:
        jsonschema.ValidationError: an entry is not as docs/field.schema.json says.
        ValueError: a number names a defence that is not listed, or a listed defence has no number.
    """
    field = json.loads((FOLDER / "field.json").read_text())
    Draft202012Validator(json.loads((FOLDER / "field.schema.json").read_text())).validate(field)
    unlisted = {number["defence"] for number in field["numbers"]} ^ field["defences"].keys()
    if unlisted:
        raise ValueError(f"in `numbers` or in `defences` alone: {', '.join(sorted(unlisted))}")
    return field


def page(field: dict) -> str:
    """The whole of docs/field.md."""
    parts = [HEAD]
    for data in dict.fromkeys(number["data"] for number in field["numbers"]):
        for goal, promise in GOALS.items():
            numbers = [number for number in field["numbers"] if (number["data"], number["goal"]) == (data, goal)]
            if numbers:
                parts.append(f"## {data}: {promise}")
                parts += [ALARMS] if goal == "alarm" else []
                parts += _by_patch(numbers)
    parts += ["## What is missing", "\n".join(f"- {sentence}" for sentence in field["left_out"])]
    parts += ["## The defences", _defences(field["defences"])]
    return "\n\n".join(parts) + "\n"


def _by_patch(numbers: list[dict]) -> list[str]:
    """For each size of patch a heading, a table and the notes, the smallest part of the picture first."""
    parts, groups = [], {}
    for number in sorted(numbers, key=lambda number: number["patch"] / number["pixels"]):
        groups.setdefault((number["patch"], number["pixels"]), []).append(number)
    for (side, pixels), group in groups.items():
        parts.append(f"### {side} × {side} of {pixels} × {pixels} pixels, {100 * (side / pixels) ** 2:.1f} %")
        parts.append(_numbers(group))
        parts += [f"{number['defence']}: {number['note']}." for number in group if "note" in number]
    return parts


def _numbers(numbers: list[dict]) -> str:
    """A table of numbers that are about one data set and one patch, the highest certified accuracy first."""
    alarms = numbers[0]["goal"] == "alarm"
    rows = [
        [
            *("certified", "clean", *(["false alarms"] if alarms else [])),
            *("defence", "network", "other data", "passes", "standing"),
        ]
    ]
    for number in sorted(numbers, key=lambda number: -number["certified"]):
        shown = [f"shown at {number['shown_at']} × {number['shown_at']}"] if "shown_at" in number else []
        counted = [number["images"]] if "images" in number else []
        rows.append(
            [
                str(number["certified"]),
                str(number.get("clean", "")),
                *([FALSE_ALARMS[number.get("false_alarms_are_errors")]] if alarms else []),
                ", ".join(number[name] for name in ("defence", "variant") if name in number),
                ", ".join([number["network"], *shown]),
                number.get("other_data", ""),
                str(number.get("passes", "")),
                ", ".join([number["standing"], f"[{number['read_in']}]({number['source']})", *counted]),
            ]
        )
    return _table(rows)


def _defences(defences: dict[str, dict]) -> str:
    rows = [["defence", "year", "paper", "code", "its licence", "time for a picture", "note"]]
    for name, known in defences.items():
        links = [f"[{what}]({known[what]})" if what in known else "" for what in ("paper", "code")]
        rows.append([name, str(known["year"]), *links, *(known.get(what, "") for what in ("licence", "time", "note"))])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main() -> None:
    PAGE.write_text(page(read()))


if __name__ == "__main__":
    main()
