"""Certify the networks that ship in checkpoints/ again, and compare with the numbers in docs/results.

    python3 benchmarks/reproduce.py
    python3 benchmarks/reproduce.py --data DIR --output results

MNIST and CIFAR-10 must be in the folder of the data sets. The results go into the output folder. Files that git tracks
are not changed. With bands and windows together, it certifies only every hundredth image, in a minute. All images of
CIFAR-10 take an hour (docs/results.md has the commands). Other processors round differently, and this may move an
image across the numerical margin. So counts may differ by a few images. If they differ by more, the exit code is 1.
The counts of CIFAR-10 in docs/results are for the original images. On JPEG copies they differ, and a line says so.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = {
    "mnist_masked_band.json": (
        "certify_mnist_band_masked.py --all --size_to_certify 1-10 --checkpoint mnist_masked_band.pth"
    ),
    "cifar_masked_band.json": (
        "certify_cifar_band_masked.py --all --size_to_certify 1-10 --checkpoint cifar_masked_band.pth"
    ),
    "mnist_joint_hundredth.json": (
        "certify_mnist_joint.py --split_file docs/results/every_hundredth.txt --size_to_certify 1,2 "
        "--checkpoint mnist_masked_band.pth --windows mnist_windows.pth"
    ),
    "mnist_joint_8x6_hundredth.json": (
        "certify_mnist_joint.py --split_file docs/results/every_hundredth.txt --size_to_certify 3-5 "
        "--checkpoint mnist_masked_band.pth --windows mnist_windows_8x6.pth"
    ),
    "cifar_joint_hundredth.json": (
        "certify_cifar_joint.py --split_file docs/results/every_hundredth.txt --size_to_certify 1-5 "
        "--checkpoint cifar_masked_band.pth --windows cifar_windows.pth"
    ),
}
"""By the file in docs/results that holds what they found."""

COUNTED = ("total", "correct", "certified_correct", "certified_wrong")

FEW = 3
"""Images by which rounding may change a count of 10,000."""


def largest_difference(found: list[dict], written: list[dict]) -> int:
    """Of all counts, in images."""
    pairs = zip(found, written, strict=True)
    return max(abs(here[name] - there[name]) for here, there in pairs for name in COUNTED)


def pictures(record: dict) -> str | None:
    """Of CIFAR-10 `original`, or `copies` with other pixels; of other data None."""
    return record["config"].get("pictures")


def certify_again(command: str, data: Path, output: Path) -> dict:
    """Run a command of `COMMANDS` and give what it found; it goes on where an earlier one was interrupted.

    Raises:
        SystemExit: the command failed, and has said why; with its exit code.
    """
    where = ["--data", str(data), "--output", str(output)]
    run = subprocess.run([sys.executable, *shlex.split(command), *where], cwd=ROOT)
    if run.returncode:
        sys.exit(run.returncode)
    return json.loads(output.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data sets")
    parser.add_argument("--output", type=Path, default=Path("results"), metavar="DIR", help="write what is found here")
    options = parser.parse_args()
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    worst = 0
    for name, command in COMMANDS.items():
        print(f"{name}: {command}", flush=True)
        found = certify_again(command, options.data.resolve(), output / name)
        written = json.loads((ROOT / "docs" / "results" / name).read_text())
        difference = largest_difference(found["results"], written["results"])
        print(f"{name}: counts differ from docs/results by at most {difference} images")
        if pictures(found) != pictures(written):
            print(f"docs/results counted {pictures(written)} images of CIFAR-10, this run {pictures(found)}")
        else:
            worst = max(worst, difference)
    if worst > FEW:
        sys.exit(f"counts differ by more than {FEW} images, so not by rounding alone")


if __name__ == "__main__":
    main()
