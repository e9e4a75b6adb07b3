"""Draw what results and training logs say, for papers: PDF with embedded fonts, and PNG.

    python3 figures.py docs/results/mnist_masked_band.json docs/results/interval_mnist_p55.json --out figures
    python3 figures.py results/*.json checkpoints/*.jsonl --out figures

Takes what --output wrote, and logs of training (*.jsonl, *.log), and draws what there is: accuracy against patch size,
θ, s and time where results differ in them, certified against clean accuracy of alarms over τ, and curves of training.
All runs are in one figure, with a panel for each data set.
"""

from patchcert import cli, draw_figures


def main() -> None:
    draw_figures(__doc__)


if __name__ == "__main__":
    cli.run(main)
