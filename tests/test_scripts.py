"""The MNIST scripts, run as scripts in a temporary folder on generated pictures."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from patchcert import checkpoint
from patchcert.data import named
from patchcert.engines.asking import DenseNetwork
from patchcert.engines.windowed import WindowedNetwork
from tests.helpers import ROOT, run_here, succeed
from tests.networks import save_random_network

FIRST = "mnist_one_band_lr_0.01_regularization_0.0005_band_4_epoch_1.pth"
SECOND = f"mnist_one_band_lr_0.001_regularization_0.0005_band_4_epoch_3_resume_{FIRST}.pth"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, generated_mnist):
    """A folder in which train_mnist_band.py ran two epochs and then, resumed, two more."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data").symlink_to(generated_mnist)
    for arguments in (
        ["--band_size", 4, "--lr", 0.01, "--end_epoch", 1],
        ["--lr", 0.001, "--end_epoch", 3, "--resume", FIRST],
    ):
        succeed("train_mnist_band.py", *arguments, "--subset", 64, folder=folder)
    return folder


def test_training_writes_the_promised_names_and_goes_on(trained):
    names = {path.name for path in (trained / "checkpoints").glob("mnist_one_band_*")}  # other tests leave others
    assert names == {FIRST, SECOND, FIRST.replace(".pth", ".jsonl"), SECOND.removesuffix(".pth") + ".jsonl"}
    content = torch.load(trained / "checkpoints" / SECOND, weights_only=True)
    assert content["epoch"] == 3 and {"net", "acc"} <= set(content)
    rows = [json.loads(line) for line in (trained / "checkpoints" / FIRST).with_suffix(".jsonl").open()]
    assert [row["epoch"] for row in rows] == [0, 1]


def test_the_halves_and_limits(trained):
    save_random_network(trained)
    totals = {}
    for part in ("", "--test", "--all"):
        arguments = ["--checkpoint", "net.pth", "--output", "half.json", "--per_image", "half.csv", *part.split()]
        succeed("certify_mnist_band.py", *arguments, folder=trained)
        totals[part] = {int(row["index"]) for row in csv.DictReader((trained / "half.csv").open())}
    assert (len(totals[""]), len(totals["--test"])) == (50, 51)
    assert totals[""] | totals["--test"] == totals["--all"] == set(range(101))
    succeed("certify_mnist_band.py", "--checkpoint", "net.pth", "--limit", 7, "--output", "half.json", folder=trained)
    record = json.loads((trained / "half.json").read_text())
    assert record["total"] == 7 and record["clean_accuracy"] == record["correct"] / 7
    assert {"seconds", "environment", "certified_accuracy"} <= set(record)
    assert record["config"]["threshold"] == [0.2] and record["config"]["checkpoint"] == "net.pth"


def test_batch_size_changes_no_count(trained):
    save_random_network(trained)
    records = []
    for batch_size in (1, 37, 5000):
        succeed(
            "certify_mnist_band.py", "--checkpoint", "net.pth", "--all", "--limit", 15, "--size_to_certify", "1-3",
            "--certificate", "margin,exact", "--batch_size", batch_size, "--output", "batch.json", folder=trained,
        )  # fmt: skip
        records.append(json.loads((trained / "batch.json").read_text())["results"])
    assert records[0] == records[1] == records[2] and len(records[0]) == 6


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("row", ["--band_size", 5], "tmnist_one_band_lr_0.01_regularization_0.0005_band_5_epoch_0.pth"),
        ("block", ["--block_size", 6], "mnist_one_block_lr_0.01_regularization_0.0005_block_6_epoch_0.pth"),
        (
            "multi_band",
            ["--bandwidth", 5, "--keep", 2],
            "mnist_bands_lr_0.01_regularization_0.0005_keep_2_bandwidth_5_epoch_0.pth",
        ),
        (
            "multi_block",
            ["--block_size", 9, "--keep", 3],
            "mnist_block_fixed_exact_lr_0.01_regularization_0.0005_block_9_keep_3_epoch_0.pth",
        ),
    ],
)
def test_every_ablation_trains_and_certifies(trained, kind, options, name, capsys):
    succeed(f"train_mnist_{kind}.py", *options, "--end_epoch", 0, "--subset", 64, folder=trained)
    assert (trained / "checkpoints" / name).is_file()
    arguments = [*options, "--checkpoint", name, "--limit", 5, "--size_to_certify", "2x3", "--certificate", "exact"]
    succeed(f"certify_mnist_{kind}.py", *arguments, folder=trained)
    assert "certified correct" in capsys.readouterr().out


def test_randomized_certificates_depend_on_the_seed_alone(trained):
    save_random_network(trained)
    rows = []
    for seed in (3, 3, 4):
        succeed(
            "certify_mnist_band_randomized.py", "--checkpoint", "net.pth", "--all", "--limit", 30,
            "--attack_size", "1,2", "--seed", seed, "--predsamples", 50, "--boundsamples", 500,
            "--per_image", "random.csv", folder=trained,
        )  # fmt: skip
        rows.append((trained / "random.csv").read_text())
    assert rows[0] == rows[1] != rows[2]


def test_randomized_certificates_need_samples_for_the_bound(trained):
    save_random_network(trained)
    certified = []
    for samples in ((10_000, 1), (1, 10_000)):
        succeed(
            "certify_mnist_band_randomized.py", "--checkpoint", "net.pth", "--band_size", 8, "--attack_size", 1,
            "--predsamples", samples[0], "--boundsamples", samples[1], "--output", "random.json", folder=trained,
        )  # fmt: skip
        record = json.loads((trained / "random.json").read_text())
        certified.append(record["certified_correct"] + record["certified_wrong"])
    assert certified[0] == 0 < certified[1]


@pytest.mark.parametrize("script", ["certify_mnist_band.py", "certify_mnist_band_randomized.py"])
@pytest.mark.parametrize("engine", [WindowedNetwork, DenseNetwork])
@pytest.mark.parametrize(("amp", "dtype"), [("--amp", torch.bfloat16), ("--no-amp", torch.float32)])
def test_amp_is_bfloat16_in_weights_or_by_autocast(trained, monkeypatch, script, engine, amp, dtype):
    """The weights of the windowed engine have the type themselves; those of the dense one autocast converts."""
    save_random_network(trained)
    logits, seen = engine.logits, set()

    def looked_at(self, *arguments):
        found = logits(self, *arguments)
        seen.add((getattr(self, "dtype", found.dtype), found.dtype))
        return found

    monkeypatch.setattr(engine, "logits", looked_at)
    name = "windowed" if engine is WindowedNetwork else "dense"
    succeed(script, "--checkpoint", "net.pth", "--limit", 2, "--engine", name, amp, folder=trained)
    assert seen == {(dtype, dtype)}


def test_digits_need_no_files_and_name_the_checkpoint(tmp_path):
    succeed("train_mnist_band.py", "--dataset", "digits", "--end_epoch", 0, "--subset", 100, folder=tmp_path)
    name = "digits_one_band_lr_0.01_regularization_0.0005_band_4_epoch_0.pth"
    assert (tmp_path / "checkpoints" / name).is_file()


def test_the_quickstart_trains_certifies_and_attacks(tmp_path, monkeypatch, capsys):
    """On the first 48 digits of each part."""
    digits = named._LOADERS["digits"]
    monkeypatch.setitem(named._LOADERS, "digits", lambda *part: [tensor[:48] for tensor in digits(*part)])
    parts = ["1. Training", "epoch 0/0", "2. Certifying", "digits, both halves: 48 images", "3. Attacking"]
    parts += ["digits, both halves, one image in 8: 6 images; 28 bands of 4 columns, θ = 0.2; patch 5 × 5 at random"]
    parts += ["4. The same digits by double masking", "28 bands of 4 rows, double masking", "masking: certified"]
    for finished in (False, True):
        options = ["--end_epoch", 0, "--output", tmp_path / "two words.json"]
        succeed("quickstart.py", *options, folder=tmp_path)
        record = json.loads((tmp_path / "two words.json").read_text())
        assert [answer["size_to_certify"] for answer in record["results"]] == list(range(1, 9))
        said = capsys.readouterr().out
        told = [part for part in parts if part != "epoch 0/0" or not finished]
        assert [said.index(part) for part in told] == sorted(said.index(part) for part in told)
        assert "attacked correct" in said and ("is finished" in said) == finished
        picture = re.search(r"\nclean, attacked, difference: (/.*)\n|\nno digit flipped", said)
        assert picture and (picture[1] is None or Path(picture[1]).is_file())


SCRIPTS = sorted(path.name for pattern in ("train_*.py", "certify_*.py") for path in ROOT.glob(pattern))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_itself(script, capsys, tmp_path):
    assert run_here(script, "--help", folder=tmp_path) == 0
    text = capsys.readouterr().out
    assert f"python3 {script}" in text and "default: " in text
    assert "--batch_size" in text or script == "certify_votes.py"


CERTIFY = ["--checkpoint", "net.pth"]


@pytest.fixture(scope="module")
def refused(trained):
    """The same folder with a network, with one that has no epoch, and with one of other shapes."""
    weights = save_random_network(trained).state_dict()
    checkpoint.save({"net": weights}, trained / "checkpoints" / "epochless.pth")
    checkpoint.save({"net": weights | {"0.weight": torch.zeros(64, 6, 4, 4)}}, trained / "checkpoints" / "other.pth")
    return trained


@pytest.mark.parametrize(
    ("script", "arguments", "named"),
    [
        ("train_mnist_band.py", ["--band_size", 29], "--band_size 29: expected a whole number from 1 to 28"),
        ("train_mnist_row.py", ["--band_size", 0], "--band_size 0:"),
        ("train_mnist_block.py", ["--block_size", 40], "--block_size 40:"),
        ("train_mnist_multi_band.py", ["--keep", 15], "--keep 15: expected a whole number from 1 to 14"),
        ("train_mnist_band.py", ["--lr", -0.1], "--lr: -0.1: expected a number above 0"),
        ("train_mnist_band.py", ["--lr", "nan"], "--lr: nan:"),
        ("train_mnist_band.py", ["--end_epoch", -1], "--end_epoch: -1:"),
        ("train_mnist_band.py", ["--limit", 9], "--limit: 9: training has --subset N instead, which takes"),
        ("train_mnist_band.py", ["--subset", 0], "--subset: 0: expected a whole number from 1"),
        ("certify_mnist_band.py", ["--checkpoint", "net.pth", "--subset", 9], "unrecognized --subset"),
        ("train_mnist_band.py", ["--batch_size", 0], "--batch_size: 0:"),
        ("train_mnist_band.py", ["--dataset", "svhn"], "--dataset: invalid choice: 'svhn'"),
        ("train_mnist_band.py", ["--device", "cuda:9"], "--device: cuda:9:"),
        ("train_mnist_band.py", ["--data", "nowhere"], "--data nowhere: no MNIST in nowhere/MNIST/raw"),
        ("train_mnist_band.py", ["--resume", FIRST, "--end_epoch", 1], "expected a checkpoint before --end_epoch 1"),
        ("train_mnist_band.py", ["--resume", "none.pth"], "--resume none.pth: no such checkpoint"),
        ("train_mnist_band.py", ["--band_sise", 4], "unrecognized --band_sise: did you mean --band_size?"),
        ("certify_mnist_band.py", [], "--checkpoint is missing: checkpoints/ has "),
        ("certify_mnist_band.py", ["--checkpoint", "none.pth"], FIRST),
        ("certify_mnist_band.py", [*CERTIFY, "--threshold", 1.5], "--threshold/--threshhold: 1.5: expected a number"),
        ("certify_mnist_band.py", [*CERTIFY, "--threshold", -0.1], "-0.1: expected a number from 0 to 1"),
        ("certify_mnist_band.py", [*CERTIFY, "--size_to_certify", 0], "0: expected sizes from 1 to 4096"),
        ("certify_mnist_band.py", [*CERTIFY, "--size_to_certify", 29], "29: expected a patch that fits into 28 × 28"),
        ("certify_mnist_band.py", [*CERTIFY, "--size_to_certify", "1-30000000"], "expected sizes from 1 to 4096"),
        ("certify_mnist_multi_block.py", [*CERTIFY, "--block_size", 1, "--keep", 4], "--keep 4: expected at most"),
        ("certify_mnist_band.py", [*CERTIFY, "--batch_size", 10**20], "--batch_size: 1000"),
        ("certify_mnist_band.py", [*CERTIFY, "--certificate", "best"], "best: expected margin, exact"),
        ("certify_mnist_band.py", [*CERTIFY, "--patches", 3], "--patches: invalid choice: 3 (choose from 1, 2)"),
        ("certify_mnist_band.py", [*CERTIFY, "--numerical_margin", -1], "-1: expected auto or a number from 0 to 1"),
        (
            "certify_mnist_block.py",
            ["--checkpoint", "net.pth", "--data", "nowhere", "--patches", 2, "--certificate", "exact"],
            "--patches 2: patches of 5 have 165600 pairs of places here and exact certificates take at most 4096",
        ),
        ("certify_mnist_band.py", [*CERTIFY, "--output", "no/run.json"], "--output: no/run.json: cannot be written"),
        ("certify_mnist_band.py", [*CERTIFY, "--output", "."], "--output: .: is a folder"),
        ("certify_mnist_band.py", [*CERTIFY, "--output", "/dev/null"], "--output: /dev/null: is a folder or a device"),
        (
            "certify_mnist_band.py",
            [*CERTIFY, "--output", "run", "--per_image", "checkpoints/../run"],
            "--per_image: checkpoints/../run: is the file of --output too",
        ),
        ("certify_mnist_band.py", [*CERTIFY, "--test", "--all"], "not allowed with"),
        ("certify_mnist_band.py", [*CERTIFY, "--split_file", "none"], "--split_file none:"),
        ("certify_mnist_band.py", [*CERTIFY, "--all", "--split_file", "no"], "--split_file no: expected without --all"),
        ("certify_mnist_band.py", ["--checkpoint", "other.pth"], "tensor 0.weight is (64, 6, 4, 4) in the file and"),
        ("train_mnist_band.py", ["--resume", "epochless.pth"], "it has no epoch"),
        ("certify_mnist_band_randomized.py", [*CERTIFY, "--attack_size", "2x29"], "--attack_size 2x29: expected"),
        ("certify_mnist_band_randomized.py", [*CERTIFY, "--boundsamples", 10**20], "--boundsamples: 1000"),
        ("quickstart.py", ["--output", "no/run.json"], "--output: no/run.json: cannot be written"),
        ("certify_mnist_band_randomized.py", [*CERTIFY, "--alpha", 1], "--alpha: 1: expected a number between"),
        ("certify_mnist_band_randomized.py", [*CERTIFY, "--predsamples", 0], "--predsamples: 0:"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(refused, script, arguments, named, capsys):
    assert run_here(script, *arguments, folder=refused) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith(f"{script}: error: ") and named in message
