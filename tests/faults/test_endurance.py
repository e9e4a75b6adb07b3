"""Some hundred steps hold as much memory and as many open files and threads as the first; hours: endurance.py."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.endurance import GROWTH, growth, usage
from patchcert.ablations.ablation import Band
from patchcert.data.dataset import Dataset
from patchcert.data.folders import PictureFolder
from patchcert.intervals import training as interval_training
from patchcert.training import loop
from patchcert.training.objectives import OneCopy
from tests.helpers import wait_until
from tests.intervals.test_training import few_images, run_of
from tests.test_pictures import write_pictures
from tests.test_training import RECIPE


class Watching(OneCopy):
    """Notes what the process holds whenever the network is tested."""

    def __init__(self):
        super().__init__(Band(8, 8, 3))
        self.curve = []

    def right(self, *arguments):
        self.curve.append(usage())
        return super().right(*arguments)


def train(data, epochs, path, channels):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(128 * channels, 256), nn.ReLU(), nn.Linear(256, 10))
    watching = Watching()
    recipe = replace(RECIPE, end_epoch=epochs - 1, batch_size=10)
    loop.train(network, watching, data, data.take(slice(4)), recipe, path, save_every=1e-9)
    return watching.curve


def test_smoothing_holds_what_it_held(tmp_path):
    data = Dataset(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40) % 10, torch.arange(40))
    curve = train(data, 40, tmp_path / "net.pth", 1)
    assert len(curve) == 40  # of four steps, all of them saved
    assert all(more <= GROWTH[what] for what, more in growth(curve).items()), growth(curve)


def test_worker_processes_leave_nothing_open(tmp_path, workers):
    """Threads of queues end a while after their processes."""
    write_pictures(tmp_path / "pictures", ("cat", "dog"), 10)
    pictures = PictureFolder("trainpath", tmp_path / "pictures", 8)
    train(pictures, 1, tmp_path / "first.pth", 3)
    held = usage()
    train(pictures, 5, tmp_path / "second.pth", 3)
    wait_until(lambda: all(usage()[what] <= held[what] for what in ("files", "threads")), patience=120)


def test_interval_training_holds_what_it_held(tmp_path, monkeypatch):
    curve, errors = [], interval_training.Run.errors
    monkeypatch.setattr(interval_training.Run, "errors", lambda *given: (curve.append(usage()), errors(*given))[1])
    run = run_of("mnist_robtrain_p22_rand5", "training_params:epochs=12")
    interval_training.train(run, few_images(), few_images(), tmp_path, seed=5, save_every=1e-9)
    assert len(curve) == 12
    assert all(more <= GROWTH[what] for what, more in growth(curve).items()), growth(curve)


@pytest.mark.parametrize("what", GROWTH)
def test_what_grows_is_noticed(what):
    curve = [{"megabytes": 100.0, "files": 5, "threads": 3} | {what: 10 * step} for step in range(40)]
    assert [name for name, more in growth(curve).items() if more > GROWTH[name]] == [what]
