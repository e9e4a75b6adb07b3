"""Attacks on classifiers that say a class and nothing else: contents of the patch are guessed, not climbed to."""

from collections.abc import Callable

import torch
from torch import Tensor

from patchcert.attacks.threats import PatchThreat
from patchcert.progress import progress_bar

Decide = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to classes (N,) int64."""


def guess(
    decide: Decide, images: Tensor, labels: Tensor, threat: PatchThreat, tries: Tensor, steps: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Attack rightly classified `images` (N, C, H, W) by random contents of the patch.

    A content is noise, one colour, or what another of the images shows in the same place, by turns.

    Args:
        tries: (restarts, N) int64, the places of the patch.
        steps: contents for each restart.

    Returns:
        (N,) bool, which images flipped; the attacked images, the clean ones where none was found; (N,) int64, the
        places, −1 likewise.
    """
    generator, attacked = torch.Generator().manual_seed(seed), images.clone()
    flipped, found = torch.zeros_like(labels, dtype=torch.bool), torch.full_like(labels, -1)
    with progress_bar(len(tries) * steps, "guessing", "look") as bar:
        for places in tries:
            for step in range(steps):
                bar.update()
                standing = (~flipped).nonzero().flatten()
                if not len(standing):
                    continue
                tried = _with_content(images, standing, places[standing], threat, step, generator)
                fallen = decide(tried).to(labels.device) != labels[standing]
                numbers = standing[fallen]
                flipped[numbers], found[numbers], attacked[numbers] = True, places[numbers], tried[fallen]
    return flipped, attacked, found


def _with_content(
    images: Tensor, chosen: Tensor, places: Tensor, threat: PatchThreat, step: int, generator: torch.Generator
) -> Tensor:
    """The images `chosen` (R,) with some content in the patch at `places` (R,)."""
    shown = images[chosen]
    if step % 3 == 0:
        content = torch.rand(shown.shape, generator=generator).to(images)
    elif step % 3 == 1:
        content = torch.rand((*shown.shape[:2], 1, 1), generator=generator).round(decimals=1).to(images)
    else:
        content = images[torch.randint(len(images), (len(chosen),), generator=generator).to(chosen.device)]
    return torch.where(threat.inside(shown, places), content, shown)
