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
    names = ("users", "imported")
    return {name: digest for name, digest in program.own_modules().items() if name.partition(".")[0] in names}


def test_modules_of_the_user_count_with_those_that_they_import(here):
    (here / "users").mkdir()
    (here / "users" / "__init__.py").write_text("from . import inner\n")
    (here / "users" / "inner.py").write_text("def outside():\n    import imported\n")
    (here / "imported.py").write_text("WIDTH = 3\n")
    import users

    before = own()
    assert set(before) == {"users", "users.inner"}
    users.inner.outside()
    assert set(own()) == {"users", "users.inner", "imported"}
    (here / "users" / "inner.py").write_text("def outside():\n    import bpart\n")
    assert {name for name, digest in own().items() if digest != before.get(name)} == {"users.inner", "imported"}


def test_modules_in_an_archive_count_by_the_archive(here, monkeypatch):
    def pack(content):
        with zipfile.ZipFile(here / "packed.zip", "w") as archive:
            archive.writestr("users.py", content)

    pack("WIDTH = 3")
    monkeypatch.syspath_prepend(here / "packed.zip")
    import users

    before = own()
    assert users.WIDTH == 3 and set(before) == {"users"}
    pack("WIDTH = 4")
    assert own() != before


def test_what_is_installed_does_not_count():
    names = program.own_modules()
    assert numpy.__name__ in sys.modules and "patchcert.program" in sys.modules
    assert not {name.partition(".")[0] for name in names} & {"numpy", "torch", "json", "os", "patchcert", "pytest"}
    assert __name__ in names
