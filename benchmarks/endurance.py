"""Watch the memory, open files and threads of long trainings, which must stay as they are after the first minute.

    python3 benchmarks/endurance.py --minutes 60 --output results/endurance.json

Trains on generated images, each kind for so many minutes: the paper's training, a network of limited reach, interval
bounds, and images decoded by worker processes. All of them save every few seconds, and end by SIGTERM. Prints the
curve against the steps done; ends with exit code 1 where something grew.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import records
from patchcert import cli
from patchcert.option_values import output_file, positive_float
from tests.helpers import write_idx_files
from tests.test_pictures import write_pictures

SMALL = ("--channels", "4,8", "--blocks", "0,1", "--size_to_train", "2")
SCHEDULE = ("epochs=1000000", "schedule_start=0", "schedule_length=10", "batch_size=50")
PICTURES = ("--trainpath", "pictures/train", "--valpath", "pictures/test", "--model", "resnet18", "--image_size", "32")

COMMANDS = {
    "smoothing": ("train_mnist_band.py", "--end_epoch", "1000000", "--batch_size", "50"),
    "columns": ("train_mnist_band_masked.py", "--end_epoch", "1000000", "--batch_size", "50", *SMALL),
    "intervals": (
        *("train.py", "--config", str(ROOT / "config" / "mnist_robtrain_p22_guide10.json"), "--model_subset", "0"),
        *(f"training_params:{value}" for value in SCHEDULE),
    ),
    "pictures": ("train_imagenet_band.py", "--end_epoch", "1000000", "--batch_size", "10", *PICTURES),
}

STEPS = 6
"""Of an epoch: 300 digits in batches of 50, 60 images in batches of 10."""

GROWTH = {"megabytes": 20, "files": 0, "threads": 0}
"""By how much the last quarter of a curve may lie above the second."""


def usage(pid: int | str = "self") -> dict[str, float]:
    """What a process holds: resident memory, open files, threads."""
    process = Path("/proc") / str(pid)
    pages = int((process / "statm").read_text().split()[1])
    return {
        "megabytes": pages * os.sysconf("SC_PAGESIZE") / 2**20,
        "files": len(os.listdir(process / "fd")),
        "threads": len(os.listdir(process / "task")),
    }


def growth(curve: list[dict]) -> dict[str, float]:
    """By how much the last quarter of a curve lies above the second: medians."""
    quarter = len(curve) // 4
    before, after = curve[quarter : 2 * quarter], curve[-quarter:]
    return {what: median(p[what] for p in after) - median(p[what] for p in before) for what in GROWTH}


def watch(kind: str, folder: Path, minutes: float, every: float) -> list[dict]:
    """The curve of one training in `folder`, a point every so many seconds."""
    script, *options = COMMANDS[kind]
    saved = ("--save_every", "0.05") if kind == "pictures" else ("--save_every", "0.05", "--data", str(folder / "data"))
    with (folder / f"{kind}.txt").open("w") as said:
        command = [sys.executable, str(ROOT / script), *saved, *options]
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        started, curve = time.monotonic(), []
        while time.monotonic() < started + 60 * minutes and process.poll() is None:
            time.sleep(every)
            logs = [*folder.glob("checkpoints/*.jsonl.partial"), *folder.glob("checkpoints/*/*.log")]
            epochs = sum(len(log.read_text().splitlines()) for log in logs)
            if epochs and process.poll() is None:
                seconds = round(time.monotonic() - started, 1)
                curve.append({"seconds": seconds, "steps": epochs * STEPS} | usage(process.pid))
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    if code != 128 + signal.SIGTERM:
        raise RuntimeError(f"{kind} ended with exit code {code}: {(folder / f'{kind}.txt').read_text()[-500:]}")
    return curve


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--minutes", type=positive_float, default=60.0, help="of each kind")
    parser.add_argument("--every", type=positive_float, default=5.0, metavar="SECONDS", help="between two points")
    parser.add_argument("--only", choices=COMMANDS, help="one kind, not all")
    parser.add_argument("--output", type=output_file, metavar="FILE.json", help="write the curves here")
    options = parser.parse_args()
    curves, grown = {}, {}
    for kind in [options.only] if options.only else COMMANDS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_idx_files(folder / "data" / "MNIST" / "raw", train=300, test=50)
            for part in ("train", "test"):
                write_pictures(folder / "pictures" / part, ("cat", "dog", "eel"), 20)
            curve = curves[kind] = watch(kind, folder, options.minutes, options.every)
        if len(curve) < 8:
            raise RuntimeError(f"{kind}: {len(curve)} points are no curve; give more --minutes or a smaller --every")
        for point in curve[:: max(1, len(curve) // 12)]:
            print(f"{kind}  " + "  ".join(f"{value:9.1f} {what}" for what, value in point.items()), flush=True)
        found = growth(curve)
        grown |= {f"{kind}: {what}": more for what, more in found.items() if more > GROWTH[what]}
        print(f"{kind} grew by " + ", ".join(f"{more:.1f} {what}" for what, more in found.items()), flush=True)
    points = {kind: {what: [point[what] for point in curve] for what in curve[0]} for kind, curve in curves.items()}
    records.write({"curves": points, "grown": grown}, options.output)
    if grown:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
