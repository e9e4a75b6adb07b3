"""The commands of docs/training-tutorial.md, run in their order in an empty folder, print what it shows."""

import os
import re
import shlex

import pytest

from tests.helpers import ROOT, succeed

BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def without_numbers(text: str) -> str:
    return re.sub(r"(\d|[.,](?=\d)|\s)+", "#", text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder but for the configs, whose paths commands name as they do in a clone."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return tmp_path


def test_the_second_tutorial(folder, capsys):
    printed, ran = "", 0
    for kind, content in BLOCK.findall((ROOT / "docs" / "training-tutorial.md").read_text()):
        if kind == "text":
            for line in content.splitlines():
                assert without_numbers(line) in without_numbers(printed), line
            continue
        for line in content.replace("\\\n", " ").splitlines():
            assigned = re.fullmatch(r"([A-Z]+)=(\S+)", line)
            if assigned:
                os.environ[assigned[1]] = assigned[2]
                continue
            python, script, *arguments = shlex.split(os.path.expandvars(line))
            assert python == "python3"
            succeed(script, *arguments, folder=folder)
            printed, ran = capsys.readouterr().out, ran + 1
    assert ran >= 6
    assert {"masked.json", "masked.csv", "votes.npz", "attack.json", "intervals.json"} <= set(os.listdir(folder))
