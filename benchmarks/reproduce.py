"""Certify the networks that ship in checkpoints/ again, and compare with the numbers in docs/results.

    python3 benchmarks/reproduce.py

Needs the data sets under ./data. Ends with exit code 1 if a count differs.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = {
    "mnist_masked_band.json": (
        "certify_mnist_band_masked.py --all --size_to_certify 1-10 --checkpoint mnist_masked_band.pth"
    ),
}
"""By the file in docs/results that holds what they found."""


def main() -> None:
    differing = []
    for name, command in COMMANDS.items():
        print(f"{name}: {command}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / name
            subprocess.run([sys.executable, *shlex.split(command), "--output", str(output)], cwd=ROOT, check=True)
            files = output, ROOT / "docs" / "results" / name
            found, written = (json.loads(path.read_text())["results"] for path in files)
        differing += [name] * (found != written)
    print(f"other counts than in docs/results: {', '.join(differing)}" if differing else "all as in docs/results")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
