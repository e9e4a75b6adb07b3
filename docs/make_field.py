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

These tables show certified and clean accuracy in percent, against one square patch anywhere in the image. They include
our own numbers, except those of [pretrained networks at 224 pixels](results.md#a-pretrained-network-at-224-pixels),
which were counted on other images. `make pages` makes this page from [field.json](field.json).

**How to read it.** Compare numbers only within one table, and only if *other data* is the same: what the network was
trained on besides the training images of this data set. An empty cell means that we do not know. *Passes* are the runs
of the network that a certified image takes. *Standing* says who measured, and links to the page where we read it:

- *reported*: the authors report it, and we have not run it.
- *recomputed by others*: somebody else ran the published code.
- *recomputed here*: we trained or certified it with this repository. For our own defences it means that one of our
  commands measured it ([results](results.md)), on images on which nothing was chosen.

*Project notes* are our own notes from a public list, a repository or an abstract. They do not say which one, so the
link leads to the paper. Most rows are second-hand: read the paper before you quote one.

**To add a row**, add an entry to `numbers` in [field.json](field.json), and one to `defences` if the defence is new.
[field.schema.json](field.schema.json) says what each field holds. Leave out what you do not know. Then run `make pages`
and open a pull request. A test checks the entry, and checks that this page agrees with the file."""

ALARMS = """A defence with alarms may answer "attacked" instead of a class. An image is certified if no patch can make
the defence answer with a wrong class. This promise is weaker, so do not compare these numbers with those above.
The column *false alarms* says whether the clean accuracy counts an alarm on a clean image as an error. **Where it does
not, the clean accuracy is higher for this reason.**"""

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
    """For each size of patch a heading, a table and the notes, the smallest part of the image first."""
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
    rows = [["defence", "year", "paper", "code", "its licence", "time for an image", "note"]]
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
