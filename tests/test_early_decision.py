"""Images that leave early get the predictions and certificates that all votes would have given them."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcert.ablations.ablation import Band, Block, Row
from patchcert.ablations.choices import MultiBand, MultiBlock
from patchcert.data.dataset import Dataset
from patchcert.patch import Patch
from patchcert.votes.certificate import Certifier, Question, certify
from patchcert.votes.rules import ThresholdVote, TopOneVote
from tests.helpers import succeed
from tests.networks import save_random_network

ABLATIONS = [Band(5, 12, 2), Row(10, 4, 3), Block(4, 5, 2), MultiBand(4, 9, 1, 2), MultiBlock(6, 7, 2, 2)]


class Remembered:
    """An engine that knows the probabilities (N, A, K) of N images; image i has the brightness i of 255."""

    least = 1

    def __init__(self, probabilities):
        self.log_p = probabilities.log()

    def logits(self, images, indices):
        numbers = (images[:, 0, 0, 0] * 255).round().long()
        return self.log_p[numbers][:, indices]


def dataset_for(ablation, count):
    numbers = torch.arange(count)
    images = numbers[:, None, None, None].expand(-1, 1, ablation.height, ablation.width).to(torch.uint8)
    return Dataset(images, numbers % 2, numbers)


def test_early_decision_changes_no_answer():
    share_spared = []

    @settings(max_examples=50)
    @given(st.data())
    def check(data):
        ablation = data.draw(st.sampled_from(ABLATIONS))
        count, classes = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 4))
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
        favoured = torch.randint(classes, (count,), generator=generator)
        clear = torch.rand(count, 1, 1, generator=generator) * data.draw(st.sampled_from([0, 4, 12]))
        noise = torch.randn(count, ablation.count, classes, generator=generator)
        probabilities = (noise + clear * torch.eye(classes)[favoured][:, None]).softmax(-1)
        question = st.builds(
            Question,
            st.sampled_from([Patch(1, 1), Patch(2, 2), Patch(1, 3)]),
            st.sampled_from([ThresholdVote(0.2), ThresholdVote(0.6), TopOneVote()]),
            st.sampled_from(["margin", "exact", "masking"]),
            st.sampled_from([1, 2]),
            st.sampled_from([0.0, 0.05]),
        ).filter(lambda question: question.certificate != "masking" or question.patches == 1)
        certifier = Certifier(ablation, data.draw(st.lists(question, min_size=1, max_size=4)))
        arguments = Remembered(probabilities), dataset_for(ablation, count), certifier, data.draw(st.integers(1, 40))
        whole, all_copies = certify(*arguments)
        early, copies = certify(*arguments, early=True)
        for one, other in zip(whole, early, strict=True):
            assert torch.equal(one.predicted, other.predicted) and torch.equal(one.certified, other.certified)
        assert all_copies == count * ablation.count and count * ablation.count / 2 <= copies <= all_copies
        assert certify(*arguments[:3], data.draw(st.integers(1, 40)), early=True)[1] == copies, "whatever the batches"
        share_spared.append(1 - copies / all_copies)

    check()
    assert max(share_spared) > 0.25 and sum(share > 0 for share in share_spared) > 15


@pytest.mark.parametrize("kind", ["margin", "exact"])
def test_what_is_clear_at_half_time_leaves_at_half_time(kind):
    """100 bands of one column: unanimous votes are certified after 52, two classes in turn are refused after ~100."""
    ablation, questions = Band(1, 100, 1), [Question(Patch(1, 1), TopOneVote(), kind)]
    clear = torch.tensor([0.1, 0.9]).expand(100, 2)
    in_turn = torch.tensor([[0.1, 0.9], [0.9, 0.1]]).repeat(50, 1)
    copies = []
    for probabilities in (clear, in_turn):
        arguments = Remembered(probabilities[None]), dataset_for(ablation, 1), Certifier(ablation, questions)
        copies.append(certify(*arguments, batch_size=1, early=True)[1])
    assert 52 <= copies[0] <= 52 + 100 / 16 + 1 and copies[1] > 90


@pytest.mark.parametrize("engine", ["windowed", "dense"])
def test_scripts_spare_copies_unless_all_votes_are_reported(generated_mnist, tmp_path, capsys, engine):
    """Early decision, numerical margin and two patches as options: the same counts and what is said about them."""
    (tmp_path / "data").symlink_to(generated_mnist)
    save_random_network(tmp_path)
    records = []
    for more in ([], ["--per_image", "rows.csv"], ["--numerical_margin", 1e-3], ["--patches", 2]):
        arguments = [
            "--checkpoint",
            "net.pth",
            "--engine",
            engine,
            "--limit",
            40,
            "--size_to_certify",
            2,
            "--output",
            "run.json",
            *more,
        ]
        succeed("certify_mnist_band.py", *arguments, folder=tmp_path)
        records.append(json.loads((tmp_path / "run.json").read_text()))
    early, whole, close, two = records
    printed = capsys.readouterr().out
    spared = (1120 - early["copies_classified"]) / 1120
    assert spared > 0 and f"early decision spared {spared:.1%} of 1120 ablated copies" in printed
    assert whole["copies_classified"] == close["copies_classified"] == whole["copies"] == 1120
    counted = ("total", "correct", "certified_correct", "certified_wrong")
    assert [early[name] for name in counted] == [whole[name] for name in counted] == [close[name] for name in counted]
    assert early["results"] == whole["results"] == close["results"][:1]
    assert [entry["numerical_margin"] for entry in close["results"]] == [0.0, 1e-3]
    found = close["close_votes"][0]["close_votes"]
    assert early["close_votes"] == [] and found > 0
    close = f"{found} of 1120 ablated copies have a vote that changes if a probability changes by 0.001 (θ = 0.2)"
    assert close in printed
    assert two["results"][0]["patches"] == 2
    certified = [r["certified_correct"] + r["certified_wrong"] for r in (two, early)]
    assert certified[0] < certified[1] and two["correct"] == early["correct"]
