"""Processes watch each other: one that dies or hangs ends the run, soon and with its number.

Nothing else would: processes wait a day for each other, because one may finish its share of the work hours before
another. So each has two threads of its own. One counts up in the store that brought the processes together, and reads
the others' counts. The other one looks whether they grow; where even its own count stands still, it is the store that
is gone. Time is measured in looks, so that processes which are stopped and continued together still trust each other.
"""

import os
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

BEAT = 1.0
"""Seconds between two counts, and two looks."""

PATIENCE = 20
"""Looks at a count that stands still. torchrun needs up to 30 s more to end a process that hangs."""

COMING = 600
"""Looks until a process is there at all: from a slow disk, torch takes minutes to load."""

FIRST_SPEAKS = 20.0
"""Seconds that the others wait before they say what the first one says, and end, too: torchrun ends them before, where
one has ended, which on a busy machine it takes seconds to see."""


class Heartbeats:
    """This process's; they begin at once.

    Args:
        rank, world: its number, and how many there are.
    """

    def __init__(self, rank: int, world: int):
        self.rank, self.world = rank, world
        self._counts, self._done = [0] * world, threading.Event()
        for work in (self._beat, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """From now on nobody is missed."""
        self._done.set()

    def _beat(self) -> None:
        keys = [f"patchcert/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}/{number}" for number in range(self.world)]
        try:
            where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(*where, is_master=False, timeout=timedelta(seconds=COMING * BEAT))
            while not self._done.is_set():
                self._counts = [store.add(key, int(number == self.rank)) for number, key in enumerate(keys)]
                self._done.wait(BEAT)
        except RuntimeError:
            return  # of the store: counts stand still now

    def _watch(self) -> None:
        before, silent = self._counts, [0] * self.world
        while not self._done.wait(BEAT):
            counts = self._counts
            silent = [0 if counts[n] > before[n] else silent[n] + 1 for n in range(self.world)]
            lost = [n for n in range(self.world) if silent[n] > (PATIENCE if counts[n] else COMING)]
            if lost:
                return self._give_up(lost, came=counts[lost[0]] > 0)
            before = counts

    def _give_up(self, lost: list[int], came: bool) -> None:
        """End this process; the first one that is left says why."""
        seconds = round((PATIENCE if came else COMING) * BEAT)
        what = f"process {', '.join(map(str, lost))} of {self.world}"
        if self.rank in lost:
            agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            what = "torchrun's own process" if agent else f"process 0 of {self.world}"
        elif self.rank > min(set(range(self.world)) - set(lost)):
            time.sleep(FIRST_SPEAKS)
        why = "was killed, hangs, or is on a machine that is gone" if came else "has not come"
        end(f"{what} gave no sign of life for {seconds} s: it {why}")


def end(reason: str) -> None:
    """End this process with a line on stderr, whatever its main thread waits for."""
    os.write(2, f"{Path(sys.argv[0]).name}: error: {reason}\n".encode())
    os._exit(1)
