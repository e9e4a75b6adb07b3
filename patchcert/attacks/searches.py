"""Where the patch goes at each restart of an attack."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, product

import torch
from torch import Tensor

from patchcert.attacks.ascent import Attack
from patchcert.attacks.targets import leads_by_place
from patchcert.progress import Bar, progress_bar

RANKING_STEPS = 4
"""Steps after which `--locations all` compares places."""


def try_random_places(attack: Attack, restarts: int) -> None:
    """Each restart has the patch at a random place."""
    _restart_at(attack, restarts, attack.random_places)


def try_places(attack: Attack, restarts: int, places: Sequence[int]) -> None:
    """Each restart has the patch at the next of `places`, by turns."""
    turns = cycle(places)
    _restart_at(attack, restarts, lambda: torch.full_like(attack.targets.labels, next(turns)))


def try_weak_places(attack: Attack, restarts: int) -> None:
    """Each restart has the patch at the next weakest place, where the certificate leaves the least lead."""
    targets, patch = attack.targets, attack.threat.patch
    leads = leads_by_place(attack.classifier, patch, targets.labels, targets.outputs)
    places = weakest_first(leads, max(1, patch.height // 2), max(1, patch.width // 2), restarts)
    _restart_at(attack, restarts, iter(places.T).__next__)


def weakest_first(leads: Tensor, rows_apart: int, columns_apart: int, count: int) -> Tensor:
    """(N, count) int64: places of each image by their `leads` (N, rows, columns), the least first.

    Each lies apart from those before, as far as such places are left; else next to them; else it is one of them again.
    If an image has places without a lead, all are such: at the others the patch can change nothing.
    """
    columns = leads.shape[2]
    every = torch.arange(leads[0].numel(), device=leads.device)
    leads = leads.flatten(1).double()
    hopeful = (leads <= 0) | (leads > 0).all(dim=1, keepdim=True)
    used, near, found = torch.zeros_like(hopeful), torch.zeros_like(hopeful), []
    for _ in range(count):
        near = near.where((hopeful & ~near).any(dim=1, keepdim=True), used)
        used = used & (hopeful & ~used).any(dim=1, keepdim=True)
        near = near & (hopeful & ~near).any(dim=1, keepdim=True)
        best = leads.masked_fill(near | ~hopeful, math.inf).argmin(dim=1, keepdim=True)
        close = (every // columns - best // columns).abs() < rows_apart
        near = near | close & ((every % columns - best % columns).abs() < columns_apart)
        used = used.scatter(1, best, True)
        found.append(best)
    return torch.cat(found, dim=1)


def _restart_at(attack: Attack, restarts: int, places: Callable[[], Tensor]) -> None:
    steps, step_size = attack.ascent.steps, attack.ascent.step_size
    with _bar(attack, restarts * (steps + 1)) as bar:
        for _ in range(restarts):
            attack.restart(places(), steps, step_size, bar.update)
            _show_flipped(attack, bar)


def try_all_places(attack: Attack, restarts: int) -> None:
    """Coarse to fine: rank places by a few steps, spend the rest on the best; no more steps than `restarts` have.

    Ranking takes up to half of the steps. If they suffice for every place, every place is ranked; else a grid of
    them, and then the neighbours of each image's best place at half the distance, again and again down to 1.
    Where not even that can be had, ranking ends when one whole restart is left.
    """
    steps, step_size = attack.ascent.steps, attack.ascent.step_size
    few = min(RANKING_STEPS, steps)
    looks = restarts * (steps + 1)  # each restart looks at its start and after every step
    device = attack.targets.labels.device
    grid = torch.arange(len(attack.threat.touched), device=device).view(attack.threat.shape)
    stride = _affordable_stride(grid, looks // 2 // (few + 1))
    ranked = 0
    losses = torch.full((len(attack.targets), grid.numel()), -math.inf, device=device)
    with _bar(attack, looks) as bar:
        for places in _coarse_to_fine(grid, stride, losses):
            after = attack.restart(places, few, max(step_size, 1 / few), bar.update)
            losses.scatter_(1, places[:, None], after[:, None])
            looks, ranked = looks - (few + 1), ranked + 1
            _show_flipped(attack, bar)
            if looks < few + 1 + steps + 1:
                break
        best_first = losses.argsort(dim=1, descending=True)
        for k in range(looks // (steps + 1)):
            attack.restart(best_first[:, k % ranked], steps, step_size, bar.update)
            _show_flipped(attack, bar)


SEARCHES = {"random": try_random_places, "all": try_all_places, "weak": try_weak_places}


def _bar(attack: Attack, looks: int) -> Bar:
    """A bar over as many `looks` at each target; those at targets that flipped count as done."""
    return progress_bar(looks * len(attack.targets), "attacking", "look")


def _show_flipped(attack: Attack, bar: Bar) -> None:
    bar.set_postfix_str(f"{int(attack.findings.flipped.sum())} of {len(attack.targets)} images flipped")


def _affordable_stride(grid: Tensor, most: int) -> int:
    """The smallest power of two for which `_coarse_to_fine` has at most `most` places, or that leaves a grid of one."""
    exponent = 0
    while len(_every(grid, 2**exponent)) + 8 * exponent > most and len(_every(grid, 2**exponent)) > 1:
        exponent += 1
    return 2**exponent


def _every(grid: Tensor, stride: int) -> Tensor:
    """(count,): every `stride`-th of the places `grid` (rows, columns) both ways, the first half a stride inside."""
    rows, columns = (slice(min(stride, size) // 2, None, stride) for size in grid.shape)
    return grid[rows, columns].flatten()


def _coarse_to_fine(grid: Tensor, stride: int, losses: Tensor) -> Iterator[Tensor]:
    """Yield places (N,), one per image: first a coarse grid, then around the best of `losses` (N, L) so far."""
    for place in _every(grid, stride):
        yield place.expand(len(losses))
    rows, columns = grid.shape
    while stride > 1:
        stride //= 2
        best = losses.argmax(dim=1)
        for down, right in product((-stride, 0, stride), repeat=2):
            if down or right:
                row, column = best // columns + down, best % columns + right
                yield grid[row.clamp(0, rows - 1), column.clamp(0, columns - 1)]
