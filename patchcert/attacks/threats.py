"""What an adversary may do to an image: overwrite a patch, or change every pixel a little.

Whatever it is, it is a box: each pixel lies between a lower and an upper bound. Outside the patch both are the clean
pixel, so an attacked image agrees with the clean one there bit for bit.
"""

from typing import Protocol

import torch
from torch import Tensor

from patchcert.ablations.ablation import Ablation
from patchcert.patch import Patch
from patchcert.patch_sizes import Share, described, in_pixels


class Threat(Protocol):
    """The attacker's freedom at each of `places`; as text, in words.

    Attributes:
        shape: rows and columns of places.
        touched: (L, A) bool, whether the attacker reaches ablation a from place ℓ (row-major).
    """

    shape: tuple[int, int]
    touched: Tensor

    def rectangle(self, place: int) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of the only pixels that change at `place`; None if all may."""
        ...

    def box(self, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (R, C, H, W) of attacked `images` (R, C, H, W) at `places` (R,)."""
        ...


class PatchThreat:
    """Anything in [0, 1] inside one patch, which lies inside the image."""

    def __init__(self, size: Patch | Share, ablation: Ablation):
        self.patch = patch = in_pixels(size, ablation.height, ablation.width)
        self.words = f"patch {described(size, ablation.height, ablation.width)}"
        self.shape = ablation.height - patch.height + 1, ablation.width - patch.width + 1
        self.touched = ablation.touched_by(patch)

    def __str__(self) -> str:
        return self.words

    def rectangle(self, place: int) -> tuple[int, int, int, int]:
        return *divmod(place, self.shape[1]), self.patch.height, self.patch.width

    def box(self, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        inside = self.inside(images, places)
        return images.where(~inside, 0.0), images.where(~inside, 1.0)

    def inside(self, images: Tensor, places: Tensor) -> Tensor:
        """(R, 1, H, W) bool: the pixels of the patch."""
        height, width = images.shape[2:]
        top, left = (places // self.shape[1])[:, None], (places % self.shape[1])[:, None]
        rows, columns = torch.arange(height, device=places.device), torch.arange(width, device=places.device)
        in_rows = (rows >= top) & (rows < top + self.patch.height)
        in_columns = (columns >= left) & (columns < left + self.patch.width)
        return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


class BallThreat:
    """Every pixel by at most `epsilon` (ε), within [0, 1]: the L∞ ball."""

    shape = (1, 1)

    def __init__(self, epsilon: float, ablation: Ablation):
        self.epsilon = epsilon
        self.touched = torch.ones(1, ablation.count, dtype=torch.bool, device=ablation.cells.device)

    def __str__(self) -> str:
        return f"every pixel by up to {255 * self.epsilon:g}/255 (L∞)"

    def rectangle(self, place: int) -> None:
        return None

    def box(self, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds whose distance from the image, in exact arithmetic on the floats, is at most ε."""
        exact = images.double()  # differences of the floats that occur here are exact in double precision
        lower, upper = (exact - self.epsilon).float(), (exact + self.epsilon).float()
        one_up, one_down = lower.nextafter(torch.ones_like(lower)), upper.nextafter(torch.zeros_like(upper))
        lower = torch.where(exact - lower.double() > self.epsilon, one_up, lower)
        upper = torch.where(upper.double() - exact > self.epsilon, one_down, upper)
        return lower.clamp_min(0), upper.clamp_max(1)
