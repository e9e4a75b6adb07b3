"""A disk of a few megabytes that can be full or read-only."""

import subprocess
from pathlib import Path


class SmallDisk:
    """A tmpfs mounted at `folder`, which is made; only root may mount one.

    Raises:
        OSError, subprocess.CalledProcessError: it cannot be mounted.
    """

    def __init__(self, folder: Path, megabytes: int = 8):
        self.folder, self.filler, self.is_read_only = folder, folder / "filler", False
        folder.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder)

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes, in pages of 4096."""
        with self.filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(65536)):
                    pass
            except OSError:
                file.truncate(file.tell() - left)

    def read_only(self) -> None:
        """As a disk that the kernel makes read-only after an error: files that are open stay so."""
        _run("mount", "--bind", self.folder, self.folder)
        _run("mount", "-o", "remount,ro,bind", self.folder)
        self.is_read_only = True

    def mend(self) -> None:
        """Make it writable and empty again, but for what runs have written."""
        if self.is_read_only:
            _run("umount", self.folder)
        self.is_read_only = False
        self.filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        self.mend()
        _run("umount", "-l", self.folder)


def _run(*command: object) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)
