"""Run every block of a page in the current folder, with the patchcert that is installed: python installed_page.py PAGE.

Blocks of `sh` are commands `patchcert …`, those of `python` are one session or, if they begin with `# NAME.py`, files.
Each line of a `text` block must have been printed by the block before, but for its numbers.
"""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def without_numbers(text):
    return re.sub(r"(\d|[.,](?=\d)|\s)+", "#", text)


def command(line):
    from patchcert import __main__

    program, *sys.argv[1:] = shlex.split(line)
    assert program == "patchcert", line
    try:
        __main__.main()
    except SystemExit as stopped:
        assert not stopped.code, f"{line}: exit code {stopped.code}"


def run(kind, content, session):
    """Run one block, and return what it printed."""
    named = re.match(r"# (\w+\.py)\n", content)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if kind == "sh":
            for line in content.replace("\\\n", " ").splitlines():
                command(line)
        elif named:
            Path(named[1]).write_text(content)
        else:
            exec(compile(content, "<page>", "exec"), session)
    return printed.getvalue()


def main(page):
    sys.path.insert(0, "")  # as at Python's prompt
    printed, session = "", {}
    for kind, content in BLOCK.findall(Path(page).read_text(encoding="utf-8")):
        if kind == "text":
            for line in content.splitlines():
                assert without_numbers(line) in without_numbers(printed), f"{line!r} is not in\n{printed}"
        else:
            printed = run(kind, content, session)
            print(printed)
    import patchcert

    print(patchcert.__file__)


if __name__ == "__main__":
    main(sys.argv[1])
