"""What a step of training looks at: every place of a patch, some of them, or any k inputs."""

import torch
from torch import Tensor, nn

from patchcert.intervals.config import Method
from patchcert.intervals.guide import Guide, guide_loss, gumbel, likeliest
from patchcert.intervals.patches import weighted_layers
from patchcert.intervals.places import Scale, Threat, all_places, corners_of, own_places
from patchcert.intervals.sparse import SparseThreat, sparse_margins
from patchcert.intervals.worst_places import Batch, all_margins, with_gradients, worst_margins


class Attack:
    """Finds the worst margins of a batch in training. This one looks at every place of a patch.

    Args:
        max_memory: bytes that the bounds may take at a time.
        amp: whether products may be in bfloat16, see `PatchBounds`.
    """

    def __init__(self, network: nn.Sequential, method: Method, scale: Scale, max_memory: int, amp: bool = False):
        self.network, self.method, self.scale, self.max_memory = network, method, scale, max_memory
        self.amp = amp

    def noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, …): all that is random in `worst` for images (N, C, H, W)."""
        return images.new_empty(len(images), 0)

    def worst(self, images: Tensor, labels: Tensor, epsilon: float, noise: Tensor) -> tuple[Tensor, Tensor | float]:
        """The worst margins (N, K), with gradients, and a loss of what is trained beside the network."""
        places = all_places(images, self.method.patch, self.neighbor)
        return worst_margins(self._batch(images, labels, epsilon), places), 0.0

    @property
    def neighbor(self) -> tuple[int, ...]:
        """Groups of places that are merged layer by layer, for patch-all-pool."""
        if self.method.attack_type != "patch-all-pool":
            return ()
        return self.method.neighbor[: len(weighted_layers(self.network))]

    def _batch(self, images: Tensor, labels: Tensor, epsilon: float) -> Batch:
        threat = Threat(self.method.patch, epsilon)
        return Batch(self.network, images, labels, threat, self.scale, self.neighbor, self.max_memory, amp=self.amp)


class RandomPlaces(Attack):
    """`patch_count` places of each image, uniformly at random."""

    def noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, patch_count) int64: the places."""
        shape = len(images), self.method.patch_count
        places = len(corners_of(self.method.patch, *images.shape[2:]))
        return torch.randint(places, shape, generator=generator, device=images.device)

    def worst(self, images: Tensor, labels: Tensor, epsilon: float, noise: Tensor) -> tuple[Tensor, Tensor | float]:
        places = own_places(images, self.method.patch, noise.t())
        return worst_margins(self._batch(images, labels, epsilon), places), 0.0


class GuidedPlaces(Attack):
    """`patch_count` places for each class, drawn where a U-Net that is trained beside predicts low margins."""

    guide: Guide

    def noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, K, L) Gumbel noise."""
        places = len(corners_of(self.method.patch, *images.shape[2:]))
        return gumbel((len(images), self.network[-1].out_features, places), generator, images.device)

    def worst(self, images: Tensor, labels: Tensor, epsilon: float, noise: Tensor) -> tuple[Tensor, Tensor | float]:
        patch = self.method.patch
        predicted = self.guide(self.scale.inputs(images))
        height, width = images.shape[2] - patch.height + 1, images.shape[3] - patch.width + 1
        predicted = predicted[:, :, :height, :width].flatten(2)
        drawn = likeliest(predicted, self.method.T, noise, self.method.patch_count)  # (P, N)
        places = own_places(images, patch, drawn)
        batch = self._batch(images, labels, epsilon).keeping(places)
        found = all_margins(batch, places)
        return with_gradients(batch, places, *found.min(dim=0)), guide_loss(predicted, drawn, found)


class SparseInputs(Attack):
    """Any k inputs."""

    def worst(self, images: Tensor, labels: Tensor, epsilon: float, noise: Tensor) -> tuple[Tensor, Tensor | float]:
        threat = SparseThreat(self.method.k, epsilon, self.method.bound_type == "sparse-interval-tight")
        return sparse_margins(self.network, images, labels, threat, self.scale, self.max_memory), 0.0


ATTACKS = {
    "patch-all": Attack,
    "patch-all-pool": Attack,
    "patch-random": RandomPlaces,
    "patch-nn": GuidedPlaces,
    "sparse": SparseInputs,
}
