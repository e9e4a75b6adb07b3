"""Draw results and training logs for papers, as PDF with embedded fonts and as PNG.

    python3 figures.py docs/results/mnist_masked_band.json docs/results/interval_mnist_p55.json --out figures
    python3 figures.py results/*.json checkpoints/*.jsonl --out figures

Takes files of --output and training logs (*.jsonl, *.log). Draws accuracy against patch size, θ, s and time, where
results differ in these; certified against clean accuracy of alarms, with a point for each τ; and training curves. All
runs are in one figure, with a panel for each data set.
"""

from patchcert import cli, draw_figures


def main() -> None:
    draw_figures(__doc__)


if __name__ == "__main__":
    cli.run(main)
