"""How benchmarks compare two ways to do the same thing."""

import time
from collections.abc import Callable
from statistics import median


def compare(ours: Callable[[], object], plain: Callable[[], object], repetitions: int) -> dict:
    """Median seconds of both, run in turn after one round of warming up, and how many times as fast ours is."""
    seconds = {ours: [], plain: []}
    for _ in range(repetitions + 1):
        for task in (ours, plain):
            started = time.perf_counter()
            task()
            seconds[task].append(time.perf_counter() - started)
    mine, theirs = (median(seconds[task][1:]) for task in (ours, plain))
    return {"seconds": mine, "plain_seconds": theirs, "ratio": theirs / mine}
