"""Training that a signal ends between two steps, that is saved there and goes on to the same bits; that diverges."""

import errno
import io
import json
import os
import signal
import sys
from dataclasses import replace
from multiprocessing import active_children
from unittest import mock

import pytest
import torch
from torch import nn

from patchcert import checkpoint, cli, steps, stopping
from patchcert.ablations.ablation import Band
from patchcert.data.folders import PictureFolder
from patchcert.errors import UsageError
from patchcert.intervals import training as interval_training
from patchcert.training import loop
from patchcert.training.objectives import OneCopy
from tests.faults.trainings import difference
from tests.helpers import run_here, succeed
from tests.intervals.test_training import few_images, run_of
from tests.test_pictures import write_pictures
from tests.test_training import DATA, RECIPE, train

AVERAGED = replace(RECIPE, end_epoch=2, average=0.9, warmup=0.3, ablation_per="sample")
"""Four steps in each of three epochs, then as many test batches; both are augmented and ablated at random."""


@pytest.fixture(autouse=True)
def no_echo(monkeypatch):
    """What one test sends must not make the next one's signal an echo."""
    monkeypatch.setattr(stopping._Clock, "last", float("-inf"))


class Sending(OneCopy):
    """Sends this process signals in the middle of a step, or of a test batch, both counted from 1."""

    def __init__(self, *numbers, step=0, test=0):
        super().__init__(Band(8, 8, 3), "sample")
        self.numbers, self.step, self.test = numbers, step, test

    def loss(self, *arguments):
        self.step -= 1
        return self._sent(self.step, super().loss(*arguments))

    def right(self, *arguments):
        self.test -= 1
        return self._sent(self.test, super().right(*arguments))

    def _sent(self, left, result):
        for number in self.numbers if left == 0 else ():
            os.kill(os.getpid(), number)
        return result


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def averaged(path, *, objective=None, save_every=0.0):
    """Train by the recipe `AVERAGED`; returns all that comes of it, but for seconds."""
    objective = objective or Sending()
    loop.train(network(), objective, DATA, DATA, AVERAGED, path, save_every=save_every)
    return written(path, path.with_suffix(".jsonl"))


def written(path, log):
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return checkpoint.read("resume", path), [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return averaged(tmp_path_factory.mktemp("whole") / "net.pth")


@pytest.mark.parametrize(("number", "when", "place"), [
    (signal.SIGTERM, {"step": 1}, "epoch 0 after step 1 of 4"),
    (signal.SIGINT, {"step": 7}, "epoch 1 after step 3 of 4"),
    (signal.SIGTERM, {"step": 8}, "epoch 1 after step 4 of 4"),
    (signal.SIGINT, {"test": 10}, "epoch 2 after step 4 of 4"),
    (signal.SIGHUP, {"step": 2}, "epoch 0 after step 2 of 4"),
    (signal.SIGUSR1, {"step": 6}, "epoch 1 after step 2 of 4"),
    (signal.SIGUSR2, {"test": 2}, "epoch 0 after step 4 of 4"),
])  # fmt: skip
def test_a_signal_ends_training_after_the_step_and_the_same_call_goes_on(tmp_path, capsys, whole, number, when, place):
    path = tmp_path / "net.pth"
    with pytest.raises(stopping.Stopped, match=f"the same command continues in {place}") as stopped:
        averaged(path, objective=Sending(number, **when))
    assert stopped.value.number == number and not path.exists()
    assert difference(averaged(path), whole) == ""
    epoch, _, rest = place.removeprefix("epoch ").partition(" ")
    assert f"continuing with epoch {epoch} of 2 {rest} from {path}.partial\n" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.jsonl", "net.pth"]


@pytest.mark.parametrize("name", ["mnist_robtrain_p22_guide10", "mnist_robtrain_p22_rand5"])
def test_interval_training_goes_on_too(tmp_path, capsys, name):
    """Three steps, then three test batches an epoch; all but the first, where ε is 0, look for the worst bounds."""

    def trained(folder, send_at=0):
        run, left, looked_at = run_of(name, "training_params:epochs=2"), iter(range(send_at - 1, -99, -1)), []
        worst = run.attack.worst

        def sending(*arguments):
            looked_at.append(arguments)
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return worst(*arguments)

        run.attack.worst = sending
        interval_training.train(run, few_images(), few_images(), folder, seed=5)
        files = [written(folder / file, folder / "mlp_255.log") for file in ("mlp_255.pth", "mlp_255_best.pth")]
        return files, looked_at[-3:]

    whole, stopped = trained(tmp_path / "whole"), tmp_path / "stopped"
    ends = {1: "epoch 0 after step 2 of 3", 5: "epoch 1 after step 1 of 3", 3: "epoch 1 after step 3 of 3"}
    for send_at, place in ends.items():  # one after the other, of the same run
        stopping._Clock.last = float("-inf")
        with pytest.raises(stopping.Stopped, match=f"the same command continues in {place}"):
            trained(stopped, send_at)
    capsys.readouterr()
    assert difference(trained(stopped), whole) == ""
    partial = stopped / "mlp_255.pth.partial"
    assert capsys.readouterr().out.startswith(f"continuing with epoch 1 of 1 after step 3 of 3 from {partial}\n")
    assert not partial.exists()


def test_echoes_of_a_signal_are_none_and_a_second_one_waits_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "ECHO", 600.0)  # however long the machine takes from one signal to the next
    with pytest.raises(stopping.Stopped, match="continues in epoch 0 after step 2"):
        averaged(tmp_path / "echo.pth", objective=Sending(signal.SIGINT, signal.SIGTERM, signal.SIGINT, step=2))
    monkeypatch.setattr(stopping, "ECHO", 0.0)
    with pytest.raises(stopping.Stopped, match="continues from what was saved last") as stopped:
        averaged(tmp_path / "second.pth", objective=Sending(signal.SIGINT, signal.SIGTERM, step=2))
    assert stopped.value.number == signal.SIGTERM and not (tmp_path / "second.pth.partial").exists()


def test_a_signal_at_the_very_end_leaves_a_finished_run(tmp_path, whole):
    path = tmp_path / "net.pth"
    with (
        mock.patch.object(loop, "print_training", lambda *_: os.kill(os.getpid(), signal.SIGTERM)),
        pytest.raises(stopping.Stopped, match="training was over and is saved"),
    ):
        averaged(path)
    assert difference(written(path, path.with_suffix(".jsonl")), whole) == ""


def test_saving_inside_of_epochs_changes_nothing_and_is_gone_on_from(tmp_path, whole, monkeypatch):
    saved, save = [], checkpoint.save

    def noted(content, path):
        save(content, path)
        saved.append(content.get("position", {}).get("step"))
        if dying and len(saved) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", noted)
    dying = False
    assert difference(averaged(tmp_path / "often" / "net.pth", save_every=1e-9), whole) == ""
    after_steps, while_testing = [1, 2, 3, 4], [4, 4, 4]
    assert saved == [*after_steps, *while_testing, None] * 3
    saved.clear()
    averaged(tmp_path / "never" / "net.pth", save_every=0)
    assert saved == [None] * 3
    saved.clear()
    dying = True
    with pytest.raises(KeyboardInterrupt):
        averaged(tmp_path / "killed" / "net.pth", save_every=1e-9)
    dying = False
    assert difference(averaged(tmp_path / "killed" / "net.pth"), whole) == ""


def test_pictures_that_a_stopped_run_saw_are_not_decoded_again(tmp_path, monkeypatch):
    write_pictures(tmp_path, ("cat", "dog"), 6)
    pictures, decoded = PictureFolder("trainpath", tmp_path, 8), PictureFolder.decoded
    asked = []
    monkeypatch.setattr(PictureFolder, "decoded", lambda self, batches: decoded(self, asked.append(batches) or batches))

    def generator():
        return torch.Generator().manual_seed(3)

    def changed(images, generator):
        return images + torch.rand((), generator=generator)

    random, states, all_batches = generator(), [], []
    for batch in pictures.shuffled_batches(5, random, (changed,)):
        all_batches.append(batch)
        states.append(random.get_state())
    rest = list(pictures.shuffled_batches(5, generator(), (changed,), 2, states[1]))
    assert difference(rest, all_batches[2:]) == "" and len(rest) == 1
    assert [len(batches) for batches in asked] == [3, 1]
    assert list(pictures.shuffled_batches(5, generator(), (changed,), 3, states[2])) == []


def test_signals_to_the_whole_group_do_not_end_the_decoding_of_a_step(tmp_path, workers):
    write_pictures(tmp_path, ("cat", "dog"), 6)
    pictures = PictureFolder("trainpath", tmp_path, 8)
    batches = pictures.decoded(torch.arange(12).repeat(3).split(1))
    others = active_children()
    next(batches)
    for _ in (workers := [child for child in active_children() if child not in others]):
        next(batches)  # each in turn has begun by now
    for number in sorted(set(stopping.ENDING) - {signal.SIGTERM}):
        for worker in workers:
            os.kill(worker.pid, number)
    assert workers and len([next(batches) for _ in range(8)]) == 8
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * len(workers)  # others are an error in the middle of a step


@pytest.mark.parametrize(("change", "said"), [
    (lambda position: position["processes"].append(position["processes"][0]), "^nproc_per_node 1: .* expected 2 as"),
    (lambda position: position.update(device="cuda"), "^device cpu: .* expected cuda as there"),
])  # fmt: skip
def test_a_run_that_stopped_inside_an_epoch_goes_on_with_the_same_processes_only(tmp_path, change, said):
    path, partial = tmp_path / "net.pth", tmp_path / "net.pth.partial"
    with pytest.raises(stopping.Stopped):
        averaged(path, objective=Sending(signal.SIGTERM, step=6))
    state = checkpoint.read("resume", partial)
    change(state["position"])
    checkpoint.save(state, partial)
    with pytest.raises(UsageError, match=said.replace("1: ", r"1: .*net\.pth\.partial stopped inside an epoch,")):
        averaged(path)
    del state["position"]
    checkpoint.save(state, partial)
    assert averaged(path)[0]["epoch"] == 2  # at the end of an epoch, anyone goes on


def test_interval_training_begun_anew_goes_on_where_it_was_stopped(tmp_path, capsys):
    """With --overwrite, over a finished run of another seed, and in its first epoch."""

    def trained(folder, seed, stop=False, **more):
        run = run_of("mnist_robtrain_p22_all", "training_params:epochs=2")
        if stop:
            run.step = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), interval_training.Run.step(run, *a))[1]
        interval_training.train(run, few_images(), few_images(), folder, seed, **more)

    trained(tmp_path, 5)
    with pytest.raises(stopping.Stopped, match="in epoch 0 after step 1 of 3"):
        trained(tmp_path, 6, stop=True, overwrite=True)
    trained(tmp_path, 5)
    assert "is finished" in capsys.readouterr().out
    trained(tmp_path, 6, overwrite=True)
    assert "continuing with epoch 0 of 1 after step 1 of 3" in capsys.readouterr().out
    trained(tmp_path / "other", 6)
    for file in ("mlp_255.pth", "mlp_255_best.pth"):
        one, other = (checkpoint.read("config", folder / file) for folder in (tmp_path, tmp_path / "other"))
        assert difference(one, other) == ""
    trained(tmp_path, 6, overwrite=True)
    assert "continuing" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted"), (signal.SIGUSR1, 138, "terminated")],
)
def test_scripts_say_how_to_go_on(tmp_path, generated_mnist, monkeypatch, capsys, number, code, word):
    options = ["--data", generated_mnist, "--subset", 40, "--batch_size", 10, "--end_epoch", 1]
    small = [*options, "--channels", "4,8", "--blocks", "0,1", "--size_to_train", 2]
    add, seen = steps.Steps.add, []

    def sending(*arguments, **more):
        seen.append(None)
        if len(seen) == 6:
            os.kill(os.getpid(), number)
        add(*arguments, **more)

    monkeypatch.setattr(steps.Steps, "add", sending)
    assert run_here("train_mnist_band_masked.py", *small, folder=tmp_path) == code
    said = capsys.readouterr().err
    what = f"{word}; the same command continues in epoch 1 after step 2 of 4"
    assert said == f"train_mnist_band_masked.py: error: {what}\n"
    (partial,) = (tmp_path / "checkpoints").glob("*.pth.partial")
    assert run_here("train_mnist_band_masked.py", *small, "--lr", 1, "--resume", partial, folder=tmp_path) == 2
    assert "was saved inside an epoch, and only the command that wrote it continues it" in capsys.readouterr().err
    succeed("train_mnist_band_masked.py", *small, folder=tmp_path)
    assert "continuing with epoch 1 of 1 after step 2 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("number", sorted(set(stopping.ENDING) - {signal.SIGINT}))
def test_a_script_that_does_not_train_ends_in_order(tmp_path, monkeypatch, capsys, number):
    def write(file):
        file.write(b"half of it")
        os.kill(os.getpid(), number)
        file.write(b"and the rest")

    monkeypatch.setattr(sys, "argv", ["certify.py"])
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: checkpoint.write_atomically(tmp_path / "numbers.json", write))
    assert ended.value.code == 128 + number and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == "certify.py: error: terminated\n"
    assert signal.getsignal(number) is before


def test_a_script_ends_in_order_though_its_terminal_is_gone(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "stderr", Gone())
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: os.kill(os.getpid(), signal.SIGHUP))
    assert ended.value.code == 128 + signal.SIGHUP


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_the_process_was_started_to_ignore_stays_ignored(number):
    """As `nohup` has it for SIGHUP, and a shell for SIGINT of what it starts in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stopping.after_a_step() as request:
            os.kill(os.getpid(), number)
        assert request.number is None and signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


class Diverging(OneCopy):
    """Its loss is no number in one step, counted from 1."""

    def __init__(self, step):
        super().__init__(Band(8, 8, 3))
        self.left = step

    def loss(self, *arguments):
        loss, right = super().loss(*arguments)
        self.left -= 1
        return loss * (1 if self.left else float("nan")), right


def test_a_loss_that_is_no_number_names_its_step_and_leaves_the_state_before(tmp_path):
    path = tmp_path / "net.pth"
    said = "the loss is not finite in epoch 1 after step 3 of 4: a lower learning rate may help"
    with pytest.raises(FloatingPointError, match=said):
        averaged(path, objective=Diverging(7), save_every=1e-9)
    state = checkpoint.read("resume", tmp_path / "net.pth.partial")
    assert (state["epoch"], state["position"]["step"]) == (0, 2)
    assert all(tensor.isfinite().all() for tensor in state["net"].values())
    assert not path.exists()


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_was(tmp_path):
    """Of one step an epoch, so that no loss tells of it."""
    recipe = replace(RECIPE, batch_size=50, regularization=1e300)
    with pytest.raises(FloatingPointError, match=r"net\.0\.weight is not finite in epoch 0: a lower"):
        train(tmp_path / "net.pth", recipe)
    assert not list(tmp_path.glob("net*"))


def test_interval_training_does_not_save_them_either(tmp_path):
    run = run_of("mnist_robtrain_p22_all", "training_params:batch_size=24")
    run.optimizer.register_step_post_hook(lambda *_: run.network[1].bias.data.fill_(float("inf")))
    with pytest.raises(FloatingPointError, match=r"^state_dict\.1\.bias is not finite in epoch 0: a lower"):
        interval_training.train(run, few_images(), few_images(), tmp_path, seed=5)
    assert not list(tmp_path.glob("*.pth*"))
