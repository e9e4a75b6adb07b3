"""What every script does with its options and with its output, whatever it computes."""

import io
import json
import os
import subprocess
import sys

import pytest

from patchcert import checkpoint, cli
from tests.helpers import FORKS, PATIENCE, ROOT, run_here


def unread() -> int:
    """The end for writing of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


def run_unread(command: list[object], folder) -> tuple[int, str]:
    """Exit code and standard error of a process whose output goes into a pipe that nobody reads."""
    pipe = unread()
    command = [sys.executable, *map(str, command)]
    run = subprocess.run(command, cwd=folder, stdout=pipe, stderr=subprocess.PIPE, text=True)
    os.close(pipe)
    return run.returncode, run.stderr


def _run_unread(command: tuple, folder, buffered: bool) -> None:
    """In a forked process, which spares importing torch: what the interpreter does with output and its end."""
    os.dup2(unread(), 1)
    os.dup2(os.open(folder / "said", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)
    raw = io.FileIO(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw) if buffered else raw, write_through=not buffered)
    code = run_here(*command, folder=folder)
    sys.stdout.flush()
    os._exit(code)


def run_unread_here(*command: object, folder, buffered: bool) -> tuple[int, str]:
    process = FORKS.Process(target=_run_unread, args=(command, folder, buffered))
    process.start()
    process.join(PATIENCE)
    return process.exitcode, (folder / "said").read_text()


WRITTEN = ["--checkpoint", "net.pth", "--limit", 2, "--output", "run.json", "--per_image", "rows.csv"]


@pytest.mark.parametrize("how", ["an interpreter", "buffered", "not buffered"])
def test_a_closed_pipe_ends_quietly_after_the_files_are_written(folder, how):
    for name in ("run.json", "run.json.partial", "rows.csv"):
        (folder / name).unlink(missing_ok=True)
    if how == "an interpreter":
        ended = run_unread([ROOT / "certify_mnist_band.py", *WRITTEN], folder)
    else:
        ended = run_unread_here("certify_mnist_band.py", *WRITTEN, folder=folder, buffered=how == "buffered")
    assert ended == (cli.NOBODY_READS, "")
    assert json.loads((folder / "run.json").read_text())["total"] == 2
    assert len((folder / "rows.csv").read_text().splitlines()) == 3


def test_help_into_a_closed_pipe_ends_quietly(folder):
    code, said = run_unread_here("certify_votes.py", "--help", folder=folder, buffered=True)
    assert code in (0, cli.NOBODY_READS) and said == ""  # argparse itself forgives what it could not print


def test_another_pipe_that_breaks_is_a_failure(capfd):
    def main():
        raise BrokenPipeError("a worker is gone")

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    said = capfd.readouterr().err
    assert ended.value.code == 1 and "BrokenPipeError: a worker is gone" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("certify_mnist_band.py", ["--size_to_certfy", 5], "--size_to_certfy: did you mean --size_to_certify?"),
        ("certify_mnist_band.py", ["--chekpoint", "net.pth"], "--chekpoint: did you mean --checkpoint?"),
        ("certify_mnist_band.py", ["--size=5"], "--size: did you mean --size_to_certify?"),
        ("certify_mnist_band.py", ["-checkpoint", "net.pth"], "-checkpoint: did you mean --checkpoint?"),
        ("certify_mnist_band.py", ["--xyz"], "--xyz: --help lists the options"),
        ("certify_mnist_band_masked.py", ["--thresold", 0.2], "--thresold: --help lists the options"),
        ("certify_votes.py", ["--topone"], "--topone: did you mean --top_one?"),
        ("train_mnist_block.py", ["--band_size", 4], "--band_size: did you mean --"),
        ("attack_mnist_band.py", ["--size-of-attack", 5], "--size-of-attack: did you mean --size_of_attack?"),
        ("train.py", ["--model_subst", 0, "training_params:epochs=1"], "--model_subst: did you mean --model_subset?"),
        ("eval.py", ["--confg", "x.json"], "--confg: did you mean --config?"),
        ("quickstart.py", ["--end_epochs", 3], "--end_epochs: did you mean --end_epoch?"),
    ],
)
def test_a_misspelt_option_is_told_from_the_nearest(folder, script, arguments, said, capsys):
    assert run_here(script, *arguments, folder=folder) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"{script}: error: unrecognized {said}") and message.count("\n") == 1


def test_values_are_not_taken_for_options():
    parser = cli.Parser("")
    parser.add_argument("--lr", type=float)
    parser.add_argument("rest", nargs="*")
    options = parser.parse_args(["--lr=-0.1", "--", "--lr_decay"])
    assert (options.lr, options.rest) == (-0.1, ["--lr_decay"])


@pytest.mark.parametrize(
    ("script", "trains", "ships"),
    [
        ("certify_mnist_band_top_one.py", "train_mnist_band.py", "; mnist_band.pth ships"),
        ("certify_cifar_band_randomized.py", "train_cifar_band.py", ""),
        ("certify_mnist_multi_block.py", "train_mnist_multi_block.py", ""),
        ("attack_cifar_baseline_linf.py", "train_cifar_baseline.py", ""),
        ("attack_mnist_windows.py", "train_mnist_windows.py", "; mnist_windows.pth and mnist_windows_8x6.pth ship"),
        ("certify_cifar_band_masked.py", "train_cifar_band_masked.py", "; cifar_masked_band.pth ships"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--checkpoint", "none.pth"]])
def test_where_there_is_no_checkpoint_what_makes_one_and_what_ships_is_named(
    tmp_path, script, trains, ships, arguments, capsys
):
    assert (ROOT / trains).is_file()
    assert run_here(script, *arguments, folder=tmp_path) == 2
    message = capsys.readouterr().err
    assert (
        message.endswith(f"checkpoints/ has no checkpoints, {trains} makes one{ships}\n") and message.count("\n") == 1
    )


def test_what_a_training_left_in_a_clone_does_not_ship(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "of_the_clone")
    checkpoint.SHIPPED.mkdir()
    for name in ("mnist_band.pth", "mnist_one_band_lr_0.01_band_4_epoch_0.pth"):
        (checkpoint.SHIPPED / name).touch()
    assert run_here("certify_mnist_band.py", folder=tmp_path) == 2
    assert capsys.readouterr().err.endswith("makes one; mnist_band.pth ships\n")


def test_a_missing_checkpoint_lists_the_newest_or_the_nearest(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    for age in range(8):
        path = tmp_path / "checkpoints" / f"net_{'abcdefgh'[age] * 3}.pth"
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    said = []
    for arguments in ([], ["--checkpoint", "net_gggg"]):
        assert run_here("certify_mnist_band.py", *arguments, folder=tmp_path) == 2
        said.append(capsys.readouterr().err)
    newest = ", ".join(f"net_{letter * 3}.pth" for letter in "abcde")
    assert said[0].endswith(f"--checkpoint is missing: checkpoints/ has {newest} and 3 more\n")
    assert "checkpoints/ has net_ggg.pth, " in said[1] and said[1].endswith(" and 3 more\n")
    assert run_here("certify_mnist_band.py", "--help", folder=tmp_path) == 0
