"""Write a page to look at: what certifying, attacking and eval.py saved, several runs beside each other.

    python3 report.py masked.json band.json --out report
    python3 report.py results/*.json --out report

Each file is what --output wrote. Images are shown where --per_image wrote rows about them or --save_votes votes, weak
spots and what each copy said where there are votes; --report on the scripts themselves shows all of it. The page,
index.html, needs nothing else; its numbers and pictures lie beside it.
"""

from patchcert import cli
from patchcert.experiments import reporting
from patchcert.experiments.saved_runs import saved_run
from patchcert.option_values import folder, result
from patchcert.reports.exhibits import MOST_IMAGES
from patchcert.reports.points import names_of


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.what.add_argument("results", nargs="+", type=result, metavar="RESULTS", help="files of --output")
    parser.output.add_argument("--out", type=folder, required=True, metavar="DIR", help="write index.html here")
    options = parser.parse_args()
    found = [(path, record) for path, record in options.results if record["kind"] in ("certify", "attack", "evaluate")]
    if not found:
        parser.error("RESULTS: none of certifying, attacking or eval.py")
    names = names_of([path for path, _ in found])
    most = MOST_IMAGES // len(found)
    runs = [saved_run(name, path, record, most) for name, (path, record) in zip(names, found, strict=True)]
    reporting.write(options.out, runs)


if __name__ == "__main__":
    cli.run(main)
