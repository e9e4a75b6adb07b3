"""A wheel built from a checkout and installed elsewhere: what it holds, its command, and the tutorial run with it."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from patchcert.version import VERSION
from patchcert.zoo import table
from tests.helpers import ROOT

SOURCES = ("patchcert", "checkpoints", "setup.py", "pyproject.toml", "README.md", "LICENSE", "requirements.txt")


def pip(*arguments):
    run = subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the checkout, in whose checkpoints/ somebody has trained a network."""
    pytest.importorskip("setuptools", "77", reason="builds a wheel without a package index")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    (copy / "checkpoints" / "trained_here.pth").write_bytes(b"a network")
    pip("wheel", copy, "--wheel-dir", folder, "--no-deps", "--no-build-isolation", "--no-index")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder that the wheel is installed into, beside the libraries of this environment."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", wheel, "--target", target, "--no-deps", "--no-index", "--no-compile")
    return target


def run_installed(installed, folder, *arguments):
    """Run Python in `folder`, where patchcert is the installed one."""
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_wheel_holds_the_networks_that_ship_and_no_others(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {name for model in table.models().values() for variant in model.variants for name in variant.files}
    assert {name.removeprefix("patchcert/checkpoints/") for name in names if name.endswith(".pth")} == wanted
    here = {str(path.relative_to(ROOT)) for path in (ROOT / "patchcert").rglob("*") if path.is_file()}
    assert {name for name in here if "__pycache__" not in name} <= set(names)
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"patchcert", f"patchcert-{VERSION}.dist-info"}


def test_the_command_is_installed(installed, tmp_path):
    assert run_installed(installed, tmp_path, installed / "bin" / "patchcert", "--version") == f"patchcert {VERSION}\n"
    assert run_installed(installed, tmp_path, "-m", "patchcert", "models") == table.overview() + "\n"


def test_the_tutorial_with_the_installed_package(installed, tmp_path):
    page = ROOT / "docs" / "tutorial.md"
    printed = run_installed(installed, tmp_path, ROOT / "tests" / "installed_page.py", page)
    assert printed.splitlines()[-1] == str(installed / "patchcert" / "__init__.py")
    written = {path.name for path in tmp_path.iterdir()}
    assert {"certified.json", "certified.csv", "attacked.json", "mine.json", "votes.npz", "report"} <= written
    assert (tmp_path / "report" / "index.html").is_file() and list((tmp_path / "figures").glob("*.pdf"))
