"""Time certifying CIFAR-10 by bands and windows against an older build of this project, with its own networks.

    python3 benchmarks/bench_joint.py --output bench_joint.json
    python3 benchmarks/bench_joint.py --validation --pictures 60 --options "--no-mirrored --amp"

Takes the older build out of git, into a temporary folder, and runs its certify_cifar_joint.py there. For this it needs
a clone whose history holds that commit. Both builds certify patches of 5 × 5 on the same images of the test half,
evenly spaced. They take turns: each certifies one part of the images, then the next part. So other work on the
machine slows down both.

    old   the build of --commit, as its README commands it
    new   this tree, with --options

The ratio is one of the seconds that the scripts report: without starting Python and reading the data. The processor's
seconds and the peak memory are those of whole processes.
"""

import argparse
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import records
from patchcert import cli
from patchcert.data import named, splits
from patchcert.errors import UsageError
from patchcert.option_values import output_file, positive_int

COMMAND = (
    "certify_cifar_joint.py --quiet --size_to_certify 5 --checkpoint cifar_masked_band.pth --windows cifar_windows.pth"
)
"""What README commands in both builds; each finds its own weights in its own checkpoints/."""


@dataclass(frozen=True)
class Found:
    """What one build says of some images, and what that took.

    Attributes:
        pictures, correct, certified: counts; certified are those that are correct, too.
        seconds: that the script reports.
        process_seconds, processor_seconds: of the whole process, by the clock and by all processors together.
        peak_mib: the most memory that a process held.
        passes: of the network for windows; None where the build does not count them.
    """

    pictures: int
    correct: int
    certified: int
    seconds: float
    process_seconds: float
    processor_seconds: float
    peak_mib: float
    passes: int | None

    def __add__(self, other: "Found") -> "Found":
        mine, theirs = asdict(self), asdict(other)
        both = {name: None if None in (mine[name], theirs[name]) else mine[name] + theirs[name] for name in mine}
        return Found(**both | {"peak_mib": max(self.peak_mib, other.peak_mib)})


def checked_out(commit: str, folder: Path) -> None:
    """Write the files of a `commit` of this clone into `folder`."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
    if packed.returncode:
        raise UsageError("commit", commit, f"git: {packed.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(folder, filter="data")


def pictures_for_both(data: Path, folder: Path) -> None:
    """Make `folder` one in which every build finds the CIFAR-10 images of `data` that today's would take.

    Older builds know one name alone of a folder of images.
    """
    folder.mkdir()
    tree = next((data / name for name in named.CIFAR10_TREES if (data / name).is_dir()), None)
    if tree is None:
        raise UsageError("data", data, f"expected a folder {' or '.join(named.CIFAR10_TREES)} in it")
    (folder / "cifar10").symlink_to(tree.resolve())


def chosen(data: Path, count: int, validation: bool) -> list[int]:
    """The numbers of `count` images, evenly spaced over a half of the test images."""
    half = splits.choose_half(named.load("cifar10", data, train=False), test=not validation)
    return splits.spread(half, count).indices.tolist()


def certified(build: Path, options: list[str], data: Path, numbers: list[int], folder: Path) -> Found:
    """What the script of a `build` says of the images with these `numbers`; its files lie in `folder` meanwhile."""
    split, output = folder / "numbers.txt", folder / "found.json"
    split.write_text("".join(f"{number}\n" for number in numbers))
    where = ["--data", data, "--split_file", split, "--output", output, "--overwrite"]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *shlex.split(COMMAND), *options, *where], cwd=build)
    _, status, used = os.wait4(process.pid, 0)
    process_seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{build}: {shlex.join(map(str, process.args))} failed, exit code {process.returncode}")
    record = json.loads(output.read_text())
    (counts,) = record["results"]
    return Found(
        pictures=counts["total"],
        correct=counts["correct"],
        certified=counts["certified_correct"],
        seconds=record["seconds"],
        process_seconds=process_seconds,
        processor_seconds=used.ru_utime + used.ru_stime,
        peak_mib=used.ru_maxrss / 2**10,
        passes=record.get("passes"),
    )


def in_turns(builds: dict[str, tuple[Path, list[str]]], data: Path, numbers: list[int], at_once: int) -> dict:
    """What each build, a folder and options, says of all the images."""
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(numbers), at_once):
            some = numbers[start : start + at_once]
            for name, (build, options) in builds.items():
                one = certified(build, options, data, some, Path(folder))
                found[name] = found[name] + one if name in found else one
    return found


def described(found: Found) -> str:
    """In one line."""
    share = [f"{100 * count / found.pictures:.2f} %" for count in (found.certified, found.correct)]
    passes = "" if found.passes is None else f", {found.passes / found.pictures:.0f} passes a picture"
    return (
        f"{share[0]} certified, {share[1]} clean, {found.seconds / found.pictures:.3f} s a picture{passes}, "
        f"peak memory {found.peak_mib:.0f} MiB"
    )


def parsed() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--commit", default="f378426", help="the older build")
    parser.add_argument("--options", default="", help="more options of certify_cifar_joint.py, for this tree alone")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data sets")
    parser.add_argument("--pictures", type=positive_int, default=300, help="evenly spaced over the half")
    parser.add_argument("--at_once", type=positive_int, default=100, help="pictures of one turn")
    parser.add_argument(
        "--validation", action="store_true", help="take the validation half, on which settings are chosen"
    )
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the numbers here")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    with tempfile.TemporaryDirectory() as temporary:
        old, data = Path(temporary, "old"), Path(temporary, "data")
        pictures_for_both(options.data, data)
        checked_out(options.commit, old)
        builds = {"old": (old, []), "new": (ROOT, shlex.split(options.options))}
        numbers = chosen(data, options.pictures, options.validation)
        found = in_turns(builds, data, numbers, options.at_once)
    for name, one in found.items():
        print(f"{name}: {described(one)}")
    before, now = found.values()
    ratios = {name: getattr(before, name) / getattr(now, name) for name in ("seconds", "processor_seconds")}
    print(f"{ratios['seconds']:.1f} times as fast, {ratios['processor_seconds']:.1f} in the processor's time")
    about = {name: getattr(options, name) for name in ("commit", "options", "at_once", "validation")}
    about |= {"command": COMMAND, "numbers": numbers}
    about |= {"ratios": ratios, "ways": {name: asdict(one) for name, one in found.items()}}
    records.write(about, options.output)


if __name__ == "__main__":
    cli.run(main)
