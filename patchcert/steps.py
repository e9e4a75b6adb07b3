"""The steps of an epoch: their randomness and their sums, and, between two of them, when a run is saved or stopped."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from patchcert import allocator, checkpoint, distributed
from patchcert.epochs import alternating, epoch_generator
from patchcert.errors import UsageError
from patchcert.progress import STEPS_BETWEEN_READINGS, progress_bar
from patchcert.stopping import Request, Stopped

SAVE_EVERY = 10.0
"""Minutes after which a run is saved inside an epoch."""


class Images(Protocol):
    """What `data` holds: images with labels, in batches."""

    def __len__(self) -> int: ...

    def take(self, chosen: slice) -> "Images": ...

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]: ...

    def shuffled_batches(
        self,
        batch_size: int,
        generator: torch.Generator,
        augmentations: tuple,
        done: int,
        reached: Tensor | None,
        turn: Tensor | None,
    ) -> Iterator[tuple[Tensor, Tensor]]: ...


class Steps:
    """Where a run is in its epoch; all its processes call the methods alike.

    On a CPU the run is looked at after every step, elsewhere after some, for reading the loss waits for the device.

    Args:
        seed: with an epoch's index, fixes all of that epoch's randomness.
        save: called in the first process with a position, in types that a checkpoint can hold.
        save_every: minutes after which `save` is called; 0 for never, unless a signal ends the run.

    Attributes:
        epoch: the index of the one that began last.
        done: how many of its `total` steps are over.
        generator: all randomness of the epoch in this process; `reached` is its state after the steps done.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        device: torch.device,
        save: Callable[[dict], None] = lambda position: None,
        save_every: float = 0.0,
        request: Request | None = None,
    ):
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.save, self.save_every, self.request = save, save_every, request or Request()

    def begin(self, epoch: int, last: int, images: int, position: dict | None = None) -> None:
        """An epoch up to `last` on so many `images`, from `position` on if a run stopped in it before."""
        self.epoch, self.name, self.images = epoch, f"epoch {epoch}/{last}", images
        self.total = math.ceil(images / self.batch_size)
        self.generator = epoch_generator(self.seed, epoch, self.device)
        self.done, seconds = (position["step"], position["seconds"]) if position else (0, 0.0)
        own = position["processes"][distributed.rank()] if position else {}
        self.reached, self.seen = own.get("generator"), own.get("seen", 0)
        self.sums = own.get("sums", torch.zeros(2, dtype=torch.float64)).to(self.device)  # of losses, of what is right
        self.started, self.saved = time.perf_counter() - seconds, time.monotonic()

    def batches(self, dataset: Images, augmentations: tuple) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the training batches that are left."""
        turn = alternating(self.seed, self.epoch, len(dataset), self.device)
        left = dataset.shuffled_batches(self.batch_size, self.generator, augmentations, self.done, self.reached, turn)
        done = min(self.done * self.batch_size, self.images)
        with progress_bar(self.images, self.name, done=done) as self.bar:
            yield from left

    def add(self, loss: Tensor, right: Tensor, count: int, **shown: str) -> None:
        """Note a step on `count` images of this process, then save the run or stop it where it is time to.

        Args:
            loss: their mean.
            right: how many are as they should be.
            shown: beside the bar.

        Raises:
            FloatingPointError: training has diverged.
            Stopped: a signal asked for it; the run is saved.
        """
        self.done, self.seen, self.reached = self.done + 1, self.seen + count, self.generator.get_state()
        self.sums += torch.stack([loss.detach().double() * count, right.detach().double()])
        self.bar.update(count * distributed.world())
        if (self.done - 1) % STEPS_BETWEEN_READINGS == 0:
            loss_sum, right_sum = self.sums.tolist()
            self.bar.set_postfix(**shown, loss=f"{loss_sum / self.seen:.4f}", right=f"{right_sum / self.seen:.2%}")
        self._look(self.done - 1, last=self.done == self.total)

    def test_batches(self, dataset: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of `dataset` in batches; a signal stops the run in between, all steps being over."""
        shared = len(dataset) // distributed.world() // self.batch_size  # batches that every process has
        with progress_bar(len(dataset), f"{self.name}, testing") as bar:
            for number, (images, labels) in enumerate(dataset.take(distributed.share()).batches(self.batch_size)):
                yield images, labels
                bar.update(len(labels) * distributed.world())
                if number < shared:
                    self._look(number)

    def means(self) -> tuple[float, float]:
        """The mean loss and the share of what is right of the steps done, over all processes."""
        loss, right = (distributed.total(self.sums) / (self.seen * distributed.world())).tolist()
        return loss, right

    def seconds(self) -> float:
        """What the epoch took so far, without the time that the run lay still."""
        return time.perf_counter() - self.started

    def __str__(self) -> str:
        return f"epoch {self.epoch} after step {self.done} of {self.total}"

    def _look(self, number: int, last: bool = False) -> None:
        """After the step or batch `number`: whether the loss is one, and whether to save or to stop."""
        allocator.return_gaps()
        alone = distributed.world() == 1 and self.request.number is not None  # then nobody need be waited for
        if not (self.device.type == "cpu" or number % STEPS_BETWEEN_READINGS == 0 or last or alone):
            return
        due = 0 < 60 * self.save_every <= time.monotonic() - self.saved
        broken = not math.isfinite(self.sums[0].item())
        broken, due, signal = distributed.largest([broken, due, self.request.number or 0], self.device)
        if broken:
            raise FloatingPointError(f"the loss is not finite in {self}: a lower learning rate may help")
        if due or signal:
            position = self._position()
            if distributed.is_first():
                self.save(position)
            self.saved = time.monotonic()
        if signal:
            distributed.wait_for_all()  # until it is saved: torchrun ends all when one has ended
            raise Stopped(signal, f"the same command continues in {self}")

    def _position(self) -> dict:
        own = {"generator": self.reached, "sums": self.sums.cpu(), "seen": self.seen}
        return {
            "step": self.done,
            "of": self.total,
            "seconds": self.seconds(),
            "device": self.device.type,
            "processes": distributed.to_first(own),
        }


def position_in(state: dict, source: Path | None, device: torch.device) -> dict | None:
    """Where in an epoch the run stopped that left `state` in the file `source`; None if at the end of one.

    Raises:
        UsageError: it was of another number of processes, whose shares and randomness it holds, or on another device.
    """
    position = state.get("position")
    if position:
        here = {"nproc_per_node": distributed.world(), "device": device.type}
        there = {"nproc_per_node": len(position["processes"]), "device": position["device"]}
        other = checkpoint.other_setting(there, here)
        if other:
            right = f"{source} stopped inside an epoch, expected {there[other]} as there"
            raise UsageError(other, here[other], right)
    return position
