"""The same command and seed give the same numbers again, whatever the threads; processes are in test_processes.py."""

import json

import pytest
import torch

from tests.helpers import succeed
from tests.test_scripts import save_random_network

CERTIFY = ["--checkpoint", "net.pth", "--limit", 10, "--batch_size", 8, "--certificate", "margin,exact"]
ATTACK = ["--checkpoint", "net.pth", "--skip", 1, "--limit", 10, "--size_of_attack", 9]
ATTACK += ["--steps", 2, "--randomizations", 2, "--step_size", 0.3]
RUNS = {
    "windowed": ["certify_mnist_band.py", *CERTIFY, "--engine", "windowed"],
    "dense": ["certify_mnist_band.py", *CERTIFY, "--engine", "dense"],
    "attack": ["attack_mnist_band.py", *ATTACK],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generated_mnist):
    folder = tmp_path_factory.mktemp("run")
    (folder / "data").symlink_to(generated_mnist)
    save_random_network(folder)
    return folder


def numbers(folder, script, *arguments) -> tuple[dict, str]:
    """What `--output` holds but for times and what it ran on, and what `--per_image` holds."""
    succeed(script, *arguments, "--output", "run.json", "--per_image", "rows.csv", folder=folder)
    record = json.loads((folder / "run.json").read_text())
    for differs in ("seconds", "environment"):
        assert record.pop(differs)
    return record, (folder / "rows.csv").read_text()


@pytest.fixture
def threads():
    """Sets how many threads compute."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", RUNS)
def test_again_and_with_other_threads(name, folder, threads):
    found = []
    for count in (1, 2):
        threads(count)
        found.append(numbers(folder, *RUNS[name]))
    assert found[0] == found[1]


def test_early_decisions_are_the_same_whatever_the_batches(folder):
    """Which copies an image needs does not depend on its neighbours, so that shares of processes change no number."""
    records = []
    for size in (20, 7):
        arguments = ["--checkpoint", "net.pth", "--limit", 20, "--batch_size", size, "--output", "run.json"]
        succeed("certify_mnist_band.py", *arguments, folder=folder)
        records.append(json.loads((folder / "run.json").read_text()))
    assert records[0]["copies_classified"] == records[1]["copies_classified"] < 20 * 28
    assert records[0]["results"] == records[1]["results"]


@pytest.mark.parametrize("given", [True, False])
def test_deterministic_is_what_it_says(given, folder):
    torch.use_deterministic_algorithms(not given)
    try:
        numbers(folder, *RUNS["dense"], *(["--deterministic"] if given else []))
        assert torch.are_deterministic_algorithms_enabled() == given
    finally:
        torch.use_deterministic_algorithms(False)
