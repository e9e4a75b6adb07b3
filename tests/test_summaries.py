"""The line above the numbers says what they are about: images, defence, adversary, certificate."""

import json

import pytest

from patchcert import checkpoint
from patchcert.ablations.ablation import Ablation, Band, Block, Row, Whole
from patchcert.ablations.choices import MultiBand, MultiBlock
from patchcert.networks import mnist_network
from patchcert.results import AttackCounts
from tests.helpers import succeed, succeed_under_torchrun

NET = ["--checkpoint", "net.pth"]
PATCH = ["--steps", 2, "--randomizations", 3, "--limit", 4]
COUNTS = ["total", "correct", "certified correct", "certified wrong"]


@pytest.fixture(scope="module")
def folder(folder):
    """In addition, an undefended network of random weights, and votes of 12 images of the test half."""
    checkpoint.save({"net": mnist_network(channels=1).state_dict()}, folder / "checkpoints" / "whole.pth")
    succeed("certify_mnist_band.py", *NET, "--test", "--limit", 12, "--save_votes", "votes.npz", folder=folder)
    return folder


def printed(capsys, script, *arguments, folder):
    capsys.readouterr()
    succeed(script, *arguments, folder=folder)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("script", "arguments", "about"),
    [
        (
            "certify_mnist_band.py",
            [*NET],
            "mnist, validation half: 50 images; 28 bands of 4 columns, θ = 0.2; patch 5 × 5; margin certificate",
        ),
        (
            "certify_mnist_band_top_one.py",
            [*NET, "--test", "--certificate", "exact", "--size_to_certify", "2x8"],
            "mnist, test half: 51 images; 28 bands of 4 columns, top-one votes; patch 2 × 8; exact certificate",
        ),
        (
            "certify_mnist_block.py",
            [*NET, "--limit", 1, "--patches", 2, "--data", "data", "--block_size", 6],
            "mnist, validation half: the first 1 image; 784 blocks of 6 × 6 pixels, θ = 0.2; two patches, each 5 × 5; "
            "margin certificate",
        ),
        (
            "certify_mnist_band_randomized.py",
            [*NET, "--all", "--limit", 1, "--alpha", 0.01, "--predsamples", 20, "--boundsamples", 30],
            "mnist, both halves: the first 1 image; 28 bands of 4 columns, top-one votes; patch 5 × 5; "
            "randomized certificate, α = 0.01, 20 samples pick the class, 30 bound its share",
        ),
        (
            "certify_votes.py",
            ["--votes", "votes.npz", "--threshold", 0.3],
            "mnist, test half: the first 12 images; 28 bands of 4 columns, θ = 0.3; patch 5 × 5; margin certificate",
        ),
        (
            "certify_votes.py",
            ["--votes", "votes.npz", "--top_one", "--limit", 7],
            "mnist, test half: the first 7 images; 28 bands of 4 columns, top-one votes; patch 5 × 5; "
            "margin certificate",
        ),
    ],
)
def test_certificates_say_what_they_are_about_above_the_counts(folder, script, arguments, about, capsys):
    lines = printed(capsys, script, *arguments, folder=folder)
    assert lines[0] == about
    assert [line.split("  ")[0] for line in lines[1:5]] == COUNTS


def test_a_table_has_the_line_too(folder, capsys):
    asked = ["--size_to_certify", "1-9", "--threshold", "0.2,0.3", "--certificate", "margin,exact"]
    lines = printed(capsys, "certify_mnist_band.py", *NET, "--limit", 3, *asked, folder=folder)
    assert lines[0].endswith("θ = 0.2, 0.3; patch 1 × 1, 2 × 2, …, 9 × 9; margin and exact certificates")
    assert "certified_correct" in lines[1] and len(lines) >= 2 + 9 * 2 * 2


@pytest.mark.parametrize(
    ("script", "arguments", "about"),
    [
        (
            "attack_mnist_band.py",
            [*NET, *PATCH, "--patch_height", 2, "--patch_width", 8],
            "mnist, validation half, one image in 10: the first 4 images; 28 bands of 4 columns, θ = 0.3; "
            "patch 2 × 8 at random places, 3 restarts × 2 steps, softmax loss; margin and exact certificates",
        ),
        (
            "attack_mnist_baseline.py",
            ["--checkpoint", "whole.pth", *PATCH, "--size_of_attack", "2x8", "--locations", "all", "--skip", 1],
            "mnist, validation half: the first 4 images; no defence; "
            "patch 2 × 8 at places coarse to fine, 3 restarts × 2 steps, softmax loss",
        ),
    ],
)
def test_attacks_say_what_they_are_about_and_what_follows(folder, script, arguments, about, capsys):
    lines = printed(capsys, script, *arguments, "--output", "run.json", folder=folder)
    assert lines[0] == about
    counts = json.loads((folder / "run.json").read_text())
    certified, attacked = counts["certified_accuracy_exact"], counts["attacked_accuracy"]
    between = counts["attacked_correct"] - counts["certified_correct_exact"]
    assert lines[6] == (
        f"robust accuracy lies between {certified:.2%} (certified) and {attacked:.2%} (attacked); "
        f"{between} of 4 images are neither certified nor flipped"
    )
    assert counts["config"]["size_of_attack"] == "2x8"


def test_without_a_certificate_nothing_is_said_from_below():
    said = AttackCounts(10, 8, None, None, 3).relation()
    assert said == "robust accuracy is at most 30.00% (attacked); no certificate gives a lower bound"


@pytest.mark.parametrize(
    ("ablation", "words"),
    [
        (Band(28, 30, 4), "30 bands of 4 columns"),
        (Row(28, 30, 4), "28 bands of 4 rows"),
        (Block(5, 6, 2), "30 blocks of 2 × 2 pixels"),
        (Whole(28, 28), "no defence"),
        (MultiBand(4, 7, 2, 2), "3 choices of 2 of 3 bands of 2 columns"),
        (MultiBlock(5, 5, 2, 3), "4 choices of 3 of 4 blocks of 2 × 2 pixels"),
    ],
)
def test_ablations_say_what_copies_there_are(ablation, words):
    assert str(ablation) == words


def test_every_ablation_has_words():
    kinds = [Ablation]
    for kind in kinds:
        kinds += kind.__subclasses__()
    concrete = [kind for kind in kinds if not kind.__abstractmethods__ and not kind.__name__.startswith("_")]
    assert len(concrete) >= 6
    assert all(kind.__str__ is not object.__str__ for kind in concrete)


def test_two_processes_answer_from_saved_votes_as_one_does(folder):
    """5 images, so that shares are uneven, under torchrun itself."""
    asked = ["--votes", "votes.npz", "--size_to_certify", "1-3", "--certificate", "margin,exact", "--limit", 5]
    succeed("certify_votes.py", *asked, "--output", "1.json", "--per_image", "1.csv", folder=folder)
    written = ["--output", "2.json", "--per_image", "2.csv"]
    out = succeed_under_torchrun("certify_votes.py", *asked, *written, folder=folder)
    assert out.count("the first 5 images") == 1 and out.count("5 images in ") == 1
    one, two = (json.loads((folder / name).read_text()) for name in ("1.json", "2.json"))
    assert one["results"] == two["results"] and two["environment"]["processes"] == 2
    assert (folder / "1.csv").read_text() == (folder / "2.csv").read_text()
