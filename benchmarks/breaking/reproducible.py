"""The same command and seed again, with other threads, processes and engines: the same results, image by image.

Where floating point forbids that, the images concerned are counted, and each of them is lost.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.breaking import Row
from tests.helpers import ROOT, without_times, write_idx_files
from tests.networks import save_random_network

MASKED = "mnist_masked_band_lr_0.1_regularization_0.0005_lines_both_size_5_band_4_epoch_1.pth"
SMALL = ("--channels", "8,16", "--blocks", "0,1", "--batch_size", "50", "--end_epoch", "1")
INTERVALS = ("--config", str(ROOT / "config" / "mnist_robtrain_p22_all.json"), "--model_subset", "0", "1")
SCHEDULE = ("epochs=2", "schedule_start=0", "schedule_length=1")
EFFORT = ("--skip", "1", "--steps", "6", "--randomizations", "4", "--step_size", "0.3", "--size_of_attack", "9")

TRAININGS = (
    ("train_mnist_band_masked.py", *SMALL),
    ("train.py", *INTERVALS, "--subset", "100", *(f"training_params:{value}" for value in SCHEDULE)),
)
COMMANDS = {
    "certifying": ("certify_mnist_band.py", "--checkpoint", "net.pth", "--all", "--certificate", "margin,exact"),
    "certifying at random": ("certify_mnist_band_randomized.py", "--checkpoint", "net.pth", "--all"),
    "double masking": ("certify_mnist_band_masked.py", "--checkpoint", MASKED, "--all", "--size_to_certify", "1-8"),
    "interval bounds": ("eval.py", *INTERVALS),
    "attacking": ("attack_mnist_band.py", "--checkpoint", "net.pth", *EFFORT),
    "attacking double masking": ("attack_mnist_band_masked.py", "--checkpoint", MASKED, "--all", *EFFORT),
}
ENGINES = ("certifying", "certifying at random")


@dataclass(frozen=True)
class How:
    """How a command is run: on so many threads of so many processes, with more options."""

    what: str
    threads: int = 1
    processes: int = 1
    options: tuple[str, ...] = ()


def tried() -> Iterator[Row]:
    """One row for each command and way to run it otherwise; an attempt is an image and question."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_idx_files(folder / "data" / "MNIST" / "raw")
        save_random_network(folder)
        for training in TRAININGS:
            _run(folder, training, How("training"))
        for kind, command in COMMANDS.items():
            whole = _results(folder, command, How("once"))
            engine = [How("the dense engine", options=("--engine", "dense"))] if kind in ENGINES else []
            for how in (How("again"), How("2 threads", threads=2), How("2 processes", processes=2), *engine):
                record, rows = _results(folder, command, how)
                other = sum(one != row for one, row in zip(whole[1], rows, strict=True))
                lost = other or int(record != whole[0])
                yield Row("reproducible", f"{kind}: {how.what}", len(rows), lost, "images and questions")


def _results(folder: Path, command: tuple[str, ...], how: How) -> tuple[object, list[dict]]:
    """What a command's results say but for times and what it ran on, and its rows."""
    outputs = ("--output", "run.json", "--per_image", "rows.csv")
    _run(folder, (*command, *how.options, *outputs), how)
    record = json.loads((folder / "run.json").read_text())
    with (folder / "rows.csv").open() as file:
        return without_times(record.get("models") or record), list(csv.DictReader(file))


def _run(folder: Path, command: tuple[str, ...], how: How) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={how.processes}")
    launcher = torchrun if how.processes > 1 else ()
    environment = os.environ | {"OMP_NUM_THREADS": str(how.threads)}
    script, *arguments = command
    run = [sys.executable, *launcher, str(ROOT / script), *arguments]
    subprocess.run(run, cwd=folder, env=environment, check=True, capture_output=True, text=True)
