"""Draw what results and training logs say, for papers: PDF with embedded fonts, and PNG.

    python3 figures.py docs/results/mnist_masked_band.json docs/results/interval_mnist_p55.json --out figures
    python3 figures.py results/*.json checkpoints/*.jsonl --out figures

Takes what --output wrote, and logs of training (*.jsonl, *.log), and draws what there is: accuracy against patch size,
θ, s and time where results differ in them, all runs in one figure, and curves of training.
"""

from pathlib import Path

from patchcert import cli
from patchcert.option_values import folder, result_or_log
from patchcert.reports import figures
from patchcert.reports.points import names_of, points_of


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.what.add_argument(
        "results", nargs="+", type=result_or_log, metavar="RESULTS", help="files of --output, and logs of training"
    )
    parser.output.add_argument("--out", type=folder, required=True, metavar="DIR", help="write the figures here")
    options = parser.parse_args()
    named = list(zip(names_of([path for path, _ in options.results]), options.results, strict=True))
    logs = {name: content for name, (_, content) in named if isinstance(content, list)}
    points = [point for name, (_, content) in named if name not in logs for point in points_of(name, content)]
    drawn = figures.accuracies(points) | ({"training": figures.training(logs)} if logs else {})
    if not drawn:
        parser.error("RESULTS: nothing to draw, they differ neither in patch size nor in θ, s or time")
    for name, figure in drawn.items():
        for kind in ("pdf", "png"):
            path = Path(options.out / f"{name}.{kind}")
            figures.save(figure, path)
            print(path)


if __name__ == "__main__":
    cli.run(main)
