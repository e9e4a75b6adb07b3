"""Schedules, the guide's draws, steps in parts, and runs that are stopped and resumed."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchcert.datasets import Dataset
from patchcert.intervals import config, training
from patchcert.intervals.guide import Guide, guide_loss, gumbel, likeliest
from tests.helpers import ROOT

TRAINING = config.load(ROOT / "config" / "mnist_robtrain_p22_all.json").training_params


def few_images(count=24):
    torch.manual_seed(7)
    return Dataset(
        torch.randint(256, (count, 1, 12, 12), dtype=torch.uint8), torch.arange(count) % 10, torch.arange(count)
    )


def run_of(name, *overrides, seed=0):
    experiment = config.load(
        ROOT / "config" / f"{name}.json",
        ["training_params:schedule_start=0", "training_params:schedule_length=1", "training_params:epochs=4",
         "training_params:batch_size=10", *overrides],
    )  # fmt: skip
    torch.manual_seed(seed)
    return training.Run(experiment, experiment.models[0], (1, 12, 12), 10, 2**30)


@given(
    start=st.integers(0, 5), length=st.integers(1, 9), first=st.floats(0, 1), last=st.floats(0, 1),
    epoch=st.integers(0, 20), steps=st.integers(1, 7),
)  # fmt: skip
def test_epsilon_step_by_step(start, length, first, last, epoch, steps):
    """Written out anew: one value per epoch, and inside an epoch linear to that of the next."""
    schedule = dataclasses.replace(
        TRAINING, schedule_start=start, schedule_length=length, starting_epsilon=first, epsilon=last
    )

    def value(e):
        return first + (last - first) * min(e - start, length) / length

    for step in range(steps):
        here = value(epoch) + (value(epoch + 1) - value(epoch)) * step / steps if epoch >= start else 0
        assert training.epsilon_at(schedule, epoch, step / steps) == pytest.approx(here, abs=1e-9)


def test_learning_rate_halves_every_ten_epochs_after_the_schedule():
    assert training.schedule_end(TRAINING) == 62
    factors = [training.lr_factor(TRAINING, epoch) for epoch in range(100)]
    assert factors == [1.0] * 72 + [0.5] * 10 + [0.25] * 10 + [0.125] * 8


def test_guided_places_have_the_right_probabilities():
    """First place of a draw: softmax(−T·bound). Both: sampling one after the other without replacement."""
    predicted = torch.tensor([[[0.0, 1.0, -1.0, 0.5]]]).expand(60_000, 2, 4)
    noise = gumbel((60_000, 2, 4), torch.Generator().manual_seed(0), "cpu")
    places = likeliest(predicted, 1.5, noise, 2).t().view(60_000, 2, 2)
    assert (places[..., 0] != places[..., 1]).all()
    p = torch.softmax(-1.5 * predicted[0, 0], dim=0)
    pairs = p[:, None] * p / (1 - p[:, None])
    pairs.fill_diagonal_(0)
    found = torch.zeros(4, 4).index_put((places[..., 0].flatten(), places[..., 1].flatten()), torch.tensor(1.0), True)
    torch.testing.assert_close(found / 120_000, pairs, atol=0.005, rtol=0)


def test_guide_learns_from_the_drawn_places_only():
    guide = Guide(1, 10, 6)
    predicted = guide(torch.rand(3, 1, 28, 28))
    assert predicted.shape == (3, 10, 28, 28)
    places, found = torch.randint(784, (5, 3)), torch.randn(5, 3, 10)
    loss = guide_loss(predicted.flatten(2), places, found)
    image = torch.arange(3).expand(5, 3)
    torch.testing.assert_close(loss, ((predicted.flatten(2)[image, :, places] - found) ** 2).mean())


NAMES = ["mnist_robtrain_p22_all", "mnist_robtrain_p22_rand5", "mnist_robtrain_p22_guide10", "mnist_robtrain_k4_sparse"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parts", [3, 24])
def test_a_step_in_parts_is_the_same_step(name, parts):
    data, found = few_images(), []
    for count in (1, parts):
        run = run_of(name, "training_params:optimizer=sgd", "training_params:lr=0.1")
        images, labels = next(data.batches(24))
        run.step(images, labels, 0.8, torch.Generator().manual_seed(1), count)
        found.append(torch.cat([p.detach().flatten() for p in run.trained.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [*NAMES, "mnist_adveval_patch_22"])
def test_a_resumed_run_equals_one_without_a_stop(name, tmp_path):
    data = few_images()
    once, twice = tmp_path / "once", tmp_path / "twice"
    training.train(run_of(name), data, data, once, seed=5)
    training.train(run_of(name, "training_params:epochs=2"), data, data, twice, seed=5)
    stopped = next(path for path in twice.glob("*.pth") if "best" not in path.name)
    (twice / "mlp_255.log").open("a").write('{"epoch": 2, "of": "an epoch that was cut off"}\n')
    training.train(run_of(name, seed=9), data, data, twice, seed=5, resume=stopped)
    one, other = (torch.load(folder / "mlp_255.pth", weights_only=True) for folder in (once, twice))
    assert_same(one, other)
    assert one["epoch"] == 3 and {"robust_err", "clean_err", "lr_scheduler_dict"} <= set(one)
    logs = [[json.loads(line) for line in (f / "mlp_255.log").open()] for f in (once, twice)]
    assert [row["epoch"] for row in logs[1]] == [0, 1, 2, 3]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def test_below_a_tiny_epsilon_training_is_natural():
    run, (images, labels) = run_of("mnist_robtrain_p22_all"), next(few_images().batches(24))
    noise = run.attack.noise(images, torch.Generator())
    expected = torch.nn.functional.cross_entropy(run.network(images), labels)
    for epsilon in (0.0, 9e-7, 2e-6):
        torch.testing.assert_close(run.loss(images, labels, epsilon, noise)[0], expected, atol=1e-4, rtol=0)
