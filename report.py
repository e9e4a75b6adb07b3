"""Write a page to look at: what certifying, attacking and eval.py saved, several runs beside each other.

    python3 report.py masked.json band.json --out report
    python3 report.py results/*.json --out report

Each file is what --output wrote. Images are shown where --per_image wrote rows about them or --save_votes votes, weak
spots and what each copy said where there are votes; --report on the scripts themselves shows all of it. The page,
index.html, needs nothing else; its numbers and pictures lie beside it.
"""

from patchcert import cli, write_report


def main() -> None:
    write_report(__doc__)


if __name__ == "__main__":
    cli.run(main)
