"""Examples, and the blocks of the page on the interface, run as they stand."""

import contextlib
import re
import runpy

import pytest

import patchcert
from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text()


def test_a_torchvision_network_in_ten_lines(capsys):
    runpy.run_path(str(ROOT / "examples" / "certify_torchvision.py"), run_name="__main__")
    assert re.fullmatch(r"(patch (5|2x8), exact: [\d.]+% clean, [\d.]+% certified\n){2}", capsys.readouterr().out)
    body = (ROOT / "examples" / "certify_torchvision.py").read_text().split('"""')[2]
    assert len([line for line in body.splitlines() if line]) <= 10


def test_training_on_copies_is_what_certifies_a_network_that_nobody_prepared(capsys):
    runpy.run_path(str(ROOT / "examples" / "unprepared_network.py"), run_name="__main__")
    whole, before, after = capsys.readouterr().out.splitlines()
    certified = [float(re.search(r"([\d.]+)% certified", line)[1]) for line in (before, after)]
    assert float(re.search(r"([\d.]+)% right", whole)[1]) > 85 and certified[0] + 10 < certified[1]


def test_every_block_of_the_page_runs(capsys):
    blocks, names = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S), {}
    assert len(blocks) > 5
    with contextlib.chdir(ROOT):
        for block in blocks:
            exec(block, names)
    assert len(capsys.readouterr().out.splitlines()) == 13


@pytest.mark.parametrize("name", patchcert.__all__)
def test_every_public_name_is_on_the_page(name):
    assert f"`{name}" in PAGE
