"""`make results` certifies what ships again, from data anywhere, and rewrites nothing that git keeps."""

import json
import subprocess
import sys

import pytest

from benchmarks import reproduce
from tests.helpers import ROOT


@pytest.fixture
def reproduced(monkeypatch, tmp_path):
    """Runs main() on scripts that find what docs/results holds, but for `more` certified images; gives the commands."""

    def run(more=0, **config):
        commands = []

        def script(command, cwd):
            commands.append(command)
            output = command[command.index("--output") + 1]
            found = json.loads((ROOT / "docs" / "results" / output.rpartition("/")[2]).read_text())
            found["results"][0]["certified_correct"] += more
            found["config"] |= config
            with open(output, "w") as file:
                json.dump(found, file)
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr(reproduce.subprocess, "run", script)
        monkeypatch.setattr(sys, "argv", ["reproduce.py", "--data", "elsewhere", "--output", str(tmp_path / "results")])
        monkeypatch.chdir(tmp_path)
        reproduce.main()
        return commands

    return run


def test_what_is_found_lies_in_the_output_folder_and_comes_from_the_data_that_were_named(reproduced, tmp_path):
    commands = reproduced(more=reproduce.FEW)
    assert [command[-4:] for command in commands] == [
        ["--data", str(tmp_path / "elsewhere"), "--output", str(tmp_path / "results" / name)]
        for name in reproduce.COMMANDS
    ]
    assert {path.name for path in (tmp_path / "results").iterdir()} == set(reproduce.COMMANDS)


def test_more_than_rounding_fails(reproduced):
    with pytest.raises(SystemExit, match="more than 3 images, so not by rounding alone"):
        reproduced(more=reproduce.FEW + 1)


def test_a_command_that_fails_has_said_why_so_its_exit_code_is_all_that_follows(tmp_path):
    with pytest.raises(SystemExit) as left:
        reproduce.certify_again("-c 'raise SystemExit(2)'", tmp_path, tmp_path / "found.json")
    assert left.value.code == 2


def test_original_pictures_are_not_held_against_copies(reproduced, capsys):
    reproduced(more=100, pictures="copies")
    assert "counted original images of CIFAR-10, this run copies" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["results", "results-locked"])
def test_make_writes_results_into_a_folder_that_git_ignores(target):
    said = subprocess.run(["make", "-n", target, "DATA=/my data"], cwd=ROOT, capture_output=True, text=True, check=True)
    (command,) = [line for line in said.stdout.splitlines() if "benchmarks/" in line or "figures.py" in line]
    assert command.endswith('bin/python benchmarks/reproduce.py --data "/my data" --output results')
    assert "/results/" in (ROOT / ".gitignore").read_text().splitlines()
