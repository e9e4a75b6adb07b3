"""At 224 × 224 pixels, what is made before the network is asked takes little memory and hardly any time."""

import time

import pytest
import torch
from torch import nn

from patchcert import HiddenWindows, MaskedClassifier, Patch, PlainNetwork, WindowMaskedClassifier
from patchcert.ablations.ablation import Band
from patchcert.ablations.windows import WindowPairs
from patchcert.classifiers import weak_spots
from patchcert.classifiers.masked_goals import MaskedLook
from patchcert.classifiers.rounds import Wanted
from patchcert.engines.batching import LiveBytes
from patchcert.experiments import reporting
from patchcert.masking.linked import WindowMasking
from patchcert.masking.margins import Margin
from patchcert.votes.certificate import Certifier, Question
from patchcert.votes.rules import ThresholdVote

SIDE, PATCH, RULE = 224, Patch(32), ThresholdVote(0.2)

IMAGE = torch.full((1, 3, SIDE, SIDE), 0.5)

MOST_BYTES = 50e6

MOST_SECONDS = 0.3
"""Of processors, in the best of three tries. A tenth is promised, but a busy machine takes longer."""


def network(channels):
    return nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(channels * 16, 5)).eval()


def pairs():
    return WindowPairs.for_patch(SIDE, SIDE, PATCH, 6)


def copies_in_order():
    classifier = MaskedClassifier(network(6), pairs(), PATCH)
    look = MaskedLook(classifier, [classifier.masking], Margin(0.0), Wanted(pairs=False), batch_size=4)
    return lambda: look(IMAGE)


def windows_in_order():
    windows = HiddenWindows.for_patch(SIDE, SIDE, PATCH, 6)
    classifier = WindowMaskedClassifier(PlainNetwork(network(3)), windows)
    return lambda: classifier.predict(IMAGE)


def two_patches_of_votes():
    for ablation in (Band(SIDE, SIDE, 25), pairs()):
        Certifier(ablation, [Question(PATCH, RULE, "margin", patches=2)])


def report_of_votes():
    ablation, question = Band(SIDE, SIDE, 25), Question(PATCH, RULE, "exact")
    chunks = [(torch.arange(SIDE), torch.rand(1, SIDE, 10))]
    weak_spots.of_votes(ablation, question, chunks)
    reporting.touched_by(ablation, PATCH)


def report_of_scores():
    ablation = pairs()
    scores, masking = torch.rand(1, ablation.count, 1000), WindowMasking(ablation, PATCH)
    weak_spots.of_scores(ablation, masking, PATCH, 1, torch.tensor([7]), scores)
    reporting.touched_by(ablation, PATCH)


def report_of_windows():
    windows = HiddenWindows.for_patch(SIDE, SIDE, PATCH, 6)
    weak_spots.by_place(windows, PATCH, torch.rand(windows.count))


@pytest.mark.parametrize(
    "prepare",
    [
        copies_in_order,
        windows_in_order,
        two_patches_of_votes,
        report_of_votes,
        report_of_scores,
        report_of_windows,
    ],
)
def test_little_is_held_and_computed(prepare):
    seconds = []
    for _ in range(3):
        started = time.process_time()
        prepare()
        seconds.append(time.process_time() - started)
    with LiveBytes() as memory:
        predict = prepare()
        if predict:
            predict()
    assert memory.most < MOST_BYTES and min(seconds) < MOST_SECONDS
