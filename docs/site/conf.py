"""How `make docs` makes a site of README, docs/ and docstrings: Sphinx, with the repository as its source folder."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import numpy.typing  # noqa: E402

from patchcert.version import VERSION  # noqa: E402

numpy.typing.ArrayLike = type("ArrayLike", (), {"__module__": "numpy.typing"})  # else all that it stands for is printed

project = "patchcert"
author = "patchcert contributors"
release = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"patchcert {VERSION}"

root_doc = "docs/site/index"
include_patterns = ["*.md", "docs/**.md", "docs/site/*.rst", "findings/README.md"]
exclude_patterns = ["data", "checkpoints", "results", "site", "tests", ".venv*", ".git", ".pytest_cache"]

myst_heading_anchors = 4  # links to headings are as GitHub has them
default_role = "code"  # docstrings write code between single backticks
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's own methods are not ours to explain
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_use_rtype = False
