"""Measure how much faster bounds inside windows are than one full image per place, and tight sparse bounds; and what
room for rounding costs.

    python3 benchmarks/bench_intervals.py --output results/bench_intervals.json

Training: one step (bounds at all places, gradients, Adam) of the MNIST multilayer perceptron at batch 256; and one step
of the 5-layer CIFAR-10 network as two configs have it, the guide included, at their batch size, with and without --amp.
The plain step of this network takes too much memory for a whole batch. It gets a few images, and its seconds are
multiplied. The most memory of a step of ours is measured in a process of its own.
Evaluation: bounds of the 5-layer CIFAR-10 network at 5 × 5 for a batch at some places, spread over the image; what a
place costs does not depend on where it is. Tight sparse bounds of the CIFAR-10 multilayer perceptron at k = 4, without
gradients; its weights are flattened, as training leaves them, which makes the largest moves hard to find; plain are
those of the moves of all inputs. The plain construction is that of the tests. Room for rounding is compared with the
same bounds without it, at all places of the perceptron, at some of the convolutions. Both sides run in turn in
this process; ratios are of medians. Images are random: their content does not change the work.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import nn

from benchmarks import records
from benchmarks.bench_certify import peak_memory
from benchmarks.timing import compare
from patchcert.intervals import config_files
from patchcert.intervals.bounds import robust_loss
from patchcert.intervals.evaluation import spread
from patchcert.intervals.guide import guide_loss, likeliest
from patchcert.intervals.networks import build
from patchcert.intervals.places import Places, Scale, Threat, all_places, corners_of
from patchcert.intervals.sparse import SparseThreat, sparse_margins
from patchcert.intervals.training import Run
from patchcert.intervals.training_attacks import GuidedPlaces
from patchcert.intervals.worst_places import Batch, all_margins, worst_margins
from patchcert.patch import Patch
from tests.intervals.oracle import plain_margins, plain_tight_margins


def batch_of(network: nn.Sequential, shape: tuple[int, ...], patch: Patch) -> Batch:
    scale = Scale((0.5,) * shape[1], (0.25,) * shape[1])
    return Batch(network, torch.rand(shape), torch.randint(10, shape[:1]), Threat(patch, 0.9), scale)


def training_step(batch: Batch, bounds: Callable[[Batch], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adam(batch.network.parameters(), 5e-4)

    def step() -> None:
        optimizer.zero_grad()
        robust_loss(bounds(batch), batch.labels).backward()
        optimizer.step()

    return step


def plain(batch: Batch, corners: torch.Tensor | None = None) -> torch.Tensor:
    """(P, N, K) margins by the plain construction."""
    return plain_margins(batch.network, batch.images, batch.labels, batch.threat, batch.scale, corners)


def train_mlp(side: int, batch_size: int, repetitions: int) -> dict:
    torch.manual_seed(0)
    batch = batch_of(build("mlp", 1, 28, 10, {"hidden": 255}), (batch_size, 1, 28, 28), Patch(side, side))
    ours = training_step(batch, lambda batch: worst_margins(batch, all_places(batch.images, batch.threat.patch)))
    theirs = training_step(batch, lambda batch: plain(batch).amin(dim=0))
    return compare(ours, theirs, repetitions)


def cnn_step(name: str, amp: bool) -> tuple[Run, tuple[torch.Tensor, torch.Tensor, float, torch.Tensor]]:
    """A config's 5-layer network, and what a step of its training gets."""
    torch.manual_seed(0)
    experiment = config_files.load(ROOT / "config" / f"{name}.json")
    run = Run(experiment, experiment.models[3], (3, 32, 32), 10, 2 * 2**30, amp)
    images = torch.rand(experiment.training_params.batch_size, 3, 32, 32)
    labels = torch.randint(10, images.shape[:1])
    return run, (images, labels, 0.9, run.attack.noise(images, torch.Generator().manual_seed(0)))


def step_of(run: Run, loss: Callable[[], torch.Tensor]) -> None:
    run.optimizer.zero_grad()
    loss().backward()
    run.optimizer.step()


def peak_mib(name: str, amp: bool, threads: int) -> float:
    """The most memory (MiB) that a process holds in the second step, all of Python and PyTorch in it."""
    torch.set_num_threads(threads)
    run, given = cnn_step(name, amp)
    for _ in range(2):
        _, peak = peak_memory(lambda: step_of(run, lambda: run.loss(*given)[0]), torch.device("cpu"))
    return peak


def train_cnn(name: str, amp: bool, plain_images: int, repetitions: int) -> dict:
    """A training step of a config's 5-layer network, against the plain construction of the same loss."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        peak = process.submit(peak_mib, name, amp, torch.get_num_threads()).result()
    run, (images, labels, epsilon, noise) = cnn_step(name, amp)
    few = images[:plain_images], labels[:plain_images], epsilon, noise[:plain_images]
    with torch.no_grad():
        losses = [float(loss) for loss in (run.loss(*few)[0], plain_loss(run, *few))]
    found = compare(
        lambda: step_of(run, lambda: run.loss(images, labels, epsilon, noise)[0]),
        lambda: step_of(run, lambda: plain_loss(run, *few)),
        repetitions,
    )
    times = len(images) / plain_images
    return found | {
        "plain_seconds": found["plain_seconds"] * times,
        "ratio": found["ratio"] * times,
        "images": len(images),
        "relative_difference": abs(losses[0] - losses[1]) / losses[1],
        "peak_mib": peak,
    }


def plain_loss(
    run: Run, images: torch.Tensor, labels: torch.Tensor, epsilon: float, noise: torch.Tensor
) -> torch.Tensor:
    """The loss of `Run.loss`, from one full image for each place."""
    method, scale, beside = run.training.method_params, run.config.scale, 0.0
    if isinstance(run.attack, GuidedPlaces):
        rows, columns = 33 - method.patch_w, 33 - method.patch_l
        predicted = run.attack.guide(scale.inputs(images))[:, :, :rows, :columns].flatten(2)
        drawn = likeliest(predicted, method.T, noise, method.patch_count)
    else:
        drawn = noise.t()
    corners = corners_of(method.patch, 32, 32)[drawn]
    margins = plain_margins(run.network, images, labels, Threat(method.patch, epsilon), scale, corners)
    if isinstance(run.attack, GuidedPlaces):
        beside = guide_loss(predicted, drawn, margins.detach())
    return robust_loss(margins.amin(dim=0), labels) + beside


@torch.no_grad()
def evaluate_cnn(batch_size: int, places: int, repetitions: int) -> dict:
    torch.manual_seed(0)
    network = build("cnn_5layer", 3, 32, 10, {"width": 16, "linear_size": 512})
    batch = batch_of(network, (batch_size, 3, 32, 32), Patch(5, 5))
    corners = corners_of(Patch(5, 5), 32, 32)
    corners = corners[spread(len(corners))[:places]]
    lattice = Places(corners[:, None], torch.arange(batch_size))
    expected = plain(batch, corners)
    difference = (all_margins(batch, lattice) - expected).abs().max() / expected.abs().max()
    found = compare(
        lambda: all_margins(batch, lattice), lambda: [plain(batch, corner[None]) for corner in corners], repetitions
    )
    return found | {"images": batch_size, "places": places, "relative_difference": float(difference)}


@torch.no_grad()
def evaluate_sparse(batch_size: int, repetitions: int) -> dict:
    torch.manual_seed(0)
    network = build("mlp", 3, 32, 10, {"hidden": 255})
    network[1].weight.clamp_(-0.01, 0.01)
    batch = torch.rand(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))
    threat, scale = SparseThreat(4, tight=True), Scale((0.5,) * 3, (0.25,) * 3)
    expected = plain_tight_margins(network, *batch, threat, scale)
    difference = (sparse_margins(network, *batch, threat, scale) - expected).abs().max() / expected.abs().max()
    found = compare(
        lambda: sparse_margins(network, *batch, threat, scale),
        lambda: plain_tight_margins(network, *batch, threat, scale),
        repetitions,
    )
    return found | {"images": batch_size, "relative_difference": float(difference)}


@torch.no_grad()
def room(network: nn.Sequential, shape: tuple[int, ...], side: int, places: int | None, repetitions: int) -> dict:
    """Bounds with room for rounding against those without, clean activations included."""
    torch.manual_seed(0)
    batch = batch_of(network, shape, Patch(side, side))
    corners = corners_of(Patch(side, side), *shape[2:])
    lattice = Places(corners[spread(len(corners))[:places]][:, None], torch.arange(shape[0]))
    rounded = replace(batch, rounded=True)
    return compare(lambda: all_margins(rounded, lattice), lambda: all_margins(batch, lattice), repetitions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="of each measurement")
    parser.add_argument("--batch_size", type=int, default=256, help="images of a training step")
    parser.add_argument("--plain_images", type=int, default=8, help="images of the plain CIFAR-10 training step")
    parser.add_argument("--eval_batch_size", type=int, default=128, help="images of the evaluation pass")
    parser.add_argument("--places", type=int, default=12, help="places of the evaluation pass")
    parser.add_argument("--sparse_batch_size", type=int, default=64, help="images of the sparse bounds")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the measurements here")
    options = parser.parse_args()
    step = options.plain_images, options.repetitions
    found = {
        "train_mlp_p22": lambda: train_mlp(2, options.batch_size, options.repetitions),
        "train_mlp_p55": lambda: train_mlp(5, options.batch_size, options.repetitions),
        "train_cnn5_p55_rand20": lambda: train_cnn("cifar_robtrain_p55_rand20", False, *step),
        "train_cnn5_p55_rand20_amp": lambda: train_cnn("cifar_robtrain_p55_rand20", True, *step),
        "train_cnn5_p22_guide20": lambda: train_cnn("cifar_robtrain_p22_guide20", False, *step),
        "train_cnn5_p22_guide20_amp": lambda: train_cnn("cifar_robtrain_p22_guide20", True, *step),
        "evaluate_cnn5_p55": lambda: evaluate_cnn(options.eval_batch_size, options.places, options.repetitions),
        "evaluate_mlp_k4_tight": lambda: evaluate_sparse(options.sparse_batch_size, options.repetitions),
    }
    mlp = build("mlp", 1, 28, 10, {"hidden": 255})
    cnn = build("cnn_5layer", 3, 32, 10, {"width": 16, "linear_size": 512})
    count, some = options.batch_size, (options.eval_batch_size, 3, 32, 32)
    found |= {
        "room_mlp_p22": lambda: room(mlp, (count, 1, 28, 28), 2, None, options.repetitions),
        "room_mlp_p55": lambda: room(mlp, (count, 1, 28, 28), 5, None, options.repetitions),
        "room_cnn5_p55": lambda: room(cnn, some, 5, 4 * options.places, options.repetitions),
    }
    measured = {}
    for name, measure in found.items():
        measured[name] = measure()
        print(name, {key: round(value, 6) for key, value in measured[name].items()}, flush=True)
    records.write(measured, options.output)


if __name__ == "__main__":
    main()
