"""Write a web page that shows several saved runs of certifying, attacking and eval.py side by side.

    python3 report.py masked.json band.json --out report
    python3 report.py results/*.json --out report

The scripts wrote each file with --output. The page shows images if there is also a file of --per_image or --save_votes.
With saved votes it also shows weak spots and the answers of copies. If you use --report of a script itself, its page
shows all of these. The page, index.html, is complete in itself. Its numbers and images are also in files beside it.
"""

from patchcert import cli, write_report


def main() -> None:
    write_report(__doc__)


if __name__ == "__main__":
    cli.run(main)
