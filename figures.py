"""Draw results and training logs for papers, as PDF with embedded fonts and as PNG.

    python3 figures.py docs/results/mnist_masked_band.json docs/results/interval_mnist_p55.json --out figures
    python3 figures.py results/*.json checkpoints/*.jsonl --out figures

The script takes files that --output wrote, and training logs (*.jsonl, *.log). It draws accuracy against patch size, θ,
s and time, if the results differ in these. For alarms it draws certified against clean accuracy, with a point for each
τ. It also draws training curves. All runs are in one figure, with a panel for each data set.
"""

from patchcert import cli, draw_figures


def main() -> None:
    draw_figures(__doc__)


if __name__ == "__main__":
    cli.run(main)
