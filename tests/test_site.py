"""`make docs` makes a site of README, docs/ and the docstrings, without a warning."""

import re

import pytest

import patchcert
from tests.helpers import ROOT

build = pytest.importorskip("sphinx.cmd.build")
pytest.importorskip("myst_parser")
pytest.importorskip("furo")


@pytest.mark.filterwarnings("ignore")  # of what Sphinx will remove, and its extensions use
def test_the_site_has_every_page_and_every_public_name(tmp_path, monkeypatch):
    import numpy.typing

    monkeypatch.setattr(numpy.typing, "ArrayLike", numpy.typing.ArrayLike)  # conf.py sets it to its name alone
    monkeypatch.syspath_prepend(ROOT)
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    arguments = ["-q", "-W", "--keep-going", "-c", ROOT / "docs" / "site", ROOT, tmp_path]
    assert build.main(list(map(str, arguments))) == 0
    made = {str(path.relative_to(tmp_path).with_suffix("")) for path in tmp_path.rglob("*.html")}
    assert {str(page.relative_to(ROOT).with_suffix("")) for page in pages} <= made
    api = (tmp_path / "docs" / "site" / "api.html").read_text()
    assert {f"patchcert.{name}" for name in patchcert.__all__} <= set(re.findall(r'id="([\w.]+)"', api))
