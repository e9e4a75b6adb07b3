"""Time double masking of bands and windows together against its definition, which goes through all pairs of places.

    python3 benchmarks/bench_masking.py --output bench_masking.json

Scores are random, those of class 0 a little higher; patches are 5 × 5 on images of 32 × 32 pixels. Both run in turn
in this process, and have to find the same answers and the same leads.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor

from benchmarks import records
from benchmarks.timing import compare
from patchcert import cli
from patchcert.ablations.windows import BandsAndWindows
from patchcert.masking.linked import LinkedMasking
from patchcert.option_values import output_file, positive_int
from patchcert.patch import Patch

PATCH = Patch(5, 5)
ABLATION = BandsAndWindows(32, 32, band_size=4, window_size=11, per_side=4)
CLASSES = 10


def random_scores(images: int) -> Tensor:
    """(N, A, K) logits, of which about half give the same answer to every pair of places."""
    scores = torch.randn(images, ABLATION.count, CLASSES, generator=torch.Generator().manual_seed(0))
    scores[..., 0] += torch.linspace(0, 2, images)[:, None]
    scores[:, ABLATION.bands.count :] *= 6
    return scores


def left_by_places() -> tuple[Tensor, Tensor]:
    """For each place the bands (L, A) bool that a patch there leaves, and the number (L,) of the window around it."""
    bands = ABLATION.bands.touched_by(PATCH).logical_not()
    rows, columns = ABLATION.windows.holding(PATCH)
    return bands, (rows[:, None] * ABLATION.per_side + columns).flatten()


@torch.inference_mode()
def by_definition(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) int64 and (N, K) float64: each image's answer, and its leads at the worst pair of places."""
    bands, windows = left_by_places()
    parts = ABLATION.bands.count, ABLATION.windows.count
    answers = [_of_one(bands, windows, *image.split(parts)) for image in scores.double()]
    return tuple(map(torch.stack, zip(*answers, strict=True)))


def _of_one(bands: Tensor, windows: Tensor, of_bands: Tensor, of_windows: Tensor) -> tuple[Tensor, Tensor]:
    """The answer () and the leads (K,) from the scores (A, K) and (A', K) of one image."""
    sums, numbers = [], ABLATION.windows.copy_numbers()
    for band, window in zip(bands, windows, strict=True):
        left = (band & bands).double() @ of_bands
        sums.append(left + of_windows[numbers[window, windows]])
    sums = torch.stack(sums)  # (L, L, K)
    answers = sums.argmax(dim=2)
    first = answers.diagonal()
    winner = first.bincount().argmax()
    confirmed = first[(answers == first[:, None]).all(dim=1) & (first != winner)]
    winner = confirmed[0] if len(confirmed) else winner
    return winner, (sums[..., winner, None] - sums).amin(dim=(0, 1))


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--images", type=positive_int, default=10, help="images whose scores are masked")
    parser.add_argument("--repetitions", type=positive_int, default=3, help="of which medians are taken")
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the numbers here")
    options = parser.parse_args()
    scores, masking = random_scores(options.images), LinkedMasking(ABLATION, PATCH)
    (ours, leads), (plain, plain_leads) = masking.predict_and_lead(scores), by_definition(scores)
    if not (torch.equal(ours, plain) and torch.allclose(leads, plain_leads)):
        sys.exit("double masking and its definition differ")
    measured = compare(lambda: masking.predict_and_lead(scores), lambda: by_definition(scores), options.repetitions)
    print(f"{measured['ratio']:.1f} times as fast, {1000 * measured['seconds'] / options.images:.1f} ms an image")
    records.write({"images": options.images} | measured, options.output)


if __name__ == "__main__":
    cli.run(main)
