"""One process or many: what torchrun started, which share of the work is whose, and how shares come together.

Every function does the right thing in a single process too, where the share is all and nothing is exchanged.
"""

import os
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from patchcert import heartbeats
from patchcert.errors import UsageError
from patchcert.heartbeats import Heartbeats

AHEAD = timedelta(days=1)
"""By how much one process may finish its share before another one does."""

Value = TypeVar("Value")

_heartbeats: list[Heartbeats] = []


def start(device: torch.device) -> None:
    """Join the processes that torchrun started, if it did, each with a GPU of its own where `device` is one.

    From then on one that dies or hangs ends all.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        return
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise UsageError("nproc_per_node", os.environ["LOCAL_WORLD_SIZE"], f"expected at most {gpus}, one per GPU")
        torch.cuda.set_device(local)
    if int(os.environ["WORLD_SIZE"]) > 1:
        _heartbeats.append(Heartbeats(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])))
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=AHEAD)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        right = "another program uses this port here, perhaps another run; expected a free one"
        raise UsageError("master_port", os.environ["MASTER_PORT"], right) from error


def stop() -> None:
    """Leave the other processes, if there are any, once all are done."""
    if dist.is_initialized():
        meet()
        while _heartbeats:
            _heartbeats.pop().stop()
        dist.destroy_process_group()


def meet() -> None:
    """Wait until all processes are here."""
    if world() > 1:
        int(total(torch.zeros(1, device="cuda" if dist.get_backend() == "nccl" else "cpu")))


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


def let_first_speak() -> None:
    """Before an error: wait, unless first, so that torchrun stops the others from saying what the first one said."""
    if is_spoken_for():
        time.sleep(heartbeats.FIRST_SPEAKS)


def is_spoken_for() -> bool:
    """Whether another process says what all of them would say, before they have joined each other, too."""
    return os.environ.get("RANK", "0") != "0"


def let_lost_be_named(error: Exception) -> None:
    """Before an error in what processes exchange: where one is gone, heartbeats end this one and say which."""
    if _heartbeats and (isinstance(error, dist.DistError) or "gloo" in str(error)):
        time.sleep((heartbeats.PATIENCE + 10) * heartbeats.BEAT)


def cores() -> int:
    """CPU cores for each of the processes on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def require_images(count: int) -> None:
    """Raise UsageError unless every process gets at least one of `count` images."""
    if count < world():
        raise UsageError("nproc_per_node", world(), f"more processes than images: expected at most {count} in all")


def share(before: int = 0) -> slice:
    """This process's share of anything in order: every world-th element from its rank on.

    Args:
        before: so many elements came before these.
    """
    return slice((rank() - before) % world(), None, world())


def equal_share(batch: Tensor) -> Tensor:
    """This process's share of `batch` (B, …), of ⌈B / world⌉ elements for each: where B is short, some come twice."""
    size = -(-len(batch) // world())
    places = rank() + world() * torch.arange(size, device=batch.device)
    return batch[places % len(batch)]


def merge(part: Tensor, count: int) -> Tensor:
    """The (count, …) tensor of which every process holds its `share()` as `part`."""
    if world() == 1:
        return part
    longest = -(-count // world())
    padded = torch.cat([part, part.new_zeros(longest - len(part), *part.shape[1:])])
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.stack(parts, dim=1).flatten(0, 1)[:count]


def total(part: Tensor) -> Tensor:
    """The sum of all processes' `part`."""
    if world() > 1:
        part = part.clone()
        dist.all_reduce(part)
    return part


def largest(numbers: Sequence[int], device: torch.device) -> list[int]:
    """Each of `numbers` from the process that has the largest one there."""
    if world() == 1:
        return [int(number) for number in numbers]
    found = torch.tensor(numbers, dtype=torch.int64, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.tolist()


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if world() > 1:
        dist.barrier()


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite each of `tensors` with what the first process has."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def from_first(value: Value) -> Value:
    """The first process's `value`, any object that pickle knows."""
    box = [value]
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def to_first(value: object) -> list:
    """All processes' `value`, any object that pickle knows, in order of their numbers; only the first gets them."""
    if world() == 1:
        return [value]
    box = [None] * world() if is_first() else None
    dist.gather_object(value, box)
    return box or []


def parallel(network: nn.Module) -> nn.Module:
    """`network` with gradients averaged over all processes, starting from the first one's weights."""
    return nn.parallel.DistributedDataParallel(network) if world() > 1 else network
