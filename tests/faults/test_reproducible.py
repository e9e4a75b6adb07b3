"""The same command and seed give the same numbers again, whatever the threads; processes are in test_processes.py."""

import json
import os

import pytest
import torch

from patchcert import arithmetic
from tests.helpers import succeed

CERTIFY = ["--checkpoint", "net.pth", "--limit", 3, "--batch_size", 8, "--certificate", "margin,exact"]
ATTACK = ["--checkpoint", "net.pth", "--skip", 1, "--limit", 3, "--size_of_attack", 9]
ATTACK += ["--steps", 2, "--randomizations", 2, "--step_size", 0.3]
RUNS = {
    "windowed": ["certify_mnist_band.py", *CERTIFY, "--engine", "windowed"],
    "dense": ["certify_mnist_band.py", *CERTIFY, "--engine", "dense"],
    "attack": ["attack_mnist_band.py", *ATTACK],
}


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


@pytest.mark.parametrize(
    ("device", "wanted", "enabled"), [("cpu", False, True), ("cuda", False, False), ("cuda", True, True)]
)
def test_deterministic_is_what_it_says(device, wanted, enabled, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("TORCHINDUCTOR_DETERMINISTIC", "")
    monkeypatch.delenv("TORCHINDUCTOR_DETERMINISTIC")
    torch.use_deterministic_algorithms(not enabled)
    try:
        arithmetic.be_deterministic(wanted, torch.device(device))
        assert torch.are_deterministic_algorithms_enabled() == enabled
        assert ("TORCHINDUCTOR_DETERMINISTIC" in os.environ) == enabled, "what networks are compiled to is so, too"
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("given", [True, False])
def test_scripts_pass_deterministic_on(given, folder, monkeypatch):
    asked = []
    monkeypatch.setattr(arithmetic, "be_deterministic", lambda wanted, device: asked.append((wanted, device.type)))
    numbers(folder, *RUNS["dense"], *(["--deterministic"] if given else []))
    assert asked == [(given, "cpu")]


def test_scripts_add_gradients_up_in_one_order(folder, threads):
    """Gradients of what an index takes often would otherwise depend on which thread comes first."""
    torch.use_deterministic_algorithms(False)
    numbers(folder, *RUNS["dense"])
    threads(2)
    torch.manual_seed(0)
    rows, index = torch.randn(784, 255, requires_grad=True), torch.randint(784, (100, 75))
    weights = torch.randn(100, 75, 255)
    found = [torch.autograd.grad((rows[index] * weights).sum(), rows)[0] for _ in range(20)]
    assert all(torch.equal(gradient, found[0]) for gradient in found)
