"""Scripts that read files of every kind, what becomes of them if such a file is hostile, and whether that is right."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from patchcert import checkpoint
from patchcert.ablations.ablation import Band
from patchcert.data.dataset import Dataset
from patchcert.intervals import config_files
from patchcert.votes.rules import ThresholdVote
from patchcert.votes.saved_votes import UNKNOWN, Recorder
from tests.faults import mutated_data, mutations
from tests.faults.mutations import Writing
from tests.helpers import ROOT, run_here, succeed, without_times, write_idx_files
from tests.test_pictures import write_pictures

LONGEST = 560
"""Characters of an error, with the script's name."""

PATIENCE = 600
"""Seconds that a run may take, on a machine that does much else, too."""

ALWAYS, EACH = 400 << 20, 20
"""Bytes that a run may take beside what the process had, and for each byte of the file."""

NAMES = ("x" * 5000, "a\nb\x1b[31m.pth", "/".join("y" * 200 for _ in range(30)), "\udcff", "/dev/zero", "/", "")
"""What options may be given instead of a file."""

MASKED = ("--channels", "4,6", "--blocks", "0,1", "--lines", "columns", "--size_to_train", 2, "--batch_size", 8)
RUN = "mnist_masked_band_lr_0.1_regularization_0.0005_lines_columns_size_2_band_4_epoch_1.pth"
SCHEDULE = {"epochs": 2, "batch_size": 16, "schedule_start": 0, "schedule_length": 1}


class HungError(BaseException):
    """A run did not end; no `except Exception` holds this."""


@dataclass(frozen=True)
class Target:
    """A script that reads a file.

    Attributes:
        path: the file, in the folder in which the script runs.
        named: the argument by which it is found, if there is one.
        made: what the file can be that is wrong in a way of its kind.
        other: makes another such file of the whole one.
        exact: damage that is not noticed may not change what the script writes to results.json.
    """

    script: str
    arguments: tuple
    path: str
    named: str = ""
    made: dict[str, Writing] = field(default_factory=dict)
    other: Callable[[bytes, random.Random], bytes] | None = None
    exact: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code, what it said on stderr, bytes at its peak beyond those before."""

    code: int
    said: str
    peak: int


class Victims:
    """Small files of every kind in a folder, and the scripts that read them.

    Attributes:
        targets: by the kind of file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        with _captured():
            _prepare(folder)
        self.whole = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        self.targets = _targets()
        self.results = {}

    def attempts(self, kind: str) -> Iterator[str]:
        """Yield names of attempts without end, first those that are always the same."""
        target = self.targets[kind]
        yield from (*mutations.SPECIAL, *target.made)
        yield from (f"the name {name[:20]!r}" for name in NAMES if target.named)
        number = 0
        while True:
            yield f"{'other' if target.other and number % 5 > 1 else 'damaged'} {number}"
            number += 1

    def attempt(self, kind: str, what: str) -> tuple[Outcome, str | None]:
        """Run the script with a hostile file; how that ended and, if it may not end so, why."""
        target, path = self.targets[kind], self.folder / self.targets[kind].path
        arguments, exact = target.arguments, target.exact and what.startswith("damaged")
        if exact and kind not in self.results:
            self._run(target, arguments)
            self.results[kind] = self._results()
            self._restore()
        whole = self.whole[path]
        if what.startswith("the name "):
            name = next(name for name in NAMES if f"the name {name[:20]!r}" == what)
            arguments = tuple(name if argument == target.named else argument for argument in arguments)
        else:
            path.unlink()
            draw = random.Random(f"{kind} {what}")
            if what in mutations.SPECIAL or what in target.made:
                (mutations.SPECIAL | target.made)[what](path, whole)
            else:
                path.write_bytes((target.other if what.startswith("other") else mutations.damaged)(whole, draw))
        size = path.stat().st_size if path.is_file() else 0
        outcome = self._run(target, arguments)
        wrong = self._wrong(target, outcome, size)
        if not wrong and outcome.code == 0:
            if exact and self._results() != self.results[kind]:
                wrong = "other results than those of the whole file"
            if what in target.made and not what.endswith(mutations.FINE):
                wrong = "taken for a good file"
        self._restore()
        return outcome, wrong

    def _run(self, target: Target, arguments: tuple) -> Outcome:
        def hung(*_: object) -> None:
            raise HungError

        before = signal.signal(signal.SIGALRM, hung)
        signal.alarm(PATIENCE)
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what there is
        resident, of_others = _memory("VmRSS"), _most_of_ended_processes()
        with _captured() as said:
            try:
                code = run_here(target.script, *arguments, folder=self.folder)
            except HungError:
                code = -1
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, before)
        of_workers = _most_of_ended_processes()
        most = max(_memory("VmHWM"), of_workers if of_workers > of_others else 0)
        return Outcome(code, said[0], most - resident)

    def _wrong(self, target: Target, outcome: Outcome, size: int) -> str | None:
        if (self.folder / "executed").exists():
            return "executed"
        if outcome.peak > ALWAYS + EACH * min(size, ALWAYS):
            return f"took {outcome.peak >> 20} MB"
        notes = ("note: ", "warning: ")
        lines = [line for line in outcome.said.splitlines() if not line.startswith(notes)]
        if outcome.code == 0:
            return f"said {lines[0]}" if lines else None
        if outcome.code not in (1, 2):
            return f"exit code {outcome.code}"
        if len(lines) != 1 or not lines[0].startswith(f"{target.script}: error: ") or not lines[0].isprintable():
            return f"said {len(lines)} lines: {lines[-1][:200] if lines else ''}"
        return f"said {len(lines[0])} characters" if len(lines[0]) > LONGEST else None

    def _results(self) -> object:
        return without_times(json.loads((self.folder / "results.json").read_text()))

    def _restore(self) -> None:
        """Make the folder what it was."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            is_folder = path.is_dir() and not path.is_symlink()
            if is_folder and not any(path in whole.parents for whole in self.whole):
                shutil.rmtree(path)
            elif not is_folder and (path.is_symlink() or not path.is_file() or path not in self.whole):
                path.unlink()
        for path, content in self.whole.items():
            if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
                path.write_bytes(content)


def _memory(name: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _most_of_ended_processes() -> int:
    """The most memory that one of this process's children had, bytes, of those that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """Inside, what this process and its children say goes nowhere; that on stderr comes into the list at the end."""
    said = []
    with contextlib.ExitStack() as stack:
        files = open(os.devnull, "w"), tempfile.TemporaryFile("w+", errors="backslashreplace")  # noqa: SIM115
        for number, (name, file) in enumerate(zip(("stdout", "stderr"), files, strict=True), start=1):
            getattr(sys, name).flush()
            kept = os.dup(number)
            os.dup2(stack.enter_context(file).fileno(), number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            stack.enter_context(getattr(contextlib, f"redirect_{name}")(file))
        try:
            yield said
        finally:
            files[1].seek(0)
            said.append(files[1].read())


def _prepare(folder: Path) -> None:
    """Write whole files of every kind."""
    write_idx_files(folder / "data" / "MNIST" / "raw", train=30, test=20)
    torch.manual_seed(0)
    checkpoints = folder / "checkpoints"
    short = [*MASKED, "--end_epoch"]
    succeed("train_mnist_band_masked.py", *short, 1, folder=folder)
    content = checkpoint.read("resume", checkpoints / RUN)
    checkpoint.save(content | {"epoch": 0}, checkpoints / f"{RUN}.partial")
    checkpoint.save(content | {"epoch": 0}, checkpoints / "net.pth")
    (checkpoints / RUN).with_suffix(".jsonl").rename(checkpoints / RUN.replace(".pth", ".jsonl.partial"))
    (checkpoints / RUN).unlink()
    for part in ("train", "test"):
        write_pictures(folder / "pictures" / part, "ab", 3 + (part == "test"), size=12)
    pictures = ["--dataset", "folder", "--data", "pictures", "--image_size", 12]
    succeed("train_cifar_band_masked.py", *pictures, *short, 0, folder=folder)
    next(checkpoints.glob("pictures*.pth")).rename(checkpoints / "pictures.pth")
    (folder / "split.txt").write_text("\n".join(map(str, range(0, 20, 3))))
    (folder / "split.pth").write_bytes(mutations.saved(torch.arange(0, 20, 3)))
    _write_votes(folder / "votes.npz")
    config = config_files._read(ROOT / "config" / "mnist_robtrain_p22_all.json")
    config["models"] = [{"model_id": "m", "model_class": "mlp", "model_params": {"hidden": 4}}]
    config["models_path"] = "models"
    config["training_params"] |= SCHEDULE
    for name in ("config.json", "base.json"):
        (folder / name).write_text(json.dumps(config))
    succeed("train.py", "--config", "config.json", "--subset", 16, "training_params:epochs=1", folder=folder)
    for path in (folder / "models").glob("*_best.pth"):
        path.unlink()
    (folder / "cifar.json").write_text(json.dumps({"extends": str(ROOT / "config" / "cifar_robtrain_p22_all.json")}))
    (folder / "cifar" / "svhn").mkdir(parents=True)
    (folder / "cifar" / "cifar-10-batches-py").mkdir()
    for name in ("svhn/train_32x32.mat", *(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6))):
        (folder / "cifar" / name).write_bytes(b"not the original file")


def _write_votes(path: Path) -> None:
    ablation, labels = Band(28, 28, 4), torch.arange(6)
    recorder = Recorder(ablation, [ThresholdVote(0.2)])
    probabilities = torch.rand(6, 28, 10, generator=torch.Generator().manual_seed(0)).pow(8)
    probabilities /= probabilities.sum(dim=2, keepdim=True)
    list(recorder([(torch.arange(28), probabilities)]))
    dataset = Dataset(torch.zeros(6, 1, 28, 28, dtype=torch.uint8), labels, labels)
    config = {"dataset": "mnist", "data": "data", "test": False, "all": False, "split_file": None, "limit": None}
    recorder.write(path, dataset, config, UNKNOWN)


def _targets() -> dict[str, Target]:
    net, model = mutations.checkpoints("net"), mutations.checkpoints("state_dict")
    resumed, begun = net | mutations.epochs(), model | mutations.epochs()
    masked, training, raw = "certify_mnist_band_masked.py", "train_mnist_band_masked.py", "data/MNIST/raw/t10k-"
    test = ("--size_to_certify", 2, "--all", "--limit", 4, "--output", "results.json")
    certify = ("--checkpoint", "net.pth", "--data", "data", *test)
    halves = ("--checkpoint", "net.pth", "--size_to_certify", 2, "--split_file")
    again = ("--end_epoch", 1, *MASKED)
    resume = (*again, "--subset", 16, "--resume", "net.pth")
    bounds = ("--config", "config.json", "--limit", 4, "--output", "results.json")
    more = ("--config", "config.json", "--subset", 16, "--resume", "models/m.pth")
    votes = ("--votes", "votes.npz", "--size_to_certify", 1, "--output", "results.json")
    cifar = ("--config", "cifar.json", "--model_subset", 0, "--data", "cifar")
    pictures = ("--checkpoint", "pictures.pth", "--dataset", "folder", "--data", "pictures", *test)
    other = mutations.other_checkpoint
    return {
        "checkpoint": Target(masked, certify, "checkpoints/net.pth", "net.pth", net, other, exact=True),
        "--resume": Target(training, resume, "checkpoints/net.pth", "net.pth", resumed, other),
        "interrupted run": Target(training, again, f"checkpoints/{RUN}.partial", made=resumed, other=other),
        "log": Target(training, again, f"checkpoints/{RUN.replace('.pth', '.jsonl.partial')}"),
        "model": Target("eval.py", bounds, "models/m.pth", made=model, other=other, exact=True),
        "train.py --resume": Target("train.py", more, "models/m.pth", "models/m.pth", begun, other),
        "votes": Target(
            "certify_votes.py", votes, "votes.npz", "votes.npz", mutated_data.VOTES,
            mutated_data.other_votes, exact=True,
        ),
        "split in text": Target(masked, (*halves, "split.txt"), "split.txt", "split.txt", mutated_data.SPLITS),
        "split in a tensor": Target(masked, (*halves, "split.pth"), "split.pth", "split.pth", mutated_data.SPLITS),
        "config": Target(
            "eval.py", bounds, "config.json", "config.json", mutated_data.CONFIGS, mutated_data.other_json
        ),
        "images": Target(masked, certify, f"{raw}images-idx3-ubyte", "data", mutated_data.IMAGES),
        "labels": Target(masked, certify, f"{raw}labels-idx1-ubyte", made=mutated_data.LABELS),
        "CIFAR-10": Target("train.py", cifar, "cifar/cifar-10-batches-py/data_batch_1", "cifar"),
        "SVHN": Target("train.py", (*cifar, "dataset=svhn"), "cifar/svhn/train_32x32.mat"),
        "picture": Target(
            "certify_cifar_band_masked.py", pictures, "pictures/test/a/0001.png", "pictures", mutated_data.PICTURES
        ),
    }  # fmt: skip
