"""Saved votes against the votes themselves: every certificate from the file is the one from all probabilities."""

import json
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcert import arithmetic
from patchcert.ablations.ablation import Band, Block, Row
from patchcert.ablations.choices import MultiBand, MultiBlock
from patchcert.data.dataset import Dataset
from patchcert.engines import batching
from patchcert.engines.asking import DenseNetwork
from patchcert.errors import UsageError
from patchcert.networks import mnist_network
from patchcert.patch import Patch
from patchcert.votes import saved_votes
from patchcert.votes.certificate import Certifier, Question
from patchcert.votes.rules import ThresholdVote, TopOneVote
from tests.helpers import rewrite_votes, run_here, succeed
from tests.networks import save_random_network

ABLATIONS = [Band(5, 6, 2), Row(4, 5, 3), Block(3, 4, 2), MultiBand(4, 7, 2, 2), MultiBlock(5, 5, 2, 2)]
CONFIG = {"dataset": "mnist", "threshold": [0.2]}
ARITHMETIC = {"precision": "bfloat16", "engine": "dense", "processors": ["AVX2"]}


def random_probabilities(images, ablations, classes, seed):
    """(N, A, K), with many equal ones: shares of small whole numbers."""
    weights = torch.randint(0, 4, (images, ablations, classes), generator=torch.Generator().manual_seed(seed))
    weights[..., seed % classes] += 3 * (weights.sum(dim=-1) % 2)
    return (weights + 1e-9) / (weights + 1e-9).sum(dim=-1, keepdim=True)


def recorded(recorder, probabilities, batch_size, chunk_size, order):
    """Let `recorder` listen to the copies in batches of images and, in some order, chunks of ablations."""
    for batch in probabilities.split(batch_size):
        for _ in recorder((indices, batch[:, indices]) for indices in order.split(chunk_size)):
            pass


def data_of(count, classes=4):
    images = torch.zeros(count, 1, 1, 1, dtype=torch.uint8)
    return Dataset(images, torch.arange(count) % classes, 10 * torch.arange(count))


@settings(max_examples=60)
@given(
    st.sampled_from(ABLATIONS), st.integers(1, 7), st.integers(1, 5), st.integers(0, 99),
    st.lists(st.sampled_from([0.0, 0.125, 0.2, 1 / 3, 0.5, 1.0]), max_size=2), st.integers(1, 4), st.integers(1, 40),
)  # fmt: skip
def test_every_certificate_from_the_file_is_that_of_all_probabilities(
    tmp_path_factory, ablation, images, classes, seed, thresholds, batch_size, chunk_size
):
    path = tmp_path_factory.getbasetemp() / "votes.npz"
    probabilities = random_probabilities(images, ablation.count, classes, seed)
    recorder = saved_votes.Recorder(ablation, [TopOneVote(), *map(ThresholdVote, thresholds)])
    order = torch.randperm(ablation.count, generator=torch.Generator().manual_seed(seed))
    recorded(recorder, probabilities, batch_size, chunk_size, order)
    recorder.write(path, data_of(images, classes), CONFIG, ARITHMETIC)
    saved = saved_votes.read(path)
    assert saved.floor <= min([1 / 3, *thresholds]) - min(saved.floor, 0.0009)
    assert (saved.class_count, saved.config, saved.arithmetic, len(saved)) == (classes, CONFIG, ARITHMETIC, images)
    assert saved.indices.tolist() == [10 * i for i in range(images)]
    assert saved.labels.tolist() == [i % classes for i in range(images)]

    rules = [TopOneVote(), *(ThresholdVote(t) for t in (saved.floor, *thresholds, 0.4, 0.6, 1.0) if t >= saved.floor)]
    asked = product((Patch(1, 1), Patch(2, 3)), rules, ("margin", "exact"))
    questions = [Question(patch, rule, certificate, 1, nu) for patch, rule, certificate in asked for nu in (0.0, 9e-4)]
    questions = [question for question in questions if is_kept(saved, question.rule, question.numerical_margin)]
    expected = Certifier(ablation, questions)([(torch.arange(ablation.count), probabilities)])
    found = saved_votes.certify(saved, Certifier(saved.ablation, questions))
    first = saved_votes.certify(saved.take(slice(2)), Certifier(saved.ablation, questions))
    for one, other, short in zip(expected, found, first, strict=True):
        assert all(torch.equal(vars(one)[name], vars(other)[name]) for name in vars(one))
        assert torch.equal(one.certified[:2], short.certified)


def is_kept(saved, rule, numerical_margin):
    try:
        saved.require(rule, numerical_margin)
    except UsageError:
        return False
    return True


def test_large_files_are_read_in_parts(tmp_path, monkeypatch):
    ablation, probabilities = Block(5, 5, 2), random_probabilities(9, 25, 4, seed=1)
    recorder = saved_votes.Recorder(ablation, [ThresholdVote(0.2)])
    recorded(recorder, probabilities, 4, 6, torch.arange(25))
    recorder.write(tmp_path / "votes.npz", data_of(9), CONFIG, ARITHMETIC)
    monkeypatch.setattr(saved_votes, "ABLATIONS_AT_ONCE", 7)
    monkeypatch.setattr(saved_votes, "PROBABILITIES_AT_ONCE", 7 * 4 * 2)
    saved = saved_votes.read(tmp_path / "votes.npz")
    batches = [list(chunks) for chunks, _ in saved.batches(saved.at_once)]
    assert [len(chunks) for chunks in batches] == [4] * 5 and batches[0][0][1].shape == (2, 7, 4)
    rebuilt = torch.cat([torch.cat([p for _, p in chunks], dim=1) for chunks in batches])
    kept = rebuilt > 0
    assert torch.equal(rebuilt[kept], probabilities[kept]) and (probabilities[~kept] < 0.199).all()
    assert (kept.sum(dim=-1) >= 2).all() and not kept.all()


def test_what_is_nearly_as_probable_as_the_first_is_kept_for_numerical_margins():
    recorder = saved_votes.Recorder(Band(2, 2, 1), [ThresholdVote(0.9)])
    nearly = torch.tensor([0.3, 0.2995, 0.2993, 0.1012]).expand(1, 2, 4)
    recorded(recorder, nearly, 1, 2, torch.arange(2))
    assert recorder.parts[0].classes.tolist() == [0, 1, 2, 0, 1, 2]


def test_shares_of_several_processes_come_together_in_order(tmp_path, monkeypatch):
    ablation, probabilities = Band(4, 6, 1), random_probabilities(8, 6, 5, seed=2)
    shares = []
    for rank in range(3):
        recorder = saved_votes.Recorder(ablation, [])
        recorded(recorder, probabilities[rank::3], 2, 4, torch.arange(6))
        shares.append(saved_votes.Entries.concatenate(recorder.parts))
    monkeypatch.setattr(saved_votes.distributed, "to_first", lambda own: shares)
    recorder.write(tmp_path / "shared.npz", data_of(8), CONFIG, ARITHMETIC)
    monkeypatch.undo()
    whole = saved_votes.Recorder(ablation, [])
    recorded(whole, probabilities, 8, 6, torch.arange(6))
    whole.write(tmp_path / "whole.npz", data_of(8), CONFIG, ARITHMETIC)
    with np.load(tmp_path / "shared.npz") as shared, np.load(tmp_path / "whole.npz") as alone:
        assert set(shared) == set(alone) and all(np.array_equal(shared[name], alone[name]) for name in shared)


def test_files_that_do_not_say_what_they_were_computed_with_are_read(tmp_path):
    recorder, path = saved_votes.Recorder(Band(4, 6, 1), []), tmp_path / "votes.npz"
    recorded(recorder, random_probabilities(4, 6, 5, seed=2), 4, 6, torch.arange(6))
    recorder.write(path, data_of(4), CONFIG, ARITHMETIC)
    rewrite_votes(path, lambda about, arrays: about.pop("arithmetic"))
    assert saved_votes.read(path).arithmetic == saved_votes.UNKNOWN
    for wrong in ("AVX2", {"precision": "float32"}, ARITHMETIC | {"processors": [7]}):
        rewrite_votes(path, lambda about, arrays, wrong=wrong: about.update(arithmetic=wrong))
        with pytest.raises(UsageError, match="what it was computed with cannot be understood"):
            saved_votes.read(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a checkpoint, and the votes of 40 digits in votes.npz."""
    folder = tmp_path_factory.mktemp("votes")
    save_random_network(folder)
    certify(folder, "certify_mnist_band.py", "--threshold", 0.2, "--save_votes", "votes.npz")
    return folder


def certify(folder, script, *arguments):
    """The entry `results` and the rows of a run of `script` on 40 digits."""
    if script != "certify_votes.py":
        arguments = ["--checkpoint", "net.pth", "--dataset", "digits", "--limit", 40, *arguments]
    succeed(script, *arguments, "--output", "run.json", "--per_image", "rows.csv", folder=folder)
    return json.loads((folder / "run.json").read_text())["results"], (folder / "rows.csv").read_text()


@pytest.mark.parametrize(
    ("script", "rule", "saved_rule"),
    [
        ("certify_mnist_band.py", ["--threshold", "0.2,0.35,0.6"], ["--threshold", "0.2,0.35,0.6"]),
        ("certify_mnist_band_top_one.py", [], ["--top_one"]),
        ("certify_mnist_row.py", ["--threshold", "0.3"], ["--threshold", "0.3"]),
        ("certify_mnist_multi_block.py", ["--block_size", 7, "--keep", 2], []),
    ],
)
def test_the_file_answers_as_the_network_does(folder, script, rule, saved_rule):
    asked = ["--size_to_certify", "1-3,2x5", "--certificate", "margin,exact", "--numerical_margin", 1e-3]
    direct = certify(folder, script, *rule, *asked, "--save_votes", "own.npz")
    assert certify(folder, "certify_votes.py", "--votes", "own.npz", *saved_rule, *asked) == direct
    certified = {entry["certified_correct"] + entry["certified_wrong"] for entry in direct[0]}
    assert len(direct[0]) >= 8 and len(certified) > 1


def test_the_numerical_margin_is_that_of_the_run_unless_another_is_asked_for(folder):
    asked = ["--size_to_certify", 2, "--numerical_margin", 0.02, "--save_votes", "wide.npz"]
    direct = certify(folder, "certify_mnist_band.py", "--threshold", 0.2, *asked)
    from_file = ["certify_votes.py", "--votes", "wide.npz", "--size_to_certify", 2, "--threshold", 0.2]
    assert certify(folder, *from_file) == direct
    exactly, _ = certify(folder, *from_file, "--numerical_margin", 0)
    assert exactly == direct[0][:1] and exactly[0]["certified_correct"] > direct[0][1]["certified_correct"]


@pytest.mark.parametrize("margin", [float("nan"), -0.1, "auto"])
def test_a_file_whose_run_had_no_possible_margin_is_refused(tmp_path, margin):
    recorder, path = saved_votes.Recorder(Band(4, 6, 1), []), tmp_path / "votes.npz"
    recorded(recorder, random_probabilities(4, 6, 5, seed=2), 4, 6, torch.arange(6))
    recorder.write(path, data_of(4), CONFIG | {"numerical_margin": margin}, ARITHMETIC)
    with pytest.raises(UsageError, match="its run had a numerical margin of"):
        saved_votes.read(path)


def test_the_file_answers_what_was_not_asked_when_it_was_written(folder):
    from_file = ["certify_votes.py", "--votes", "votes.npz", "--size_to_certify", 2]
    top_one = certify(folder, "certify_mnist_band_top_one.py", "--size_to_certify", 2)
    assert certify(folder, *from_file, "--top_one") == top_one
    assert certify(folder, *from_file[:-1], "0.5%", "--top_one") == top_one  # 4 of 784 pixels
    higher = certify(folder, "certify_mnist_band.py", "--size_to_certify", 2, "--threshold", 0.45)
    assert certify(folder, *from_file, "--threshold", 0.45) == higher != top_one
    succeed(*from_file, "--limit", 3, "--output", "run.json", folder=folder)
    record = json.loads((folder / "run.json").read_text())
    here = arithmetic.processor(torch.device("cpu"))
    assert record["arithmetic"] == {"precision": "float32", "engine": "windowed", "processors": [here]}
    assert record["total"] == 3 and record["config"]["config_of_votes"]["checkpoint"] == "net.pth"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--votes", "votes.npz", "--threshold", "0.3,0.1"], "--threshold 0.1: less probable classes were not saved"),
        (["--votes", "votes.npz", "--threshold", 0.198], "expected at least the file's floor of 0.199"),
        (["--votes", "votes.npz", "--threshold", 0.3, "--top_one"], "not allowed with"),
        (["--votes", "votes.npz", "--numerical_margin", 0.01], "--numerical_margin 0.01: less probable classes"),
        (["--votes", "votes.npz", "--top_one", "--numerical_margin", 0.01], "expected at most 0.001"),
        (["--votes", "votes.npz", "--patches", 3], "--patches"),
        (["--votes", "votes.npz", "--size_to_certify", 29], "--size_to_certify 29: expected a patch that fits"),
        (["--votes", "votes.npz", "--output", "no/run.json"], "--output: no/run.json: cannot be written"),
        (["--votes", "none.npz"], "--votes none.npz: no such file"),
        (["--votes", "checkpoints/net.pth"], "not a complete file of votes"),
        (["--votes", "pickle.npz"], "not a complete file of votes"),
        (["--votes", "pickles.npz"], "not a complete file of votes"),
        (["--votes", "torn.npz"], "not a complete file of votes"),
        (["--votes", "text.npz"], "not a complete file of votes"),
        (["--votes", "array.npz"], "not a complete file of votes"),
        (["--votes", "fewer.npz"], "not a complete file of votes"),
        (["--votes", "later.npz"], "not a complete file of votes"),
    ],
)
def test_bad_input_is_one_clear_line(folder, arguments, named, capsys):
    whole = (folder / "votes.npz").read_bytes()
    with np.load(folder / "votes.npz") as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    (folder / "pickle.npz").write_bytes(pickle.dumps({"votes": 1}))
    np.savez(folder / "pickles.npz", **arrays | {"kept": np.array([{}, []], dtype=object)})
    (folder / "torn.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.npz").write_text("votes")
    with (folder / "array.npz").open("wb") as file:
        np.save(file, arrays["kept"])
    np.savez(folder / "fewer.npz", **arrays | {"classes": arrays["classes"][:-1]})
    np.savez(folder / "later.npz", **arrays | {"about": json.dumps(about | {"format": 2})})
    capsys.readouterr()
    assert run_here("certify_votes.py", *arguments, folder=folder) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("certify_votes.py: error: ") and named in message


def test_the_batch_size_that_is_found_changes_no_count(folder, capsys):
    asked = ["certify_mnist_band.py", "--size_to_certify", "1-3", "--certificate", "margin,exact"]
    fixed = certify(folder, *asked)
    capsys.readouterr()
    for engine in ("dense", "windowed"):
        assert certify(folder, *asked, "--engine", engine, "--batch_size", "auto") == fixed
        taken = int(capsys.readouterr().out.split("--batch_size ")[1].split()[0])
        assert taken in (16, 32)  # at most a 32nd of 40 images × 28 copies
        assert json.loads((folder / "run.json").read_text())["config"]["batch_size"] == taken


@pytest.mark.parametrize(
    ("copies_at_once", "seconds", "best"),
    [
        (10**9, {16: 3.0, 32: 2.0, 64: 2.1, 128: 1.0, 256: 1.2, 512: 1.1}, 128),
        (10**9, {16: 3.0, 32: 2.0, 64: 1.99, 128: 1.98}, 32),
        (100, {16: 3.0, 32: 2.0, 64: 1.0}, 64),
        (1, {16: 3.0}, 16),
    ],
)
def test_doubling_stops_where_memory_or_gain_ends(monkeypatch, copies_at_once, seconds, best):
    """The largest thing held is the output of the first convolution and of its ReLU, (B, 64, 14, 14) each."""
    monkeypatch.setattr(batching, "CPU_BYTES", copies_at_once * 2 * 64 * 14 * 14 * 4)
    monkeypatch.setattr(batching, "_seconds_per_copy", lambda engine, images, ablation, size: seconds[size])
    images = torch.zeros(1000, 1, 28, 28, dtype=torch.uint8)
    dataset = Dataset(images, torch.arange(1000) % 10, torch.arange(1000))
    ablation = Band(28, 28, 4)
    network = DenseNetwork(mnist_network(), ablation)
    assert batching.fastest_batch_size(network, dataset, ablation, use=list) == best


def test_live_bytes_are_those_held_at_the_same_time():
    with batching.LiveBytes() as memory:
        one = torch.zeros(1000)
        part, other = one[:10], one + 1
        del one, other
        assert memory.now == 4000  # `part` holds it
        del part
        kept = torch.zeros(500)
    assert (memory.most, memory.now, len(kept)) == (8000, 2000, 500)
