"""What a run has found so far, kept beside its results: the same command goes on where it stopped.

A run is a sequence of pieces of work, always the same one for the same command: a batch of images certified, the ascent
of a batch of attacks. What each piece gave is appended to a file. The next run takes it from there, in the same order,
and works only where the file ends; batches are the same, so the numbers are those of an unbroken run, bit for bit.
"""

import argparse
import contextlib
import fcntl
import io
import json
import os
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Protocol, Self, TypeVar

import PIL
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from patchcert import allocator, arithmetic, distributed, messages, program
from patchcert.cli import configuration
from patchcert.errors import UsageError
from patchcert.version import VERSION

MAGIC = b"patchcert journal 3\n"

EVERY = 5.0
"""Seconds from one writing to the next: so much of finished work may be lost, and so seldom it costs nothing."""

RETRY = 60.0
"""Seconds until the next attempt where writing failed."""

HEAD = struct.Struct("<QI")
"""Before each block: its length in bytes, and its CRC-32, which tells a whole block from one that was cut off."""

CHANGE_NOTHING = ("debug", "quiet", "overwrite", "about", "models")
"""Options that change no result, and what is made of others and of what files hold."""

Batch = TypeVar("Batch", covariant=True)
Found = TypeVar("Found")


class Batched(Protocol[Batch]):
    """N images, or what is known of them: `indices` (N,) and `labels` (N,), parts, and batches with their labels."""

    indices: Tensor
    labels: Tensor

    def take(self, chosen: slice) -> Self: ...

    def batches(self, batch_size: int) -> Iterator[tuple[Batch, Tensor]]: ...


class Journal:
    """Recalls pieces of work or has them done and keeps them; without `output` it only has them done.

    As a context it removes its file at the end of a run that succeeds, once all processes are there, and writes what
    it has at the end of one that does not.

    Args:
        output: the file of the run's results; the journal's has its name and `.partial`, and one for each process.
        settings: what makes the pieces what they are, by the names that an error gives them.
        overwrite: begin anew.
        processor: what this run computes with, see `arithmetic.processor`; on another one it goes on, and says so.

    Attributes:
        processors: what the pieces so far come from.

    Raises:
        UsageError: there is what a run of other settings left, or one that is running, or something else.
    """

    def __init__(
        self, output: Path | None = None, settings: dict | None = None, overwrite: bool = False, processor: str = ""
    ):
        self.processor, self.processors = processor, set()
        self.path = output and output.with_name(f"{output.name}{_of_process()}.partial")
        self.output, self.settings = output, json.dumps(settings or {})
        self._file: BinaryIO | None = None
        self._end = 0  # of its whole blocks
        self._known: deque[dict] = deque()
        self._pending: list[dict] = []
        self._goes_on, self._failed = False, False
        self._seconds, self._since = 0.0, time.perf_counter()
        self._next = self._since + EVERY
        if self.path:
            self._open(overwrite)

    @classmethod
    def of_run(cls, options: argparse.Namespace, **contents: object) -> Self:
        """That of a script's run, beside its `--output` if it has one.

        The program is known by patchcert's code and the user's own modules.

        Args:
            contents: fingerprints of what the run reads, and what is known of it, in JSON's types. Of files and folders
                it only matters whether they are named.
        """
        given = {name: "given" for name, value in vars(options).items() if isinstance(value, Path)}
        plain = {name: value for name, value in (configuration(options) | given).items() if name not in CHANGE_NOTHING}
        versions = {"processes": distributed.world(), "torch": torch.__version__}
        versions["patchcert"] = f"{VERSION} ({program.own_code()[:16]})"
        versions |= {"pillow": PIL.__version__, "torchvision": version("torchvision")}  # which make pixels of files
        modules = {f"module {name}": digest[:16] for name, digest in program.own_modules().items()}
        settings = {"script": plain.pop("script"), **dict(_flat("--", plain)), **contents, **versions, **modules}
        processor = arithmetic.processor(options.device) if "device" in options else ""  # votes are counted exactly
        return cls(options.output, settings, options.overwrite, processor)

    def seconds(self) -> float:
        """Of work by all runs together: what was recalled counts as long as it took when it was done."""
        return self._seconds + time.perf_counter() - self._since

    @property
    def ahead(self) -> int:
        """How many pieces are still to be recalled before one must be done."""
        return len(self._known)

    def recall(self, what: str, images: Tensor, work: Callable[[], Found]) -> Found:
        """What `work` gives: tensors and numbers, and lists, tuples and dicts of them.

        Args:
            what: names the piece when the run goes on with it.
            images: (N,) int64, those that it is about, as places in the data set.

        Raises:
            UsageError: this piece of the run that was interrupted is about other images.
        """
        numbers = images.tolist()
        if self._known:
            piece = self._known.popleft()
            if piece["images"] != numbers:
                right = f"{self.path} has other images at {what}: other hardware rounds otherwise"
                raise UsageError("output", self.output, f"{right}; --overwrite begins anew")
            self._seconds, self._since, self._goes_on = piece["seconds"], time.perf_counter(), True
            self.processors.add(piece["processor"])
            return piece["found"]
        if self._goes_on and distributed.is_first():
            messages.print_going_on_with(what, self.path)
        self._goes_on = False
        found = work()
        allocator.return_gaps()
        self.processors.add(self.processor)
        if self.path:
            copied = tree_map_only(Tensor, torch.clone, found)
            piece = {"images": numbers, "seconds": self.seconds(), "processor": self.processor, "found": copied}
            self._pending.append(piece)
            if time.perf_counter() >= self._next:
                self._write()
        return found

    def over(
        self, dataset: Batched[Batch], batch_size: int, work: Callable[[Batch, Tensor], Found]
    ) -> Iterator[tuple[Found, Tensor]]:
        """Yield what `work` gives of each batch of this process's share of the images and its labels (B,), and those.

        Images are not even decoded where it is known already.
        """
        total, share = len(dataset.labels), dataset.take(distributed.share())
        batches = list(zip(share.indices.split(batch_size), share.labels.split(batch_size), strict=True))
        unknown = (share.take(slice(self.ahead * batch_size, None)) if self.ahead else share).batches(batch_size)
        for number, (indices, labels) in enumerate(batches):
            what = f"image {number * batch_size * distributed.world() + 1:,} of {total:,}"
            yield self.recall(what, indices, partial(_of_next, unknown, work)), labels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if self.path:
            self._close(succeeded=kind is None)
        if isinstance(error, KeyboardInterrupt) and not self.path:
            error.args = ("with --output FILE.json the same command would continue from here",)
        elif isinstance(error, KeyboardInterrupt) and self._end:
            error.args = ("the same command continues from here",)

    def _close(self, succeeded: bool) -> None:
        if succeeded:
            distributed.meet()  # the first one has written the results
        elif self._pending:
            self._write()
        if self._file:
            if succeeded:
                self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # of what could not be written before
                self._file.close()

    def _open(self, overwrite: bool) -> None:
        """Read what an interrupted run left."""
        try:
            self._file = self.path.open("r+b")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError("output", self.output, f"{self.path} cannot be read: {error.strerror}") from error
        self._lock()
        beginning = self._file.read(len(MAGIC))
        if not MAGIC.startswith(beginning):
            right = f"{self.path} is not what an interrupted run of this version leaves; move it away"
            raise UsageError("output", self.output, right)
        blocks = [] if overwrite else _whole_blocks(self._file)
        if len(blocks) > 1:  # else there are settings at most
            self._require(json.loads(blocks[0]))
            self._known.extend(piece for block in blocks[1:] for piece in block)
            self._end = self._file.tell()
            others = {piece["processor"] for piece in self._known} - {self.processor}
            if others:
                messages.print_other_processor(self.path, sorted(others), self.processor)

    def _require(self, found: dict) -> None:
        wanted = json.loads(self.settings)
        other = next((name for name in wanted | found if found.get(name) != wanted.get(name)), None)
        if other:
            left = f"{self.path} is of an interrupted run with {other} {found.get(other)}, not {wanted.get(other)}"
            raise UsageError("output", self.output, f"{left}; finish that one, or give --overwrite to begin anew")

    def _lock(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # flock would be held by workers that outlive it
        except (BlockingIOError, PermissionError) as error:
            right = f"another process is writing {self.path}: the same run twice at once"
            raise UsageError("output", self.output, right) from error
        except OSError:
            return  # a file system without locks

    def _write(self) -> None:
        """Append what is pending as one block; where that fails the run goes on, and it is tried again later."""
        try:
            if self._file is None:
                self._file = self.path.open("x+b")
                self._lock()
            self._file.seek(self._end)  # where an exception may have left half a block
            if not self._end:
                self._file.write(MAGIC + _block(self.settings))
            self._file.write(_block(self._pending))
            self._file.truncate()
            os.fsync(self._file.fileno())
        except FileExistsError as error:
            raise UsageError("output", self.output, f"another process has begun to write {self.path}") from error
        except OSError as error:
            if not self._failed:
                messages.print_not_kept(self.path, error.strerror)
            self._failed, self._next = True, time.perf_counter() + RETRY
        else:
            self._end, self._next, self._pending = self._file.tell(), time.perf_counter() + EVERY, []


def _flat(prefix: str, values: dict) -> Iterator[tuple[str, object]]:
    """Yield names with values, those inside dicts too: --experiment:eval_params:epsilon."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}:", value)
        else:
            yield f"{prefix}{name}", value


def _of_process() -> str:
    return f".process_{distributed.rank()}" if distributed.rank() else ""


def _of_next(batches: Iterator[tuple[Batch, Tensor]], work: Callable[[Batch, Tensor], Found]) -> Found:
    return work(*next(batches))


def _block(content: object) -> bytes:
    saved = io.BytesIO()
    torch.save(content, saved)
    return HEAD.pack(saved.tell(), zlib.crc32(saved.getbuffer())) + saved.getvalue()


def _whole_blocks(file: BinaryIO) -> list:
    """The content of the whole blocks from here on; the file is then behind the last. Reading executes no code."""
    blocks, end, size = [], file.tell(), os.fstat(file.fileno()).st_size
    while len(head := file.read(HEAD.size)) == HEAD.size:
        length, checksum = HEAD.unpack(head)
        if length > size - file.tell() or zlib.crc32(saved := file.read(length)) != checksum:
            break
        blocks.append(torch.load(io.BytesIO(saved), map_location=_here, weights_only=True))
        end = file.tell()
    file.seek(end)
    return blocks


def _here(storage: torch.UntypedStorage, place: str) -> torch.UntypedStorage:
    """On the CPU what was there, on this process's GPU what was on one."""
    return storage if place == "cpu" else storage.cuda()
