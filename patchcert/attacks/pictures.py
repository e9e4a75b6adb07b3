"""Images of attacks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchcert import checkpoint
from patchcert.attacks.ascent import Attack, Findings
from patchcert.attacks.targets import Targets
from patchcert.attacks.threats import Threat
from patchcert.files import what_fits, write_atomically

ROWS = 8
"""Images in one file."""


@dataclass(frozen=True)
class Pictured:
    """What images of an attack are drawn of; an `Attack` has it, too."""

    targets: Targets
    findings: Findings
    threat: Threat


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1], any shape, rounded to the 256 values that a PNG file holds, uint8."""
    return (images * 255).round().to(torch.uint8)


def save_png(image: Tensor, path: Path) -> None:
    """Write one image (C, H, W) uint8, C 1 or 3, pixel for pixel and without loss."""
    from PIL import Image

    write_atomically(path, lambda file: Image.fromarray(_pixels(image)).save(file, "png"))


def save_flipped(run: Attack | Pictured, folder: Path) -> None:
    """Write what an attack flipped: image_I_clean.png and image_I_attacked.png, pixel for pixel, and grids of them.

    I is the image's place in the data set. Rounding to a PNG's 256 values moves a pixel by up to 1/510.

    Raises:
        WriteError: at the end; some cannot be written.
    """
    flipped = run.findings.flipped.nonzero().squeeze(1)
    clean, attacked = to_bytes(run.targets.images), to_bytes(run.findings.images)
    with what_fits() as attempt:
        for number in flipped.tolist():
            name = f"image_{int(run.targets.indices[number]):05d}"
            attempt(save_png, clean[number], folder / f"{name}_clean.png")
            attempt(save_png, attacked[number], folder / f"{name}_attacked.png")
        for numbers in flipped.split(ROWS) if len(flipped) else ():
            attempt(save_grid, run, numbers, folder / f"grid_from_{int(run.targets.indices[numbers[0]]):05d}.png")


def save_counterexample(run: Attack | Pictured, number: int, folder: Path) -> Path:
    """Write what breaks a certificate: a .pt file of clean and attacked image, patch and ballots, and an image file."""
    found, targets = run.findings, run.targets
    path = folder / f"counterexample_{int(targets.indices[number]):05d}.pt"
    content = {
        "index": int(targets.indices[number]),
        "label": int(targets.labels[number]),
        "clean": targets.images[number].cpu(),
        "attacked": found.images[number].cpu(),
        "patch": run.threat.rectangle(int(found.place[number])),  # top, left, height, width
    }
    if isinstance(run, Attack):
        content |= {"totals_before": run.ballots[number].sum(dim=0).cpu(), "totals_after": found.totals[number].cpu()}
    with what_fits() as attempt:
        attempt(checkpoint.save, content, path)
        attempt(save_grid, run, torch.tensor([number], device=targets.labels.device), path.with_suffix(".png"))
    return path


def save_grid(run: Attack | Pictured, numbers: Tensor, path: Path) -> None:
    """One image with a row for each of the targets `numbers`: clean, attacked, difference, the patch outlined."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    clean, attacked = to_bytes(run.targets.images[numbers]), to_bytes(run.findings.images[numbers])
    difference = (attacked.int() - clean.int()).abs().to(torch.uint8)
    figure = Figure(figsize=(6.6, 2.4 * len(numbers)), layout="constrained")
    axes = figure.subplots(len(numbers), 3, squeeze=False)
    for row, number, *pictures in zip(axes, numbers.tolist(), clean, attacked, difference, strict=True):
        for axis, picture, name in zip(row, pictures, ("clean", "attacked", "difference"), strict=True):
            axis.imshow(_pixels(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[], xlabel=name)
        label, after = int(run.targets.labels[number]), int(run.findings.predicted[number])
        row[1].set_title(f"image {int(run.targets.indices[number])}: class {label}, attacked {after}", fontsize=9)
        patch = run.threat.rectangle(int(run.findings.place[number]))
        if patch is not None:
            top, left, height, width = patch
            for axis in row:
                axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="red"))
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) as image libraries take it: (H, W) grey or (H, W, 3) colour."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
