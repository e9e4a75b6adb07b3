"""Break runs in every way that benchmarks/breaking/ knows, and print what was tried and what was lost: nothing.

    python3 benchmarks/break_it.py
    python3 benchmarks/break_it.py --only kills --output results/break_it_kills.json

Ends with exit code 1 if anything was lost.
"""

import dataclasses
import importlib
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import records
from patchcert import cli
from patchcert.option_values import output_file

WAYS = sorted(path.stem for path in Path(__file__).with_name("breaking").glob("*.py") if path.stem != "__init__")


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--only", choices=WAYS, help="one way, not all")
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the table here")
    options = parser.parse_args()
    rows, started = [], time.perf_counter()
    print(f"{'tried':>6s} {'lost':>6s}")
    for way in [options.only] if options.only else WAYS:
        for row in importlib.import_module(f"benchmarks.breaking.{way}").tried():
            rows.append(row)
            print(f"{row.tried:6d} {row.lost:6d}  {row.kind}: {row.what}  {row.remark}", flush=True)
    lost, seconds = sum(row.lost for row in rows), time.perf_counter() - started
    print(f"{sum(row.tried for row in rows)} attempts in {seconds:.0f} s, {lost} of them lost something")
    table = {"rows": [dataclasses.asdict(row) for row in rows], "lost": lost, "seconds": seconds}
    records.write(table, options.output)
    if lost:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
