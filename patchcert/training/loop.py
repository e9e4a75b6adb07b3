"""The loop that trains base classifiers."""

import copy
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import nn

from patchcert import checkpoint, distributed, stopping
from patchcert.data.folders import Images
from patchcert.epochs import (
    earlier_run,
    epoch_generator,
    keep_log_until,
    record_epoch,
    save_inside,
    say_if_another_program,
)
from patchcert.errors import UsageError
from patchcert.files import rename
from patchcert.messages import print_epoch, print_finished, print_going_on, print_training
from patchcert.steps import SAVE_EVERY, Steps, position_in
from patchcert.training.objectives import Objective
from patchcert.training.optimizers import Optimizers
from patchcert.training.recipes import Recipe


def train(
    network: nn.Module,
    objective: Objective,
    train_set: Images,
    test_set: Images,
    recipe: Recipe,
    path: Path,
    resumed: dict | None = None,
    compiled: bool = False,
    start: str = "no checkpoint",
    about: dict | None = None,
    overwrite: bool = False,
    origin: Path | None = None,
    save_every: float = SAVE_EVERY,
    measured_on: str = "test",
) -> dict:
    """Train `network`, all arguments on one device, and write the checkpoint `path` after the last epoch.

    After each epoch, and every `save_every` minutes inside one, `path`.partial holds the run so far; the same call
    takes it up again and comes to the same result. Once `path` is written there is nothing left to do. A log of one
    JSON object per epoch comes beside the checkpoint; until then it is .partial, too.
    With several processes each trains on its share of every batch, evaluates its share of `test_set`, and the
    first one writes.

    Args:
        objective: what is lowered, on the device, too.
        resumed: content of the checkpoint whose weights `network` has; training goes on after its epoch.
        compiled: run the network through torch.compile.
        start: which weights `network` begins with; a run from others is another run.
        about: what the checkpoint says of itself.
        overwrite: train anew where there is a finished run, or an interrupted one that is another.
        origin: the file of which `resumed` is the content.
        save_every: minutes after which the run is saved inside of an epoch; 0 saves after epochs only.
        measured_on: what `test_set` is: `test`, or `held_out` of the training images.

    Raises:
        UsageError: there is a run of another recipe, on other data or from other weights, or what a run is to go on
            from is broken, or stopped inside an epoch with another number of processes.
        FloatingPointError: training diverged.
        Stopped: a signal asked for the end; the run is saved.

    Returns:
        The checkpoint: `net` (the averaged weights, if the recipe averages), `acc` (what the objective
        measures on test images, %), `epoch`, `trained` (the weights that training goes on with), `optimizer`,
        `settings` and `about`.
    """
    measured = objective.measured.replace("test", measured_on.replace("_", " "))
    known = {"subset": len(train_set), "data": train_set.fingerprint(), "resume": start, "file": path.name}
    settings, files = recipe.settings() | objective.settings(network) | known, _Files.of(path)
    earlier, source = distributed.from_first(earlier_run(path, files.partial, settings, overwrite))
    if source == path:
        if distributed.is_first():
            print_finished(path, earlier, measured)
        return earlier
    test_set.fingerprint()  # names a damaged image now, and not after the first epoch
    position = position_in(earlier, source, train_set.labels.device) if earlier else None
    state = earlier or distributed.from_first(resumed or {"epoch": -1})
    run = _Run(network, objective, recipe, settings, about)
    run.load(state, source or origin or path)
    _require_no_lonely_image(network, objective, train_set, recipe)
    first, last = state["epoch"] + 1, recipe.end_epoch
    if distributed.is_first():
        files.begin(first)
        if (first > 0 or position) and first <= last:
            print_going_on(first, last, source, position)
            if earlier:
                say_if_another_program(earlier, source)
    model = distributed.parallel(torch.compile(network) if compiled else network)

    def save(position: dict) -> None:
        save_inside(run.state_after(steps.epoch - 1) | {"position": position}, steps, files.partial)

    with stopping.after_a_step() as request:
        steps = Steps(recipe.batch_size, recipe.seed, train_set.labels.device, save, save_every, request)
        for epoch in range(first, last + 1):
            steps.begin(epoch, last, len(train_set), position if epoch == first else None)
            row, state = run.epoch(model, train_set, test_set, steps, measured_on)
            if distributed.is_first():
                record_epoch(row, files.partial_log, state, [files.partial])
                print_epoch(row, last, measured)
        if distributed.is_first():
            files.finish()
            print_training(path, state, measured)
    return state


class _Files(NamedTuple):
    """Where a run is kept: a checkpoint and a log, which have other names until the run is finished."""

    path: Path
    log: Path
    partial: Path
    partial_log: Path

    @classmethod
    def of(cls, path: Path) -> Self:
        finished = path, path.with_suffix(".jsonl")
        return cls(*finished, *(file.with_name(file.name + ".partial") for file in finished))

    def begin(self, epoch: int) -> None:
        """Make room for a run that `epoch` is the next of."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        keep_log_until(self.partial_log, epoch - 1)

    def finish(self) -> None:
        """Give checkpoint and log their names. The log may have its own from a call that ended in between."""
        if self.partial_log.exists():
            rename(self.partial_log, self.log)
        rename(self.partial, self.path)


def _require_no_lonely_image(network: nn.Module, objective: Objective, train_set: Images, recipe: Recipe) -> None:
    """Raise UsageError if a step has one image in each process, and the network, as some that normalise, takes no such.

    A copy of it is asked, which changes nothing that is random in the run.
    """
    count, labels = len(train_set), train_set.labels[:1]
    steps = {"every step": min(recipe.batch_size, count), "the last step of an epoch": count % recipe.batch_size}
    lonely = next((step for step, images in steps.items() if 0 < images <= distributed.world()), None)
    if lonely is None:
        return
    asked, image = copy.deepcopy(network).train(), torch.zeros(1, *train_set.image_shape, device=labels.device)
    generator = torch.Generator(labels.device).manual_seed(recipe.seed)
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng([labels.device] if labels.is_cuda else []),
            torch.autocast(labels.device.type, torch.bfloat16, enabled=recipe.amp),
        ):
            objective.loss(asked, image, labels, generator)
    except ValueError as error:
        alone = f"of {count} images {lonely} has one" + (" in each process" if distributed.world() > 1 else "")
        right = f"{alone}, and this network cannot train on a single one: {error}"
        raise UsageError("batch_size", recipe.batch_size, right) from error


class _Run:
    """What changes in training, and what checkpoints keep of it.

    Attributes:
        network, averaged: that which steps change, and the one that is evaluated; the same where nothing is averaged.
    """

    def __init__(self, network: nn.Module, objective: Objective, recipe: Recipe, settings: dict, about: dict | None):
        self.network, self.objective, self.recipe = network, objective, recipe
        self.settings, self.about = settings, about
        self.averaged = copy.deepcopy(network) if recipe.average else network
        self.optimizers = Optimizers(network, recipe)

    def load(self, state: dict, origin: Path) -> None:
        """Take from the `state` of an earlier run, in the file `origin`, what it has of weights and momentum."""
        if "trained" in state:
            checkpoint.fill("resume", origin, self.network, state, "trained")
            checkpoint.fill("resume", origin, self.averaged, state)
        self.optimizers.load(state, origin)

    def epoch(
        self, model: nn.Module, train_set: Images, test_set: Images, steps: Steps, measured_on: str
    ) -> tuple[dict, dict]:
        """Train for what is left of an epoch by `model`, the network as this process runs it.

        Returns:
            what the log says of the epoch, and the checkpoint after it.
        """
        self.objective.begin(steps.epoch)
        row = train_epoch(model, self.averaged, self.optimizers, self.objective, train_set, self.recipe, steps)
        distributed.copy_from_first(self.averaged.buffers())
        accuracy = measure(self.averaged, self.objective, test_set, self.recipe, steps)
        row[f"{measured_on}_accuracy"] = accuracy
        return row, self.state_after(steps.epoch) | {"acc": 100 * accuracy}

    def state_after(self, epoch: int) -> dict:
        return {
            "net": self.averaged.state_dict(),
            "epoch": epoch,
            "trained": self.network.state_dict(),
            **self.optimizers.states(),
            "settings": self.settings,
        } | ({"about": self.about} if self.about else {})


def train_epoch(
    model: nn.Module,
    averaged: nn.Module,
    optimizers: Optimizers,
    objective: Objective,
    train_set: Images,
    recipe: Recipe,
    steps: Steps,
) -> dict:
    """What is left of a pass over `train_set`; returns its epoch, mean loss, accuracy, learning rate and seconds.

    Accuracy, a fraction, is what `objective` measures.

    Args:
        averaged: holds the weight average of `model`, if the recipe wants one.
    """
    model.train()
    for images, labels in steps.batches(train_set, recipe.augmentations):
        optimizers.set_share_of_lr(recipe.share_of_lr_at(steps.epoch + steps.done / steps.total))
        with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.amp):
            loss, right = objective.loss(model, images, labels, steps.generator)
        model.zero_grad()
        loss.backward()
        optimizers.step()
        if recipe.average:
            update_average(averaged, model, recipe.average_decay(steps.epoch * steps.total + steps.done))
        steps.add(loss, right.sum(), len(labels))
    # the last step's, also where the run goes on behind it
    lr = optimizers.set_share_of_lr(recipe.share_of_lr_at(steps.epoch + (steps.total - 1) / steps.total))
    loss, accuracy = steps.means()
    return {
        "epoch": steps.epoch,
        "loss": loss,
        "train_accuracy": accuracy,
        "lr": lr,
        "seconds": steps.seconds(),
    }


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move weights and statistics of `averaged` towards those of `network`: a ← decay · a + (1 − decay) · w."""
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)
    for old, new in zip(averaged.buffers(), network.buffers(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


@torch.inference_mode()
def measure(network: nn.Module, objective: Objective, dataset: Images, recipe: Recipe, steps: Steps) -> float:
    """What `objective` measures, averaged over the images of `dataset`."""
    network.eval()
    device = dataset.labels.device
    generator = epoch_generator(recipe.seed, steps.epoch, device)
    right = torch.zeros((), dtype=torch.float64, device=device)
    for images, labels in steps.test_batches(dataset):
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.amp):
            right += objective.right(network, images, labels, generator).sum()
    return distributed.total(right).item() / len(dataset)
