"""What docs/extending.md shows works: its scripts as they stand, its diffs applied to a copy of the repository."""

import os
import re
import shlex
import shutil
import subprocess
import sys

from tests.helpers import ROOT, succeed
from tests.test_pictures import write_pictures

PAGE = (ROOT / "docs" / "extending.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_a_network_of_ones_own(tmp_path, generated_mnist, monkeypatch, capsys):
    for script in blocks("python"):
        name = re.search(r"python3 (\w+_own\.py)", script)[1]
        (tmp_path / name).write_text(script)
    (tmp_path / "data").symlink_to(generated_mnist)
    monkeypatch.syspath_prepend(tmp_path)
    succeed(tmp_path / "train_own.py", "--end_epoch", 0, "--subset", 60, folder=tmp_path)
    (network,) = (tmp_path / "checkpoints").glob("own_*.pth")
    asked = ["--size_to_certify", "1,2", "--certificate", "margin,exact", "--limit", 5, "--checkpoint", network.name]
    succeed(tmp_path / "certify_own.py", *asked, folder=tmp_path)
    assert "5 images in" in capsys.readouterr().out


def test_pictures_of_ones_own(tmp_path):
    for part in ("train", "test"):
        write_pictures(tmp_path / "pictures" / part, ("cat", "dog"), 1)
    (command,) = blocks("sh")
    _, script, *arguments = shlex.split(command)
    succeed(script, *arguments, folder=tmp_path)


def test_the_diffs_apply_and_their_tests_pass(tmp_path):
    shutil.copytree(ROOT / "patchcert", tmp_path / "patchcert", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for file in ("pyproject.toml", "tests/__init__.py", "tests/conftest.py", "tests/helpers.py"):
        shutil.copy(ROOT / file, tmp_path / file)
    for diff in blocks("diff"):
        subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff, text=True, check=True)
    tests = ["tests/test_comb.py", "tests/test_kmnist.py"]
    without_ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH"))}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=tmp_path, env=without_ours, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0 and "4 passed" in run.stdout, run.stdout + run.stderr
