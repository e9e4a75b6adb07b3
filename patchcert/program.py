"""Which program this is: patchcert's own code, the script, and the modules of the user's own that were imported."""

import hashlib
import os
import sys
import sysconfig
from pathlib import Path

INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
"""Parts of the paths of what has been installed; what it is its version says."""

PACKAGE = Path(__file__).parent

OF_OTHERS = tuple(f"{folder}{os.sep}" for folder in (*map(sysconfig.get_path, ("stdlib", "platstdlib")), PACKAGE))


def own_code() -> str:
    """SHA-256 of patchcert's modules, for a version number says nothing of changes in a clone."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()


def own_modules() -> dict[str, str]:
    """SHA-256 of the files of all modules that were imported and that nobody installed, the script among them, by name.

    What these read besides, settings or data, is not known here.
    """
    names = [name for name in sorted(sys.modules) if name != "__mp_main__"]  # the script once more
    tops = {top for top in set(map(_top, names)) if not _is_of_others(_file(top))}  # few are left of thousands of names
    files = {name: _own_file(name) for name in names if _top(name) in tops}
    return {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items() if file}


def _top(name: str) -> str:
    """The package that the module is in, or the module itself."""
    return name.partition(".")[0]


def _file(name: str) -> str:
    """The file of an imported module; empty if it has none."""
    return getattr(sys.modules.get(name), "__file__", None) or ""


def _own_file(name: str) -> str | None:
    """The file of an imported module, or the archive that it is in; None if the module itself was installed."""
    module = _file(name)
    if _is_of_others(module):
        return None
    return next(filter(os.path.isfile, (module, *map(str, Path(module).parents))), None)


def _is_of_others(file: str) -> bool:
    return file.startswith(OF_OTHERS) or any(part in file for part in INSTALLED)
