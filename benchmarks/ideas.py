"""What each idea adds to the certificates of one network for bands of columns and rows: votes, masking, both families.

    python3 benchmarks/ideas.py --checkpoint NAME --output docs/results/ideas.json

The validation half of CIFAR-10 against 2 × 2 and 5 × 5, in float32. Votes are counted with the best of seven θ.
"""

import sys
from operator import attrgetter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from torch import Tensor, nn

from benchmarks import records
from patchcert import (
    Band,
    LinesNetwork,
    MaskedClassifier,
    Patch,
    Row,
    SmoothedClassifier,
    certify,
    checkpoint,
    cli,
)
from patchcert.data import named, splits
from patchcert.option_values import output_file

PATCHES = Patch(2, 2), Patch(5, 5)
THRESHOLDS = 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5


class Family(nn.Module):
    """One of the networks in a `LinesNetwork`, as a base classifier for its bands alone."""

    limited_reach = True

    def __init__(self, bands: nn.Module):
        super().__init__()
        self.bands = bands

    def forward(self, images: Tensor) -> Tensor:
        return self.bands(images)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="NAME", help="a network for columns and rows")
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the table here")
    options = parser.parse_args()
    network = LinesNetwork.load(checkpoint.find("checkpoint", options.checkpoint))
    shape, (columns, rows) = network.shape, map(Family, network.families)
    bands, turned = (kind(shape.height, shape.width, shape.band_size) for kind in (Band, Row))
    dataset = splits.choose_half(named.load("cifar10", ROOT / "data", train=False), test=False)

    table = []
    for patch in PATCHES:
        votes = [SmoothedClassifier(columns, bands, threshold) for threshold in THRESHOLDS]
        ideas = {
            "votes of columns": votes,
            "double masking, columns": [MaskedClassifier(columns, bands, patch)],
            "double masking, rows": [MaskedClassifier(rows, turned, patch)],
            "double masking, columns and rows": [MaskedClassifier(network, shape.ablation(), patch)],
        }
        for idea, classifiers in ideas.items():
            answers = [certify(one, dataset.images, dataset.labels, patch).answers[0] for one in classifiers]
            best = max(answers, key=attrgetter("certified_accuracy"))
            print(f"{best}: {idea}", flush=True)
            shares = {name: getattr(best, name) for name in ("clean_accuracy", "certified_accuracy")}
            table.append({"idea": idea} | best.question | shares)
    records.write({"checkpoint": Path(options.checkpoint).name, "rows": table}, options.output)


if __name__ == "__main__":
    cli.run(main)
