"""What it brings that scripts keep the memory that tensors give back (patchcert/allocator.py).

    python3 benchmarks/bench_allocator.py --output docs/results/bench_allocator.json

The same work runs with the C library as it is and with freed memory kept. The two ways take turns, each time in a
process of their own, since nothing tells the C library to become again what it was.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import records
from benchmarks.bench_intervals import cnn_step, step_of
from patchcert import WindowPairs, cli, load
from patchcert.allocator import keep_freed_memory
from patchcert.option_values import output_file, positive_int
from patchcert.small_networks import network_of_copies
from patchcert.training.hidden_pairs import HiddenPair
from patchcert.training.optimizers import Optimizers
from patchcert.training.recipes import WINDOWS


def interval_step() -> Callable[[], object]:
    """A training step with interval bounds of the 5-layer network, 10 places, in bfloat16."""
    run, (images, labels, epsilon, noise) = cnn_step("cifar_robtrain_p55_fast", amp=True)
    return lambda: step_of(run, lambda: run.loss(images, labels, epsilon, noise)[0])


def windows_step() -> Callable[[], object]:
    """A training step of the network for images with two hidden windows, on the hardest of three pairs."""
    images, labels = torch.rand(WINDOWS.batch_size, 3, 32, 32), torch.randint(10, (WINDOWS.batch_size,))
    network = network_of_copies("pooled", channels=6, classes=10)
    network.prepare(images)
    optimizers, generator = Optimizers(network, WINDOWS), torch.Generator().manual_seed(0)
    objective = HiddenPair(WindowPairs(32, 32, 11, 4).hidden(), tries=3)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = objective.loss(network.train(), images, labels, generator)
        network.zero_grad()
        loss.backward()
        optimizers.step()

    return step


def prediction() -> Callable[[], object]:
    """Predicting 32 images by bands and hidden windows, in float32."""
    classifier, images = load("cifar10-bands-and-windows"), torch.rand(32, 3, 32, 32)
    return lambda: classifier.predict(images)


CASES = {case.__name__: case for case in (interval_step, windows_step, prediction)}


def measured(case: str, kept: bool, steps: int) -> tuple[float, float]:
    """Median seconds of a step of `case`, after one that does not count, and the process's peak memory in MiB."""
    if kept:
        keep_freed_memory()
    torch.manual_seed(0)
    step, seconds = CASES[case](), []
    for _ in range(steps + 1):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compared(case: str, turns: int, steps: int) -> dict:
    found = {False: [], True: []}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as processes:
        for _ in range(turns):
            for kept, runs in found.items():
                runs.append(processes.submit(measured, case, kept, steps).result())
    (plain_seconds, plain_peak), (seconds, peak) = (map(median, zip(*runs, strict=True)) for runs in found.values())
    return {
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "ratio": plain_seconds / seconds,
        "peak_mib": peak,
        "plain_peak_mib": plain_peak,
    }


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--turns", type=positive_int, default=3, help="processes of each way")
    parser.add_argument("--steps", type=positive_int, default=5, help="steps that each process times")
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the numbers here")
    options = parser.parse_args()
    cases = {}
    for case in CASES:
        cases[case] = compared(case, options.turns, options.steps)
        print("{:14s} {plain_seconds:.2f} s, kept {seconds:.2f} s: {ratio:.2f} times".format(case, **cases[case]))
    records.write(cases | {"config": cli.configuration(options)}, options.output)


if __name__ == "__main__":
    cli.run(main)
