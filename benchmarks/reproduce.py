"""Certify the networks that ship in checkpoints/ again, and compare with the numbers in docs/results.

    python3 benchmarks/reproduce.py
    python3 benchmarks/reproduce.py --data DIR --output results

Needs MNIST and CIFAR-10 in the folder of the data sets. What is found lies in the output folder; nothing that git keeps
is written. By bands and windows together, every hundredth image is certified again, in a minute: all of CIFAR-10's take
an hour (docs/results.md has the commands). Another processor rounds otherwise, which may move an image across the
numerical margin: counts that differ by few images are named, and more of them end with exit code 1. Counts of CIFAR-10
in docs/results are of the original images; on copies that went through JPEG they differ, and it says so.
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
        "certify_mnist_joint.py --split_file docs/results/every_hundredth.txt --size_to_certify 3-5 --weight 3 "
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
    """Run a command of `COMMANDS` and give what it found; it goes on where an earlier one was interrupted."""
    where = ["--data", str(data), "--output", str(output)]
    subprocess.run([sys.executable, *shlex.split(command), *where], cwd=ROOT, check=True)
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
        print(f"{name}: counts differ from docs/results by {difference} images at most")
        if pictures(found) != pictures(written):
            print(f"those in docs/results are of {pictures(written)} images of CIFAR-10, these of {pictures(found)}")
        else:
            worst = max(worst, difference)
    if worst > FEW:
        sys.exit(f"more than {FEW}: not by rounding alone")


if __name__ == "__main__":
    main()
