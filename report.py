"""Write a web page that shows several saved runs of certifying, attacking and eval.py side by side.

    python3 report.py masked.json band.json --out report
    python3 report.py results/*.json --out report

Each file was written by --output. The page shows images if --per_image or --save_votes wrote about them, and weak spots
and the answers of copies if there are saved votes. --report on the scripts themselves shows all of these. The page,
index.html, is complete in itself; its numbers and images also lie in files beside it.
"""

from patchcert import cli, write_report


def main() -> None:
    write_report(__doc__)


if __name__ == "__main__":
    cli.run(main)
