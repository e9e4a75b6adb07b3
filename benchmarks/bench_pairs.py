"""Asking the networks that ship about coarse windows first, against asking about every pair of fine ones.

    python3 benchmarks/bench_pairs.py --output docs/results/bench_pairs.json

The two are two classifiers: docs/results.md has what each certifies. Needs CIFAR-10 under ./data.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks import records
from benchmarks.timing import compare
from patchcert import cli
from patchcert.ablations.windows import BandsAndWindows
from patchcert.data import named, splits
from patchcert.engines.columns import LinesNetwork
from patchcert.engines.joint import JointNetwork
from patchcert.option_values import output_file, positive_int
from patchcert.small_networks import network_of_copies

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "checkpoints"


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--images", type=positive_int, default=16, help="images, evenly spaced over the test images")
    parser.add_argument("--repetitions", type=positive_int, default=3, help="of which medians are taken")
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the numbers here")
    options = parser.parse_args()
    images, _ = next(
        splits.spread(named.load("cifar10", ROOT / "data", train=False), options.images).batches(options.images)
    )
    bands, windows = LinesNetwork.load(WEIGHTS / "cifar_masked_band.pth"), network_of_copies("pooled")
    windows.load_state_dict(torch.load(WEIGHTS / "cifar_windows.pth", weights_only=True)["net"])
    windows.fold()
    of_bands = 32, 32, bands.shape.band_size
    first, every = (
        JointNetwork(bands, windows, BandsAndWindows(*of_bands, *sizes), weight=10.0, sure=4.0).eval()
        for sizes in ((11, 4, 9, 6), (9, 6))
    )
    with torch.inference_mode():
        measured = compare(lambda: first(images), lambda: every(images), options.repetitions)
    print(f"{measured['ratio']:.2f} times as fast, {measured['seconds'] / options.images:.2f} s an image")
    records.write({"images": options.images} | measured, options.output)


if __name__ == "__main__":
    cli.run(main)
