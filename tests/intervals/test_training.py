"""Schedules, the guide's draws, steps in parts, and runs that are stopped and resumed."""

import dataclasses
import json
import math
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchcert import program
from patchcert.arithmetic import exact_float32
from patchcert.data import augmentation
from patchcert.data.dataset import Dataset
from patchcert.errors import UsageError
from patchcert.intervals import config_files, training
from patchcert.intervals.bounds import certified
from patchcert.intervals.guide import Guide, guide_loss, gumbel, likeliest
from patchcert.intervals.places import Threat
from patchcert.intervals.schedules import epsilon_at, lr_factor, schedule_end
from patchcert.intervals.training_attacks import Attack
from patchcert.patch import Patch
from patchcert.steps import Steps
from tests.helpers import ROOT
from tests.intervals.oracle import plain_margins

TRAINING = config_files.load(ROOT / "config" / "mnist_robtrain_p22_all.json").training_params


def few_images(count=24):
    torch.manual_seed(7)
    return Dataset(
        torch.randint(256, (count, 1, 12, 12), dtype=torch.uint8), torch.arange(count) % 10, torch.arange(count)
    )


def run_of(name, *overrides, seed=0, model=0, amp=False):
    experiment = config_files.load(
        ROOT / "config" / f"{name}.json",
        ["training_params:schedule_start=0", "training_params:schedule_length=1", "training_params:epochs=4",
         "training_params:batch_size=10", *overrides],
    )  # fmt: skip
    torch.manual_seed(seed)
    return training.Run(experiment, experiment.models[model], (1, 12, 12), 10, 2**30, amp)


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
        assert epsilon_at(schedule, epoch, step / steps) == pytest.approx(here, abs=1e-9)


def test_an_exponential_schedule_multiplies_epsilon_by_the_same_in_each_epoch():
    schedule = dataclasses.replace(
        TRAINING, schedule_start=2, schedule_length=4, starting_epsilon=1e-4, epsilon=1.0, schedule_shape="exponential"
    )
    epsilons = [epsilon_at(schedule, epoch, 0) for epoch in range(8)]
    assert epsilons == pytest.approx([0, 0, 1e-4, 1e-3, 1e-2, 1e-1, 1, 1], rel=1e-9)
    assert epsilon_at(schedule, 3, 0.5) == pytest.approx(1e-3 * 10**0.5, rel=1e-9)
    assert epsilon_at(schedule, 6, 0.5) == 1


def test_checkpoints_from_before_schedules_had_shapes_go_on():
    linear = run_of("mnist_robtrain_p22_all")
    assert "training_params:schedule_shape" not in linear.config.settings()
    shape = "training_params:schedule_shape=exponential"
    exponential = run_of("mnist_robtrain_p22_all", shape, "training_params:starting_epsilon=0.001")
    assert exponential.config.settings()["training_params:schedule_shape"] == "exponential"


def test_learning_rate_halves_every_ten_epochs_after_the_schedule():
    assert schedule_end(TRAINING) == 62
    factors = [lr_factor(TRAINING, epoch) for epoch in range(100)]
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


def test_a_prediction_is_about_the_patch_with_its_top_left_pixel_there():
    run, (images, labels) = run_of("mnist_robtrain_p22_guide10"), next(few_images().batches(24))
    predicted = torch.zeros(24, 10, 12, 12)
    predicted[:, :, 3, 1] = -1e3
    predicted[:, :, 11] = predicted[:, :, :, 11] = -1e6  # here no patch of 2 × 2 fits
    run.attack.guide = lambda images: predicted
    worst, _ = run.attack.worst(images, labels, 1.0, run.attack.noise(images, torch.Generator().manual_seed(0)))
    threat = Threat(Patch(2, 2))
    expected = plain_margins(run.network, images, labels, threat, run.config.scale, torch.tensor([[3, 1]]))
    torch.testing.assert_close(worst, expected[0], atol=1e-5, rtol=0)


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


def test_half_precision_is_part_of_a_run(tmp_path):
    """A run that took products in bfloat16, ε = 0 among its epochs, goes on so and not otherwise."""
    data, name, most = few_images(), "mnist_robtrain_p22_rand5", "training_params:epochs=2"
    training.train(run_of(name, "training_params:schedule_start=1", most, model=1, amp=True), data, data, tmp_path, 5)
    with pytest.raises(UsageError, match=r"was trained with precision=bfloat16 \(--amp\), this run has none"):
        training.train(run_of(name, "training_params:schedule_start=1", model=1), data, data, tmp_path, 5)
    training.train(run_of(name, "training_params:schedule_start=1", model=1, amp=True), data, data, tmp_path, 5)
    losses = [json.loads(line)["loss"] for line in next(tmp_path.glob("*.log")).open()]
    assert len(losses) == 4 and all(map(math.isfinite, losses))


@pytest.mark.parametrize("epsilon", [0.0, 0.4])
def test_half_precision_sees_the_weights_of_this_step(epsilon):
    """Inside `exact_float32`, as scripts train, though it is an autocast of its own."""
    overrides = "training_params:optimizer=sgd", "training_params:lr=0.05"
    halves, exact = (run_of("mnist_robtrain_p22_rand5", *overrides, model=1, amp=amp) for amp in (True, False))
    images, labels = next(few_images().batches(24))
    with exact_float32():
        first, *_, last = (halves.step(images, labels, epsilon, torch.Generator().manual_seed(1))[0] for _ in range(5))
        exact.network.load_state_dict(halves.network.state_dict())
        noise = exact.attack.noise(images, torch.Generator().manual_seed(1))
        losses = [run.loss(images, labels, epsilon, noise)[0].detach() for run in (halves, exact)]
    assert last < first
    torch.testing.assert_close(*losses, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mnist_robtrain_p22_rand5", "does not begin with a convolution"),
        ("mnist_robtrain_k4_sparse", "is trained against sparse attacks"),
    ],
)
def test_half_precision_is_refused_where_it_changes_nothing(name, why):
    with pytest.raises(UsageError, match=f"amp True: expected none for mlp_255, which {why}"):
        run_of(name, amp=True)


@pytest.mark.parametrize("name", [*NAMES, "mnist_adveval_patch_22"])
def test_a_resumed_run_equals_one_without_a_stop(name, tmp_path):
    data = few_images()
    once, twice = tmp_path / "once", tmp_path / "twice"
    training.train(run_of(name), data, data, once, seed=5)
    training.train(run_of(name, "training_params:epochs=2"), data, data, twice, seed=5)
    stopped = next(path for path in twice.glob("*.pth") if "best" not in path.name)
    (twice / "mlp_255.log").open("a").write('{"epoch": 2, "of": "an epoch that was cut off"}\n{"epoch": 3, "lo')
    training.train(run_of(name, seed=9), data, data, twice, seed=5, resume=stopped)
    for file in ("mlp_255_best.pth", "mlp_255.pth"):
        one, other = (torch.load(folder / file, weights_only=True) for folder in (once, twice))
        assert_same(one, other)
    assert one["epoch"] == 3 and {"robust_err", "clean_err", "lr_scheduler_dict"} <= set(one)
    logs = [[json.loads(line) for line in (f / "mlp_255.log").open()] for f in (once, twice)]
    assert [row["epoch"] for row in logs[1]] == [0, 1, 2, 3]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]


@pytest.mark.parametrize("unwritten", ["mlp_255_best.pth", "mlp_255.pth"])
def test_a_stop_while_an_epoch_is_written_loses_nothing(unwritten, tmp_path, monkeypatch):
    data, save = few_images(), training.checkpoint.save
    monkeypatch.setattr(training.Run, "errors", lambda *_: {"robust_err": 0.5, "clean_err": 0.5})

    def stopped(content, path):
        if (content["epoch"], path.name) == (1, unwritten):
            raise KeyboardInterrupt
        save(content, path)

    name, once, twice = "mnist_robtrain_p22_all", tmp_path / "once", tmp_path / "twice"
    training.train(run_of(name), data, data, once, seed=5)
    monkeypatch.setattr(training.checkpoint, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        training.train(run_of(name), data, data, twice, seed=5)
    monkeypatch.setattr(training.checkpoint, "save", save)
    training.train(run_of(name), data, data, twice, seed=5, resume=twice / "mlp_255.pth")
    for file in ("mlp_255_best.pth", "mlp_255.pth"):
        assert_same(*(torch.load(folder / file, weights_only=True) for folder in (once, twice)))
    assert [json.loads(line)["epoch"] for line in (twice / "mlp_255.log").open()] == [0, 1, 2, 3]


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


def test_below_a_tiny_epsilon_training_is_natural(monkeypatch):
    run, (images, labels) = run_of("mnist_robtrain_p22_all"), next(few_images().batches(24))
    monkeypatch.setattr(run.attack, "worst", lambda *_: (torch.zeros(24, 10), 7.0))
    expected = torch.nn.functional.cross_entropy(run.network(images), labels)
    for epsilon in (0.0, 9e-7):
        assert torch.equal(run.loss(images, labels, epsilon, torch.empty(24, 0))[0], expected)
    assert run.loss(images, labels, 2e-6, torch.empty(24, 0))[0] == pytest.approx(7 + math.log(10))


def trained(folder, name, *overrides, data=None, resume=None, seed=5, overwrite=False):
    """A run of six epochs, ε rising over the second and third; what its log says, and its state after each."""
    schedule = ["schedule_start=1", "schedule_length=2", "epochs=6", "lr_decay_step=2"]
    run = run_of(name, *(f"training_params:{value}" for value in schedule), *overrides)
    training.train(run, data or few_images(), few_images(), folder, seed, resume=resume, overwrite=overwrite)
    return run, [json.loads(line) for line in (folder / "mlp_255.log").open()]


def test_a_run_follows_its_schedules_and_keeps_the_best(tmp_path, monkeypatch):
    robust_errors = iter([0.1, 0.2, 0.3, 0.9, 0.7, 0.8])
    seen = []
    step = training.Run.step
    monkeypatch.setattr(training.Run, "errors", lambda *_: {"robust_err": next(robust_errors), "clean_err": 0.5})
    monkeypatch.setattr(training.Run, "step", lambda run, i, y, epsilon, *rest: (
        seen.append(epsilon), step(run, i, y, epsilon, *rest))[1])  # fmt: skip
    _, log = trained(tmp_path, "mnist_robtrain_p22_all")
    assert seen == pytest.approx([0] * 3 + [0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6] + [1] * 9)  # three steps an epoch
    assert [row["lr"] for row in log] == pytest.approx([5e-4] * 5 + [2.5e-4])
    assert [row["epsilon"] for row in log] == pytest.approx([0, 2 / 6, 5 / 6, 1, 1, 1])
    best = torch.load(tmp_path / "mlp_255_best.pth", weights_only=True)
    assert (best["epoch"], best["robust_err"], best["best_robust_err"]) == (4, 0.7, 0.7)


def test_errors_are_those_at_full_strength():
    run, data = run_of("mnist_robtrain_p22_all"), few_images()
    images, _ = next(data.batches(24))
    data = dataclasses.replace(data, labels=run.network(images).argmax(dim=1))
    worst, _ = run.attack.worst(images, data.labels, 1.0, torch.empty(24, 0))
    expected = 1 - float(certified(worst, data.labels).double().mean())
    steps = Steps(10, seed=0, device=torch.device("cpu"))
    steps.begin(0, 0, len(data))
    assert run.errors(data, steps) == {"robust_err": pytest.approx(expected), "clean_err": 0.0}
    assert expected > 0


def test_the_guide_and_the_augmentations_take_part(tmp_path, monkeypatch):
    augmented = []
    monkeypatch.setitem(augmentation.AUGMENTATIONS, "random_flip", lambda x, _: (augmented.append(len(x)), x)[1])
    run, _ = trained(
        tmp_path,
        "mnist_robtrain_p22_guide10",
        "training_params:epochs=2",
        'training_params:augmentations=["random_flip"]',
    )
    assert augmented == [10, 10, 4] * 2
    fresh = run_of("mnist_robtrain_p22_guide10").trained["guide"].state_dict()
    assert all(not torch.equal(value, fresh[key]) for key, value in run.trained["guide"].state_dict().items())


def test_natural_training_looks_at_no_patch(tmp_path, monkeypatch):
    monkeypatch.setattr(training.Run, "errors", lambda *_: {"robust_err": 0.5, "clean_err": 0.5})
    monkeypatch.setattr(Attack, "worst", None)
    trained(tmp_path, "mnist_robtrain_p22_all", "training_params:method=natural")


def test_the_optimiser_is_the_configs():
    run = run_of("mnist_robtrain_p22_all", "training_params:optimizer=sgd", "training_params:weight_decay=0.1")
    (group,) = run.optimizer.param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"], group["lr"]) == (0.9, True, 0.1, 5e-4)
    assert isinstance(run_of("mnist_robtrain_p22_all").optimizer, torch.optim.Adam)


def test_places_are_merged_only_where_the_config_says_so():
    overrides = ["training_params:method_params:neighbor=[2]", "training_params:method_params:patch_count=3"]
    for attack_type in ("patch-all", "patch-random", "patch-all-pool"):
        method = f"training_params:method_params:attack_type={attack_type}"
        run = run_of("mnist_robtrain_p22_all", *overrides, method)
        assert run.attack.neighbor == ((2,) if attack_type == "patch-all-pool" else ())


def test_a_new_run_does_not_leave_the_best_of_an_earlier_one(tmp_path):
    trained(tmp_path, "mnist_robtrain_p22_all")
    assert (tmp_path / "mlp_255_best.pth").exists()
    trained(tmp_path, "mnist_robtrain_p22_all", "training_params:epochs=2", overwrite=True)
    assert not (tmp_path / "mlp_255_best.pth").exists()


def test_what_an_earlier_run_left_stays_until_an_epoch_of_the_next_is_over(tmp_path, monkeypatch):
    trained(tmp_path, "mnist_robtrain_p22_all")
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(training.Run, "train_epoch", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "mnist_robtrain_p22_all", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == left


def stop_before(monkeypatch, epoch):
    """Let training be interrupted as it begins with an epoch."""
    train_epoch = training.Run.train_epoch

    def stopped(run, dataset, steps, *rest):
        if steps.epoch == epoch:
            raise KeyboardInterrupt
        return train_epoch(run, dataset, steps, *rest)

    monkeypatch.setattr(training.Run, "train_epoch", stopped)


def test_the_same_run_goes_on_after_an_interruption_and_then_is_finished(tmp_path, monkeypatch, capsys):
    once, twice, name = tmp_path / "once", tmp_path / "twice", "mnist_robtrain_p22_guide10"
    trained(once, name)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(patch, 4)
        trained(twice, name)
    capsys.readouterr()
    _, log = trained(twice, name)
    assert capsys.readouterr().out.startswith(f"continuing with epoch 4 of 5 from {twice / 'mlp_255.pth'}\n")
    assert [row["epoch"] for row in log] == [0, 1, 2, 3, 4, 5]
    for file in ("mlp_255_best.pth", "mlp_255.pth"):
        assert_same(*(torch.load(folder / file, weights_only=True) for folder in (once, twice)))
    left = {path.name: path.read_bytes() for path in twice.iterdir()}
    for resume in (None, once / "mlp_255.pth", twice / "mlp_255.pth"):
        trained(twice, name, resume=resume)
        said = capsys.readouterr().out
        assert said == f"{twice / 'mlp_255.pth'} is finished after epoch 5; --overwrite trains anew\n"
        assert {path.name: path.read_bytes() for path in twice.iterdir()} == left


def test_a_run_that_goes_on_by_other_modules_says_so(tmp_path, monkeypatch, capsys):
    for epoch, content in enumerate(("then", "then", "now"), start=1):
        monkeypatch.setattr(program, "own_modules", lambda content=content: {"mine": content})
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_before(patch, epoch)
            trained(tmp_path, "mnist_robtrain_p22_guide10")
    said = "was trained by other code, in mine: the weights will come from both versions"
    assert capsys.readouterr().err == f"note: {tmp_path / 'mlp_255.pth'} {said}\n"


@pytest.mark.parametrize(("override", "seed", "said"), [
    ("training_params:lr=0.1", 5, "mlp_255.pth: was trained with training_params:lr=0.0005, expected the 0.1 of this"),
    ("training_params:epochs=6", 6, "mlp_255.pth: was trained with seed=5, expected the 6 of this run"),
    ("training_params:epochs=2", 5, "mlp_255.pth: was trained to epoch 5, beyond this run's training_params:epochs=2"),
    ('models=[{"model_id":"mlp_255","model_class":"mlp","model_params":{"hidden":9}}]', 5, "is of another network: "),
])  # fmt: skip
def test_another_run_replaces_an_earlier_one_only_if_told_to(override, seed, said, tmp_path):
    trained(tmp_path, "mnist_robtrain_p22_all")
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=f"^config models_path=.*{said}.*; --overwrite trains anew"):
        trained(tmp_path, "mnist_robtrain_p22_all", override, seed=seed)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == left
    _, log = trained(tmp_path, "mnist_robtrain_p22_all", override, seed=seed, overwrite=True)
    assert [row["epoch"] for row in log] == list(range(2 if "epochs=2" in override else 6))


def test_a_longer_schedule_goes_on_with_what_a_shorter_one_left(tmp_path):
    trained(tmp_path / "one", "mnist_robtrain_p22_all", "training_params:epochs=8")
    for epochs in (6, 8):
        trained(tmp_path / "two", "mnist_robtrain_p22_all", f"training_params:epochs={epochs}")
    assert_same(*(torch.load(tmp_path / run / "mlp_255.pth", weights_only=True) for run in ("one", "two")))


def test_a_run_resumed_elsewhere_has_a_best_file(tmp_path, monkeypatch):
    robust_errors = iter([0.5, 0.5, 0.5, 0.1, 0.9, 0.8])
    monkeypatch.setattr(training.Run, "errors", lambda *_: {"robust_err": next(robust_errors), "clean_err": 0.5})
    trained(tmp_path / "one", "mnist_robtrain_p22_all", "training_params:epochs=5")
    trained(tmp_path / "two", "mnist_robtrain_p22_all", resume=tmp_path / "one" / "mlp_255.pth")
    assert torch.load(tmp_path / "two" / "mlp_255_best.pth", weights_only=True)["robust_err"] == 0.8


@pytest.mark.parametrize(("override", "said"), [
    ("training_params:lr=0.1", "training_params:lr=0.0005, expected the 0.1"),
    ("training_params:method_params:patch_w=3", "patch_w=2, expected the 3"),
    ("training_params:optimizer=sgd", "optimizer=adam, expected the sgd"),
])  # fmt: skip
def test_a_checkpoint_of_other_settings_is_refused(override, said, tmp_path):
    trained(tmp_path, "mnist_robtrain_p22_all", "training_params:epochs=1")
    log = (tmp_path / "mlp_255.log").read_text()
    with pytest.raises(UsageError, match=said):
        trained(tmp_path, "mnist_robtrain_p22_all", override, resume=tmp_path / "mlp_255.pth")
    assert (tmp_path / "mlp_255.log").read_text() == log


@pytest.mark.parametrize(("other", "said"), [
    ({"seed": 6}, "seed=5, expected the 6"),
    ({"data": few_images(20)}, "was trained with data="),
])  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(other, said, tmp_path):
    trained(tmp_path, "mnist_robtrain_p22_all", "training_params:epochs=1")
    with pytest.raises(UsageError, match=said):
        trained(tmp_path, "mnist_robtrain_p22_all", resume=tmp_path / "mlp_255.pth", **other)


def test_a_run_is_not_resumed_over_the_files_of_another(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    trained(one, "mnist_robtrain_p22_all", "training_params:epochs=2", seed=6)
    left = {path.name: path.read_bytes() for path in one.iterdir()}
    trained(two, "mnist_robtrain_p22_all", "training_params:epochs=1")
    with pytest.raises(UsageError, match=r"one: mlp_255\.pth: was trained with seed=6, expected the 5"):
        trained(one, "mnist_robtrain_p22_all", resume=two / "mlp_255.pth")
    assert {path.name: path.read_bytes() for path in one.iterdir()} == left
