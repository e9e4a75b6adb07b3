"""Disks that fill, turn read-only or lose folders at random, processes killed while they write, runs twice at once."""

import csv
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Timer

import torch

from benchmarks.breaking import Row
from patchcert import files
from patchcert.votes import saved_votes
from tests.faults.small_disk import SmallDisk
from tests.helpers import ROOT, run_here, write_idx_files
from tests.networks import save_random_network

P22 = ROOT / "config" / "mnist_robtrain_p22_all.json"
EPOCHS = 4
TRAININGS = {
    "smoothing": (
        "train_mnist_band_masked.py",
        ["--channels", "8,16", "--blocks", "0,0", "--batch_size", 16, "--band_size", 7, "--subset", 32,
         "--end_epoch", EPOCHS - 1],
        "mnist_masked_band_lr_0.1_regularization_0.0005_lines_both_size_5_band_7_epoch_3.pth",
    ),
    "columns": (
        "train_mnist_band.py",
        ["--model", "column", "--subset", 32, "--end_epoch", EPOCHS - 1],
        "mnist_one_band_lr_0.01_regularization_0.0005_model_column_band_4_epoch_3.pth",
    ),
    "intervals": (
        "train.py",
        ["--config", P22, "--model_subset", 0, "--subset", 20, "models_path=checkpoints",
         f"training_params:epochs={EPOCHS}", "training_params:schedule_start=0", "training_params:schedule_length=1"],
        "mlp_255.pth",
    ),
}  # fmt: skip
ONE_LINE = "at most one line is said, what is there is whole, the same command comes to the same weights, no strays"

WRITES = """
import sys
from pathlib import Path
from patchcert import files
path, content = Path(sys.argv[1]), sys.argv[2].encode() * 300_000
files.prepare(path.parent)
print("begins", flush=True)
while True:
    files.write_atomically(path, lambda file: file.write(content))
"""

HOLDS = """
import sys, time
from pathlib import Path
from patchcert import files
with files.locked(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


def tried() -> Iterator[Row]:
    """Rows of every kind of attempt; those that need a disk of their own are left out where none can be mounted."""
    moment = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_idx_files(root / "data" / "MNIST" / "raw")
        yield _killed_while_writing(root / "killed", moment)
        yield _killed_while_holding(root / "held", moment)
        yield from _twice_at_once(root)
        for kind, training in TRAININGS.items():
            yield from _faults_while_training(root, kind, training, moment)
        yield from _results_that_do_not_fit(root)


def _killed_while_writing(folder: Path, moment: random.Random, kills: int = 60) -> Row:
    """Two processes write the same file all the time; both are killed, and another one starts."""
    folder.mkdir()
    path, lost, left_behind = folder / "file", 0, 0
    for _ in range(kills):
        writers = [_python(WRITES, path, letter) for letter in "ab"]
        for writer in writers:
            writer.stdout.readline()
        time.sleep(moment.uniform(0, 0.05))
        for writer in writers:
            writer.kill()
            writer.wait()
        left_behind += len(list(folder.iterdir())) - path.exists()
        whole = not path.exists() or path.read_bytes() in (b"a" * 300_000, b"b" * 300_000)
        files.prepare(folder)
        lost += not whole or set(folder.iterdir()) > {path}
    return Row("disk", "two writers of one file, SIGKILL at random", kills, lost, f"{left_behind} strays, all removed")


def _killed_while_holding(folder: Path, moment: random.Random, kills: int = 30) -> Row:
    """One process holds the lock of a run, is killed, and this one takes it."""
    folder.mkdir()
    lost = 0
    for _ in range(kills):
        holder = _python(HOLDS, folder / "net.pth")
        holder.stdout.readline()
        time.sleep(moment.uniform(0, 0.05))
        holder.kill()
        holder.wait()
        with files.locked(folder / "net.pth") as held:
            lost += not held
        lost += any(folder.iterdir())
    return Row("disk", "the holder of a run's lock, SIGKILL at random", kills, lost)


def _twice_at_once(root: Path) -> Iterator[Row]:
    """Each training while the same one, asleep, is in its first epoch; also where two processes are one run."""
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    for kind, launcher in [*((kind, []) for kind in TRAININGS), ("smoothing", torchrun)]:
        script, arguments, _ = TRAININGS[kind]
        folder = _folder(root, f"twice_{kind}_{len(launcher)}")
        command = [sys.executable, *launcher, str(ROOT / script), *map(str, arguments)]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        first = subprocess.Popen(command, cwd=folder, **streams)
        while not (holder := _holder(folder)):
            time.sleep(0.01)
        os.kill(holder, signal.SIGSTOP)
        second = subprocess.run(command, cwd=folder, **streams)
        os.kill(holder, signal.SIGCONT)
        first.communicate()
        (log,) = (*folder.glob("checkpoints/*.jsonl"), *folder.glob("checkpoints/*.log"))
        refused = second.returncode == (1 if launcher else 2) and f"process {holder} on " in second.stderr
        whole = first.returncode == 0 and len(log.read_text().splitlines()) == EPOCHS and _loads(folder)
        how = " by torchrun" if launcher else ""
        yield Row(
            "disk",
            f"{kind}: the same training twice at once{how}",
            1,
            int(not (refused and whole) or bool(_strays(folder))),
            "the second is refused",
        )


def _faults_while_training(
    root: Path, kind: str, training: tuple, moment: random.Random, times: int = 8
) -> Iterator[Row]:
    unbroken = _folder(root, f"{kind}_unbroken")
    started = time.perf_counter()
    _run(training[0], *training[1], folder=unbroken)
    seconds = time.perf_counter() - started

    def broken(number: int, fault: str, delay: float) -> bool:
        folder = _folder(root, f"{kind}_{fault}_{number}")
        with _maybe_disk(folder / "checkpoints", fault) as disk:
            happens = {
                "full": lambda: disk.fill(left=4096 * number),
                "read-only": lambda: disk.read_only(),
                "folder removed": lambda: shutil.rmtree(folder / "checkpoints", ignore_errors=True),
                "file a link": lambda: _turn_into_link(folder / "checkpoints"),
            }
            timer = Timer(delay, happens[fault])
            timer.start()
            code, _, said = _run(training[0], *training[1], folder=folder)
            timer.cancel()
            timer.join()
            fine = code in (0, 1, 2) and said.count("\n") == (code != 0) and _loads(folder)
            if disk:
                disk.mend()
            fine = fine and _run(training[0], *training[1], folder=folder)[0] == 0 and not _strays(folder)
            return not (fine and _same_weights(unbroken, folder, training[2]))

    for fault in ("full", "read-only", "folder removed", "file a link"):
        what = f"{kind}: {fault} at a random moment of training"
        try:
            lost = sum(broken(number, fault, moment.uniform(0, seconds)) for number in range(times))
        except (OSError, subprocess.CalledProcessError) as error:
            yield Row("disk", what, 0, 0, f"no disk can be mounted here: {error}")
        else:
            yield Row("disk", what, times, lost, ONE_LINE)


def _results_that_do_not_fit(root: Path, pages: Iterable[int] = (1, 2, 3, 4, 6, 8, 12, 16, 24)) -> Iterator[Row]:
    """Results on a disk with so many pages of 4096 bytes left: counts are printed, what is there is whole."""
    folder = _folder(root, "results")
    save_random_network(folder)
    for training in TRAININGS.values():
        _run(training[0], *training[1], folder=folder)
    looks = ["--all", "--limit", 40]
    masked = [*looks, "--checkpoint", TRAININGS["smoothing"][2]]
    attack = ["--skip", 1, "--size_of_attack", 12, "--steps", 4, "--randomizations", 3, "--step_size", 0.3]
    scripts = {
        "certify_mnist_band.py": ([*looks, "--checkpoint", "net.pth"], ("output", "per_image", "save_votes")),
        "certify_mnist_band_masked.py": (masked, ("output", "per_image")),
        "attack_mnist_band_masked.py": ([*masked, *attack], ("output", "per_image", "save_images")),
        "eval.py": ([*TRAININGS["intervals"][1][:4], "models_path=checkpoints"], ("output", "per_image")),
    }
    for script, (arguments, written) in scripts.items():
        lost = 0
        try:
            for left in pages:
                with _maybe_disk(folder / f"{script}_{left}", "full") as disk:
                    suffixes = {"output": "r.json", "per_image": "r.csv", "save_votes": "r.npz", "save_images": "r"}
                    outputs = [part for name in written for part in (f"--{name}", disk.folder / suffixes[name])]
                    disk.fill(4096 * left)
                    code, printed, said = _run(script, *arguments, *outputs, folder=folder)
                    errors = [line for line in said.splitlines() if not line.startswith("note: ")]
                    fine = code in (0, 1) and len(errors) == code and " images in " in printed
                    lost += not (fine and _whole_results(disk.folder, said)) or bool(_strays(disk.folder))
        except (OSError, subprocess.CalledProcessError) as error:
            yield Row("disk", f"{script}: results on a full disk", 0, 0, f"no disk can be mounted here: {error}")
        else:
            yield Row("disk", f"{script}: results on a full disk", len(pages), lost, "counts printed, rest whole")


def _folder(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "data").symlink_to(root / "data")
    return folder


@contextmanager
def _maybe_disk(folder: Path, fault: str) -> Iterator[SmallDisk | None]:
    """A small disk at `folder` where the fault is one of disks."""
    disk = SmallDisk(folder) if fault in ("full", "read-only") else None
    try:
        yield disk
    finally:
        if disk:
            disk.unmount()


def _turn_into_link(folder: Path) -> None:
    """Let the newest file of a run be a link to one elsewhere."""
    for path in sorted(_checkpoints(folder), key=os.path.getmtime)[-1:]:
        path.replace(folder.parent / "elsewhere")
        path.symlink_to(folder.parent / "elsewhere")


def _run(script: str, *arguments: object, folder: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a script."""
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as said:
        code = run_here(script, *arguments, folder=folder)
    return code, printed.getvalue(), said.getvalue()


def _python(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE)


def _holder(folder: Path) -> int | None:
    """The process that trains in `folder`."""
    found = [re.match(r"process (\d+) on .", lock.read_text()) for lock in folder.glob("checkpoints/.*.lock")]
    return int(found[0][1]) if found and found[0] else None


def _strays(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def _checkpoints(folder: Path) -> list[Path]:
    """Those of finished and of interrupted runs."""
    return [path for path in folder.glob("*.pth*") if not path.name.startswith(".")]


def _loads(folder: Path) -> bool:
    """Whether every checkpoint is whole."""
    for path in _checkpoints(folder / "checkpoints"):
        torch.load(path, weights_only=True)
    return True


def _same_weights(one: Path, other: Path, name: str) -> bool:
    states = [torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (one, other)]
    first, second = (state.get("net") or state["state_dict"] for state in states)
    return all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def _whole_results(folder: Path, said: str) -> bool:
    """Whether every file is whole or named in what was `said`."""
    rows, record, votes = folder / "r.csv", folder / "r.json", folder / "r.npz"
    if record.exists():
        json.loads(record.read_text())
    if votes.exists():
        saved_votes.read(votes)
    if rows.exists():
        with rows.open() as file:
            assert len({len(row) for row in csv.reader(file)}) == 1
    return all(path.exists() or str(path) in said for path in (rows, record))
