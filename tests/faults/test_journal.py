"""Certifying and attacking go on where they were interrupted, and end as if they had not been."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zlib
from functools import partial

import numpy as np
import pytest
import torch

from patchcert import arithmetic, checkpoint, journal, program, stopping
from patchcert.errors import UsageError
from patchcert.intervals import config_files
from patchcert.intervals.networks import build
from patchcert.journal import Journal
from patchcert.votes import saved_votes
from tests.helpers import ROOT, rewrite_votes, run_here, succeed
from tests.networks import save_random_network
from tests.test_attack_scripts import folder as answered  # noqa: F401 (a fixture)

ADV = ROOT / "config" / "mnist_adveval_patch_22.json"
BAND, ATTACK = "certify_mnist_band.py", "attack_mnist_band.py"
CERTIFY = ["--all", "--limit", 12, "--batch_size", 3]
PLAIN = [BAND, "--checkpoint", "net.pth", *CERTIFY, "--engine", "dense", "--output", "run.json"]
MASKED = ["--checkpoint", ROOT / "checkpoints" / "mnist_masked_band.pth"]
STEPS = ["--all", "--skip", 1, "--batch_size", 64, "--steps", 2, "--step_size", 0.3, "--loss", "margin"]
EFFORT = [f"eval_params:method_params:{value}" for value in ("steps=3", "random_mask_count=2")]


@pytest.fixture(scope="module")
def folder(answered, generated_mnist):  # noqa: F811
    """A folder with MNIST's files, networks with random weights, one of which gives the labels, and votes of it."""
    folder = answered
    (folder / "same").symlink_to(folder / "data")
    (folder / "ten classes").symlink_to(generated_mnist)
    save_random_network(folder, "other.pth")
    for model in config_files.load(ADV).models[:2]:
        torch.manual_seed(0)
        network = build(model.model_class, 1, 28, 10, model.model_params)
        checkpoint.save({"state_dict": network.state_dict()}, folder / "models" / f"{model.model_id}.pth")
    succeed(BAND, "--checkpoint", "net.pth", "--all", "--save_votes", "saved.npz", folder=folder)
    return folder


class Stop:
    """Journals that write every piece, and what a signal raises where one has been done after so many others."""

    def __init__(self, monkeypatch):
        self.left, self.done, recall = float("inf"), 0, Journal.recall
        self.number = signal.SIGINT

        def counted(journal, what, images, work):
            def worked():
                if self.done == self.left:
                    raise stopping.Stopped(self.number)
                self.done += 1
                return work()

            return recall(journal, what, images, worked)

        monkeypatch.setattr(Journal, "recall", counted)
        monkeypatch.setattr(journal, "EVERY", 0)

    def run(self, *command, folder, left=float("inf")):
        """The exit code, and how many pieces were done."""
        self.left, self.done = left, 0
        return run_here(*command, folder=folder), self.done


@pytest.fixture
def stop(monkeypatch):
    return Stop(monkeypatch)


RUNS = {
    "votes": (
        BAND,
        ["--checkpoint", "net.pth", "--limit", 8, "--batch_size", 4, "--engine", "dense", "--certificate",
         "margin,exact,masking"],
    ),
    "all votes": (
        BAND,
        ["--checkpoint", "net.pth", *CERTIFY, "--numerical_margin", 0.01, "--engine", "dense", "--save_votes", "v.npz"],
    ),
    "top one": ("certify_mnist_band_top_one.py", ["--checkpoint", "net.pth", "--limit", 12, "--batch_size", "auto"]),
    "samples": ("certify_mnist_band_randomized.py", ["--checkpoint", "net.pth", *CERTIFY, "--boundsamples", 99]),
    "masking": ("certify_mnist_band_masked.py", [*MASKED, *CERTIFY, "--size_to_certify", "1,3"]),
    "saved": ("certify_votes.py", ["--votes", "saved.npz", "--size_to_certify", "1-3"]),
    "attack": (
        ATTACK,
        ["--checkpoint", "net.pth", *STEPS, "--limit", 8, "--size_of_attack", "20x12", "--randomizations", 3,
         "--save_images", "png"],
    ),
    "all places": (
        ATTACK,
        ["--checkpoint", "net.pth", *STEPS, "--limit", 4, "--size_of_attack", 16, "--randomizations", 9, "--locations",
         "all"],
    ),
    "attack on masking": (
        "attack_mnist_band_masked.py",
        [*MASKED, *STEPS, "--limit", 60, "--batch_size", 5, "--randomizations", 2],
    ),
    "intervals": (
        "eval.py",
        ["--config", ADV, "--model_subset", 0, 1, "--limit", 24, *EFFORT, "eval_params:batch_size=8",
         "models_path=models", "--data", "ten classes"],
    ),
}  # fmt: skip


def results_of(folder) -> list:
    """What a run wrote, but for times; its files are gone then, and there are no others."""
    record = json.loads((folder / "run.json").read_text())
    for timed in (record, *record.get("models", ())):
        assert timed.pop("seconds", 1) > 0
    found = [record, *(path.read_bytes() for path in sorted((folder / "png").glob("*")))]
    if (folder / "v.npz").exists():
        with np.load(folder / "v.npz") as votes:
            found += [votes[name].tolist() for name in votes.files]
    if (folder / "rows.csv").exists():
        found.append((folder / "rows.csv").read_text())
    for name in ("run.json", "rows.csv", "v.npz"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "png", ignore_errors=True)
    left = {path.name for path in folder.iterdir()}
    assert left <= {"data", "same", "ten classes", "changed", "checkpoints", "models", "saved.npz"}
    return found


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_ends_as_a_whole_one(name, folder, stop, monkeypatch, capsys):
    monkeypatch.setattr(saved_votes, "PROBABILITIES_AT_ONCE", saved_votes.ABLATIONS_AT_ONCE * 10 * 30)  # 30 images
    script, arguments = RUNS[name]
    command = [script, *arguments, "--output", "run.json"]
    command += [] if name == "votes" else ["--per_image", "rows.csv"]  # for which no image leaves early
    code, pieces = stop.run(*command, folder=folder)
    whole = results_of(folder)
    assert code == 0 and pieces >= 2
    assert stop.run(*command, folder=folder, left=pieces // 2) == (130, pieces // 2)
    assert "interrupted; the same command continues from here" in capsys.readouterr().err
    assert stop.run(*command, folder=folder) == (0, pieces - pieces // 2)
    assert results_of(folder) == whole
    assert "continuing with " in (said := capsys.readouterr().out) and " from run.json.partial\n" in said


def test_it_says_with_which_image_it_goes_on(folder, stop, capsys):
    stop.run(*PLAIN, folder=folder, left=2)
    stop.run(*PLAIN, folder=folder)
    assert capsys.readouterr().out.startswith("continuing with image 7 of 12 from run.json.partial\n")


def test_any_signal_says_so(folder, stop, interrupted, capsys):
    stop.number = signal.SIGUSR1
    capsys.readouterr()
    assert stop.run(*PLAIN, folder=folder, left=1) == (138, 1)
    assert capsys.readouterr().err == f"{BAND}: error: terminated; the same command continues from here\n"


def test_before_the_first_piece_there_is_nothing_to_go_on_from(folder, stop, capsys):
    assert stop.run(*PLAIN, folder=folder, left=0) == (130, 0)
    assert capsys.readouterr().err == f"{BAND}: error: interrupted\n" and not (folder / "run.json.partial").exists()


def test_without_output_nothing_is_kept_and_that_is_said(folder, stop, capsys):
    before = sorted(folder.iterdir())
    assert stop.run(*PLAIN[:-2], folder=folder, left=2) == (130, 2)
    advice = "with --output FILE.json the same command would continue from here"
    assert capsys.readouterr().err == f"{BAND}: error: interrupted; {advice}\n"
    assert stop.run(*PLAIN[:-2], folder=folder) == (0, 4) and sorted(folder.iterdir()) == before


@pytest.fixture
def interrupted(folder, stop):
    """The run of `PLAIN`, interrupted after 2 of 4 pieces."""
    stop.run(*PLAIN, folder=folder, left=2)
    yield
    (folder / "run.json.partial").unlink(missing_ok=True)


def test_another_command_is_refused_and_says_why(folder, stop, interrupted, capsys):
    change_a_picture(folder)
    for script, more, named in (
        (BAND, ["--batch_size", 32], "with --batch_size 3, not 32"),
        (BAND, ["--threshold", "0.2,0.3"], "with --threshold [0.2], not [0.2, 0.3]"),
        (BAND, ["--limit", 11], "with --limit 12, not 11"),
        (BAND, ["--engine", "windowed"], "with --engine dense, not windowed"),
        (BAND, ["--seed", 1, "--size_to_certify", 3], "with --seed 0, not 1"),
        (BAND, ["--per_image", "rows.csv"], "with --per_image None, not given"),
        (BAND, ["--checkpoint", "other.pth"], "with --checkpoint net.pth, not other.pth"),
        (BAND, ["--data", "changed"], "with images "),
        ("certify_mnist_row.py", [], "with script certify_mnist_band.py, not certify_mnist_row.py"),
    ):
        capsys.readouterr()
        assert stop.run(script, *PLAIN[1:], *more, folder=folder) == (2, 0)
        message = capsys.readouterr().err.splitlines()[-1]  # after a note, perhaps
        assert message.startswith(f"{script}: error: --output run.json: run.json.partial is of an interrupted run")
        assert named in message and "--overwrite" in message
    assert stop.run(*PLAIN, folder=folder) == (0, 2), "the interrupted run should be as it was"


def change_a_picture(folder):
    for file in (folder / "data" / "MNIST" / "raw").iterdir():
        content = bytearray(file.read_bytes())
        content[16 if "images" in file.name else 8] ^= 1
        (folder / "changed" / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
        (folder / "changed" / "MNIST" / "raw" / file.name).write_bytes(content)


def test_other_weights_under_the_same_name_are_refused(folder, stop, interrupted, capsys):
    save_random_network(folder, seed=2)
    try:
        assert stop.run(*PLAIN, folder=folder) == (2, 0)
    finally:
        save_random_network(folder)
    assert "run.json.partial is of an interrupted run with weights " in capsys.readouterr().err


def test_other_code_of_patchcert_is_refused(folder, stop, interrupted, tmp_path, monkeypatch, capsys):
    """A clone in which something was pulled or mended has the same version."""
    package = tmp_path / "patchcert"
    shutil.copytree(program.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(program, "PACKAGE", package)
    with (package / "masking" / "margins.py").open("a") as file:
        file.write("# mended\n")
    assert stop.run(*PLAIN, folder=folder) == (2, 0)
    assert "run.json.partial is of an interrupted run with patchcert " in capsys.readouterr().err


def test_another_file_of_votes_under_the_same_name_is_refused(folder, stop, monkeypatch, capsys):
    """With the same probabilities, of copies that show other pixels."""
    script, options = RUNS["saved"]
    command = [script, *options, "--votes", "other.npz", "--output", "run.json"]
    shutil.copy(folder / "saved.npz", folder / "other.npz")
    monkeypatch.setattr(saved_votes, "PROBABILITIES_AT_ONCE", 1 << 16)
    assert stop.run(*command, folder=folder, left=1) == (130, 1)
    rewrite_votes(folder / "other.npz", lambda about, arrays: about["ablation"].update(band_size=5))
    try:
        assert stop.run(*command, folder=folder) == (2, 0)
    finally:
        (folder / "run.json.partial").unlink(missing_ok=True)
        (folder / "other.npz").unlink()
    assert "run.json.partial is of an interrupted run with votes " in capsys.readouterr().err


def test_what_changes_no_result_may_differ(folder, stop, interrupted):
    assert stop.run(*PLAIN, "--data", "same", "--debug", "--quiet", folder=folder) == (0, 2)


def test_overwrite_begins_anew(folder, stop, interrupted):
    assert stop.run(*PLAIN, "--threshold", 0.3, "--overwrite", folder=folder) == (0, 4)
    assert not (folder / "run.json.partial").exists()


def test_a_file_of_somebody_else_stays(folder, stop, capsys):
    (folder / "run.json.partial").write_text("half of a novel")
    assert stop.run(*PLAIN, "--overwrite", folder=folder) == (2, 0)
    assert "run.json.partial is not what an interrupted run of this version leaves" in capsys.readouterr().err
    assert (folder / "run.json.partial").read_text() == "half of a novel"
    (folder / "run.json.partial").unlink()


def test_what_a_version_left_whose_pieces_hold_something_else_is_refused(folder, stop, capsys):
    left = b"patchcert journal 2\n"  # whose windows that dissent are counted, not named
    (folder / "run.json.partial").write_bytes(left)
    assert stop.run(*PLAIN, folder=folder) == (2, 0)
    assert "run.json.partial is not what an interrupted run of this version leaves" in capsys.readouterr().err
    assert (folder / "run.json.partial").read_bytes() == left
    (folder / "run.json.partial").unlink()


def test_the_same_run_twice_at_once_is_refused(folder, stop, interrupted, capsys):
    code = "import fcntl; f = open('run.json.partial', 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, **pipes) as other:
        other.stdout.readline()
        assert stop.run(*PLAIN, folder=folder) == (2, 0)
        assert "another process is writing run.json.partial" in capsys.readouterr().err
        other.kill()
    assert stop.run(*PLAIN, folder=folder) == (0, 2)


def test_a_full_disk_does_not_end_the_run(folder, stop, monkeypatch, capsys):
    to_disk = os.fsync

    def full(file):
        if os.readlink(f"/proc/self/fd/{file}").endswith("run.json.partial"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        to_disk(file)

    monkeypatch.setattr(os, "fsync", full)
    assert stop.run(*PLAIN, folder=folder) == (0, 4)
    message = capsys.readouterr().err
    assert message.count("note: run.json.partial cannot be written: No space left on device") == 1
    assert not (folder / "run.json.partial").exists()


def known(output) -> int:
    """How many of 4 pieces a run knew that is interrupted at its end; what they give is right in any case."""
    with pytest.raises(KeyboardInterrupt), Journal(output, {"--seed": 1}) as kept:
        ahead = kept.ahead
        for number in range(4):
            given = {"a": torch.full((3,), number), "b": [number]}
            found = kept.recall("a piece", torch.tensor([number]), partial(dict, given))
            assert found["a"].tolist() == [number] * 3 and found["b"] == [number]
        raise KeyboardInterrupt
    return ahead


def test_whatever_end_is_lost_the_rest_is_known(tmp_path, monkeypatch):
    """A file that ends anywhere, or has a wrong byte."""
    monkeypatch.setattr(journal, "EVERY", 0)
    output, file = tmp_path / "run.json", tmp_path / "run.json.partial"
    assert known(output) == 0
    whole, begin = file.read_bytes(), len(journal.MAGIC)
    counts = []
    for length in (*range(begin), *range(begin, len(whole), 149)):
        wrong = whole[:length] + bytes([whole[length] ^ 16]) + whole[length + 1 :]
        for damaged in (whole[:length], wrong) if length >= begin else (whole[:length],):
            file.write_bytes(damaged)
            counts.append(known(output))
            assert known(output) == 4
    assert counts == sorted(counts) and set(counts) == set(range(4))
    file.write_bytes(b"x" + whole[1:])
    with pytest.raises(UsageError, match="is not what an interrupted run"):
        Journal(output, {"--seed": 1})


def test_seconds_are_those_of_all_parts(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(journal.time, "perf_counter", lambda: now[0])

    def work():
        now[0] += 7
        return 1

    for part in (2, 4):
        now[0] += 1000
        with pytest.raises(ZeroDivisionError), Journal(tmp_path / "run.json") as kept:
            for number in range(part):
                kept.recall("a piece", torch.tensor([number]), work)
            assert kept.seconds() == 7 * part
            1 / 0  # noqa: B018


def test_on_another_processor_it_goes_on_and_says_so(folder, stop, monkeypatch, capsys):
    monkeypatch.setattr(arithmetic, "processor", lambda device: "AVX2")
    stop.run(*PLAIN, folder=folder, left=2)
    assert "AVX2" not in capsys.readouterr().err
    monkeypatch.setattr(arithmetic, "processor", lambda device: "AVX512 + VNNI")
    assert stop.run(*PLAIN, folder=folder) == (0, 2)
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "AVX2" in line)
    assert said.startswith("note: run.json.partial was computed by AVX2, and AVX512 + VNNI continues: a certificate")
    record = json.loads((folder / "run.json").read_text())
    wanted = {"precision": "float32", "engine": "dense", "processors": ["AVX2", "AVX512 + VNNI"]}
    assert record["arithmetic"] == wanted


def test_pieces_about_other_images_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "EVERY", 0)
    for image in (3, 4):
        kept = Journal(tmp_path / "run.json")
        if image == 4:
            with pytest.raises(UsageError, match=r"run.json.partial has other images at restart 1"):
                kept.recall("restart 1", torch.tensor([image]), lambda: 1)
        else:
            kept.recall("restart 1", torch.tensor([image]), lambda: 1)


def test_reading_executes_nothing(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    saved = pickle.dumps(Harm())
    block = journal.HEAD.pack(len(saved), zlib.crc32(saved)) + saved
    (tmp_path / "run.json.partial").write_bytes(journal.MAGIC + block)
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        Journal(tmp_path / "run.json")
    assert not (tmp_path / "harmed").exists()
