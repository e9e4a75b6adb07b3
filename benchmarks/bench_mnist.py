"""Measure what must not get slower on MNIST: certifying, training, memory.

    python3 benchmarks/bench_mnist.py --output results/bench_mnist.json

Certifying is timed against the plain loop that masks a batch of 100 once per position and runs the network;
training against forward and backward passes alone on a batch that lies ready. Both sides run in turn in this
process; ratios are of medians. Peak memory is that of a fresh process. Images are random: their content does not
change the work.
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import nn

from benchmarks import records
from benchmarks.timing import compare
from patchcert.ablations.ablation import Ablation, Band, encode
from patchcert.data.dataset import Dataset
from patchcert.engines import asking
from patchcert.networks import mnist_network
from patchcert.patch import Patch
from patchcert.steps import Steps
from patchcert.training import loop
from patchcert.training.objectives import OneCopy
from patchcert.training.optimizers import Optimizers
from patchcert.training.recipes import Recipe
from patchcert.votes import certificate
from patchcert.votes.rules import ThresholdVote

BAND = Band(28, 28, 4)
STEPS = 150
QUESTION = certificate.Question(Patch(5, 5), ThresholdVote(0.2), "margin")


def random_pictures(count: int) -> Dataset:
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)
    return Dataset(images, torch.randint(0, 10, (count,)), torch.arange(count))


def certify(network: nn.Module, data: Dataset, ablation: Ablation = BAND, engine: str = "windowed") -> None:
    base_classifier = asking.engine(engine, network, ablation, channels=2)
    certificate.certify(base_classifier, data, certificate.Certifier(ablation, [QUESTION]), batch_size=512)


@torch.inference_mode()
def plain_loop(network: nn.Module, data: Dataset) -> torch.Tensor:
    """(N, K) votes: one masked batch for each position."""
    counts = torch.zeros(len(data), 10, dtype=torch.int64)
    masks = BAND.masks()
    for first in range(0, len(data), 100):
        encoded = encode(data.images[first : first + 100] / 255)
        for mask in masks:
            counts[first : first + 100] += network(encoded * mask).softmax(dim=1) >= 0.2
    return counts


def bare_passes(network: nn.Module, steps: int) -> None:
    inputs, labels = torch.rand(128, 2, 28, 28), torch.randint(0, 10, (128,))
    for _ in range(steps):
        network.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()


def one_epoch(network: nn.Module, data: Dataset) -> None:
    recipe = Recipe(lr=0.01, regularization=0.0005, end_epoch=0, batch_size=128, seed=0)
    steps = Steps(recipe.batch_size, recipe.seed, torch.device("cpu"))
    steps.begin(0, 0, len(data))
    loop.train_epoch(network, network, Optimizers(network, recipe), OneCopy(BAND), data, recipe, steps)


def peak_megabytes(ablation: str, engine: str) -> float:
    """Peak memory of a fresh process that certifies 2 images under `ablation`, a Python expression."""
    certify_two = f"b.certify(b.mnist_network(), b.random_pictures(2), {ablation}, {engine!r}); b.print_peak()"
    code = f"import bench_mnist as b; from patchcert import Band, MultiBlock; {certify_two}"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return float(run.stdout)


def print_peak() -> None:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images to certify (default: 1000)")
    parser.add_argument("--repetitions", type=int, default=5, help="timed runs of each side (default: 5)")
    parser.add_argument("--output", type=Path, help="write the numbers here as JSON")
    options = parser.parse_args()
    network, data, training_data = mnist_network().eval(), random_pictures(options.images), random_pictures(128 * STEPS)
    measured = {
        "certify band 4": compare(
            lambda: certify(network, data), lambda: plain_loop(network, data), options.repetitions
        ),
        "train": compare(
            lambda: one_epoch(network, training_data), lambda: bare_passes(network, STEPS), options.repetitions
        ),
    }
    for name, row in measured.items():
        print(f"{name:20s} {row['seconds']:7.2f} s   plain {row['plain_seconds']:7.2f} s   ratio {row['ratio']:.2f}")
    engines = {"Band(28, 28, 4)": "windowed", "MultiBlock(28, 28, 4, 4)": "dense"}  # as the scripts choose
    memory = {ablation: peak_megabytes(ablation, engine) for ablation, engine in engines.items()}
    for name, megabytes in memory.items():
        print(f"peak memory certifying {name:26s} {megabytes:7.0f} MB")
    records.write(measured | {"peak_megabytes": memory}, options.output)


if __name__ == "__main__":
    main()
