"""Writing: files are whole or not there, killed processes leave nothing for good, and of each run there is one at once.

What a living process writes is known by the file's lock, which the kernel releases when the process ends, however it
does. Locks may not reach the other machines that share a folder; what is theirs is left alone for a day.
"""

import fcntl
import io
import os
import platform
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from patchcert.errors import PlaceError, WriteError


def _machine() -> str:
    """A name of this machine since its last start, the same inside of all its containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


OF_HERE = f".patchcert-{_machine()}-"
"""What names of temporary files begin with on this machine."""

STRAYS = ".patchcert-*.tmp"

STRAYS_OF_EARLIER_VERSIONS = f".{'?' * 8}.tmp"

TRIES = 9
"""Of opening a file that others may remove before it is locked."""

DAY = 86_400
"""Seconds; no file takes that long to write."""

_HELD: set[IO] = set()
"""The locks of `locked` that this process holds; those that it forks, which may outlive it, must not."""

os.register_at_fork(after_in_child=lambda: [file.close() for file in _HELD])


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: `path` is whole at every moment.

    Raises:
        WriteError: it cannot be written; what was there before still is.
    """
    content = io.BytesIO()
    write(content)  # in memory, because torch says nothing of what the disk says
    with _failing_for(path):
        target = Path(os.path.realpath(path))  # of a link, the file that it points to
        _require_file(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_file(target.parent) as file:
            file.write(content.getbuffer())
            _to_disk(file)
            os.replace(file.name, target)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file.

    Raises:
        WriteError: it cannot be written; the file may end with a part of the line.
    """
    with _failing_for(path):
        _require_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(line + "\n")
            _to_disk(file)


def rename(path: Path, to: Path) -> None:
    """Rename a file, over another one if there is one.

    Raises:
        WriteError: it cannot be done.
    """
    with _failing_for(to):
        path.replace(to)


@contextmanager
def what_fits() -> Iterator[Callable]:
    """Yield `attempt(write, *arguments)`, which calls `write` and holds back the WriteError that it may raise.

    So other files are written, and counts printed, even if one does not fit.

    Raises:
        WriteError: at the end, about all files that could not be written.
    """
    reasons = {}

    def attempt(write: Callable, *arguments) -> None:
        try:
            write(*arguments)
        except WriteError as error:
            reasons.update(error.reasons)

    try:
        yield attempt
    finally:
        if reasons:
            raise WriteError(reasons)


def prepare(folder: Path, *strays: str) -> None:
    """See that `folder` takes new files, and remove what processes that were killed while writing left in it.

    Args:
        strays: patterns of further names that such files may have, if nobody touched them for a day.

    Raises:
        OSError: it takes none.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        now = os.fstat(file.fileno()).st_mtime  # by the clock of the machine that has the disk
        for pattern in (STRAYS, *strays):
            for path in folder.glob(pattern):
                _remove_if_stray(path, now)
        file.write(bytes(4096))
        _to_disk(file)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold `path` for this process, so that others that want to hold it are refused.

    Yields whether it is held: nobody is refused where the file system knows no locks.

    Raises:
        PlaceError: another process holds it, or its folder takes no new files.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prepare(path.parent, STRAYS_OF_EARLIER_VERSIONS)
        file, held = _open_locked(lock, "a+b", fcntl.LOCK_NB)
        file.seek(0)
        holder = " ".join(file.read(200).decode(errors="replace").split()) or "another process"
        if held is not False:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
            file.flush()
    except OSError as error:
        raise PlaceError(path.parent, f"takes no new files: {_reason(error)}") from error
    with file:
        if held is False:
            raise PlaceError(path, f"{holder} is at work on it; wait until it ends, or stop it")
        _HELD.add(file)
        try:
            yield held is True
        finally:
            _HELD.remove(file)
            if _is_at(file, lock):
                with suppress(OSError):
                    lock.unlink()


@contextmanager
def _temporary_file(folder: Path) -> Iterator[IO[bytes]]:
    """A new file, locked; it goes at the end unless it has been renamed."""
    file, _ = _open_locked(folder / f"{OF_HERE}{secrets.token_hex(8)}.tmp", "xb")
    with file:
        try:
            yield file
        except BaseException:
            with suppress(OSError):  # of a disk that has become read-only, too; then `prepare` does it later
                os.unlink(file.name)
            raise


def _open_locked(path: Path, mode: str, or_not: int = 0) -> tuple[IO, bool | None]:
    """The file `path`, made if there is none, and what `_lock` says of it."""
    for _ in range(TRIES):
        file = path.open(mode)
        held = _lock(file, or_not)
        if _is_at(file, path):
            return file, held
        file.close()  # before it was locked another process removed it: as a stray, or as its own lock
    raise OSError(f"{path.name} does not stay where it is put")


def _lock(file: IO, or_not: int = fcntl.LOCK_NB) -> bool | None:
    """Whether this process holds the lock of `file` now; None where the file system knows no locks.

    Args:
        or_not: LOCK_NB not to wait for it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | or_not)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(file: IO, path: Path) -> bool:
    """Whether the open `file` is the one that `path` names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _remove_if_stray(path: Path, now: float) -> None:
    with suppress(OSError), path.open("r+b") as file:
        held = _lock(file)
        is_old = held is not False and now - os.fstat(file.fileno()).st_mtime > DAY
        if is_old or (held and path.name.startswith(OF_HERE)):
            path.unlink()


def _to_disk(file: IO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _require_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise OSError("is a folder or a device")


@contextmanager
def _failing_for(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError({path: _reason(error)}) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
