"""What networks say of images and of their mirror images, in the mean."""

import torch
from torch import Tensor, nn

from patchcert.ablations.ablation import Ablation


class Mirrored(nn.Module):
    """The mean of what a network says of images (B, C, H, W), or copies, and of the same mirrored left to right.

    Mirroring moves pixels and shows no others, so an answer follows from what the network's own would follow from.

    Args:
        network: to logits (B, K) of copies, or (B, A, K) of all copies of images.
        ablation: of the latter, which holds the mirror image of each of its copies.

    Raises:
        ValueError: some copy's mirror image is not among the copies.
    """

    def __init__(self, network: nn.Module, ablation: Ablation | None = None):
        super().__init__()
        self.network = network
        mirror_images = None if ablation is None else _mirror_images(ablation)
        self.register_buffer("mirror_images", mirror_images, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (self.network(images) + self.of_mirror_images(images)) / 2

    def of_mirror_images(self, images: Tensor) -> Tensor:
        """What the network says of the mirror images alone."""
        mirrored = self.network(images.flip(3))
        return mirrored if self.mirror_images is None else mirrored[:, self.mirror_images]


def one_side(network: nn.Module, images: Tensor, mirrored: bool) -> Tensor:
    """What a network says of images (B, C, H, W); if it also asks about mirror images, of those or of these alone."""
    if not isinstance(network, Mirrored):
        return network(images)
    return network.of_mirror_images(images) if mirrored else network.network(images)


def _mirror_images(ablation: Ablation) -> Tensor:
    """(A,) int64: the number of the copy that shows the mirror image of what each shows."""
    masks = ablation.masks()
    shown, mirrored = masks.flatten(1).float(), masks.flip(2).flatten(1).float()
    differing = torch.cdist(mirrored, shown, p=1)  # pixels
    if differing.amin(dim=1).any():
        raise ValueError(f"{ablation}: the mirror images of some copies are missing")
    return differing.argmin(dim=1)
