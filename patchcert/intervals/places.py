"""Where a patch can be, and what it can do there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from patchcert.errors import require_within
from patchcert.intervals.bounds import Box
from patchcert.patch import Patch


@dataclass(frozen=True)
class Places:
    """A lattice of patches: P places for each of B columns, a column belonging to one image.

    All columns can share their places (evaluation, training on all places) or have their own (random places).

    Attributes:
        corners: (P, B, 2) int64, the patches' top left pixels (row, column); (P, 1, 2) where columns share them.
        images: (B,) int64, the image that each column belongs to.
        group: G, how many places that follow each other are merged into one box on the way through the network.
    """

    corners: Tensor
    images: Tensor
    group: int = 1

    @property
    def shared(self) -> bool:
        """Whether all columns have the same places."""
        return self.corners.shape[1] == 1 and len(self.images) > 1

    def split(self, count: int) -> Iterator["Places"]:
        """Yield lattices of about `count` of the places, never less than a group."""
        for corners in self.corners.split(max(count // self.group, 1) * self.group):
            yield replace(self, corners=corners)

    def of(self, images: slice) -> "Places":
        """The columns of these images, which are then the images 0, 1, …; all columns must be one image each."""
        corners = self.corners if self.shared else self.corners[:, images]
        return replace(self, corners=corners, images=torch.arange(len(self.images[images]), device=corners.device))

    def pick(self, groups: Tensor, images: Tensor) -> "Places":
        """One group of places in each column: group `groups` (B',) of the places of `images` (B',).

        The present columns must be one image each.
        """
        corners = self.corners.unflatten(0, (-1, self.group))  # (P / G, G, B, 2)
        corners = corners[groups, :, 0 if self.shared else images]  # (B', G, 2)
        return Places(corners.transpose(0, 1), images, self.group)


def corners_of(patch: Patch, height: int, width: int) -> Tensor:
    """(L, 2) int64: the top left pixels of `patch` at all (H−w+1)(W−l+1) places in an image, row-major.

    Raises:
        UsageError: the patch does not fit into the image.
    """
    require_within("patch", patch.height, 1, height, f"images have {height} rows")
    require_within("patch", patch.width, 1, width, f"images have {width} columns")
    return torch.cartesian_prod(torch.arange(height - patch.height + 1), torch.arange(width - patch.width + 1))


def pooled_corners(patch: Patch, height: int, width: int, neighbor: Sequence[int]) -> Tensor:
    """(L', G, 2) int64: all places, in the groups whose boxes are merged on their way through the network.

    After layer i, each g × g (g = `neighbor[i]`) adjacent boxes become one. The G = Π g² places of a group are
    ordered such that those merged first stand together. Groups that reach beyond the last place repeat it.
    """
    rows, columns = height - patch.height + 1, width - patch.width + 1
    groups = corners_of(patch, height, width).view(rows, columns, 1, 2)
    for g in neighbor:
        row = torch.arange(-(-rows // g) * g).clamp(max=rows - 1).view(-1, 1, g, 1)
        column = torch.arange(-(-columns // g) * g).clamp(max=columns - 1).view(1, -1, 1, g)
        groups = groups[row, column].flatten(2, 4)  # (rows / g, columns / g, g, g, G, 2)
        rows, columns = groups.shape[:2]
    return groups.flatten(0, 1)


def all_places(images: Tensor, patch: Patch, neighbor: Sequence[int] = ()) -> Places:
    """Every place of `patch` in images (N, C, H, W), in groups where `neighbor` merges them."""
    corners = pooled_corners(patch, *images.shape[2:], neighbor)  # (L', G, 2)
    columns = torch.arange(len(images), device=images.device)
    return Places(corners.flatten(0, 1)[:, None].to(images.device), columns, corners.shape[1])


def own_places(images: Tensor, patch: Patch, indices: Tensor) -> Places:
    """For each of the images (N, C, H, W) the places `indices` (P, N) in the list of all places."""
    corners = corners_of(patch, *images.shape[2:]).to(images.device)
    return Places(corners[indices], torch.arange(len(images), device=images.device))


LEAST_STD, MOST = 1e-6, 1e9
"""By what inputs may be divided at least, and what it and their mean may be at most.

Within these, neither a division by it nor 1 / std is too large or too small for float32's relative errors.
"""


@dataclass(frozen=True)
class Scale:
    """What turns pixels in [0, 1] into the network's inputs: (x − mean) / std, per channel.

    Raises:
        ValueError: a number is not within `LEAST_STD` and `MOST`, or a mean not within ± `MOST`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if not all(LEAST_STD <= deviation <= MOST for deviation in self.std):
            raise ValueError(f"std {list(self.std)}: expected numbers from {LEAST_STD} to {MOST:g}")
        if not all(abs(mean) <= MOST for mean in self.mean):
            raise ValueError(f"mean {list(self.mean)}: expected numbers from {-MOST:g} to {MOST:g}")

    def inputs(self, images: Tensor) -> Tensor:
        """The network's inputs for images (N, C, H, W) in [0, 1]."""
        return self.lengths(images - images.new_tensor(self.mean)[:, None, None])

    def lengths(self, differences: Tensor) -> Tensor:
        """Differences between inputs for differences between pixels (N, C, H, W)."""
        return differences / differences.new_tensor(self.std)[:, None, None]

    def largest(self, like: Tensor) -> Tensor:
        """(C, 1, 1): what no input exceeds in size, for pixels in [0, 1]."""
        return self.lengths(1 + like.new_tensor(self.mean).abs()[:, None, None])


@dataclass(frozen=True)
class Threat:
    """A patch that may move every pixel under it by at most `epsilon`, within [0, 1]; 1 is the full attack."""

    patch: Patch
    epsilon: float = 1.0

    def pixels(self, images: Tensor) -> Box:
        """The box [max(x − ε, 0), min(x + ε, 1)] of each pixel of images (N, C, H, W) under the patch."""
        return Box((images - self.epsilon).clamp(min=0), (images + self.epsilon).clamp(max=1))
