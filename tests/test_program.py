"""Which modules are the user's own, and that any change to their files is noticed."""

import sys
import zipfile

import numpy
import pytest

from patchcert import program


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def own():
    """The modules of a program that is no test."""
    return {
        name: digest for name, digest in program.own_modules().items() if name.partition(".")[0] in ("mine", "apart")
    }


def test_modules_of_the_user_count_with_those_that_they_import(here):
    (here / "mine").mkdir()
    (here / "mine" / "__init__.py").write_text("from . import inner\n")
    (here / "mine" / "inner.py").write_text("def outside():\n    import apart\n")
    (here / "apart.py").write_text("WIDTH = 3\n")
    import mine

    before = own()
    assert set(before) == {"mine", "mine.inner"}
    mine.inner.outside()
    assert set(own()) == {"mine", "mine.inner", "apart"}
    (here / "mine" / "inner.py").write_text("def outside():\n    import bpart\n")
    assert {name for name, digest in own().items() if digest != before.get(name)} == {"mine.inner", "apart"}


def test_modules_in_an_archive_count_by_the_archive(here, monkeypatch):
    def pack(content):
        with zipfile.ZipFile(here / "packed.zip", "w") as archive:
            archive.writestr("mine.py", content)

    pack("WIDTH = 3")
    monkeypatch.syspath_prepend(here / "packed.zip")
    import mine

    before = own()
    assert mine.WIDTH == 3 and set(before) == {"mine"}
    pack("WIDTH = 4")
    assert own() != before


def test_what_is_installed_does_not_count():
    names = program.own_modules()
    assert numpy.__name__ in sys.modules and "patchcert.program" in sys.modules
    assert not {name.partition(".")[0] for name in names} & {"numpy", "torch", "json", "os", "patchcert", "pytest"}
    assert __name__ in names
