"""What training lowers: the cross-entropy of random ablated copies, of all bands, or of the worst pair of masks."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from patchcert.ablations.ablation import Ablation, encode
from patchcert.masking.double_masking import TEMPERATURE, DoubleMasking
from patchcert.patch import Patch

Loss = tuple[Tensor, Tensor]
"""The mean loss () to lower, and (N,) float, how far each image is classified as it should be."""


class Objective(Protocol):
    """How a network is judged on a batch of images (N, C, H, W) with labels (N,).

    Attributes:
        measured: what the share that `right` counts is called.
    """

    measured: str

    def begin(self, epoch: int) -> None:
        """What follows is of this epoch."""

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:
        """What to lower, and what `right` returns, for a training batch."""

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """(N,) float: how far each image is classified as it should be, from 0 to 1."""

    def settings(self, network: nn.Module) -> dict:
        """What besides the recipe must agree for an interrupted run to go on, in types that a checkpoint can hold."""


class OneCopy(Objective):
    """One random ablation of each image, or the image itself: the paper's training (section 4).

    Args:
        ablation: None shows the images themselves.
        per: in training, `batch` shows the same ablation of all images, `sample` one of its own of each.
    """

    measured = "ablated test"

    def __init__(self, ablation: Ablation | None, per: str = "batch", label_smoothing: float = 0.0):
        self.ablation, self.per, self.label_smoothing = ablation, per, label_smoothing

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:
        logits = network(ablated(images, self.ablation, generator, self.per))
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing), are_right(logits, labels)

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return are_right(network(ablated(images, self.ablation, generator, per="sample")), labels)

    def settings(self, network: nn.Module) -> dict:
        return {}


class EveryBand(Objective):
    """All bands of every image, each by itself; for networks that answer for all of them in one pass."""

    measured = "band test"

    def __init__(self, label_smoothing: float = 0.0):
        self.label_smoothing = label_smoothing

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:
        scores = network(images)
        return self.of_scores(scores, labels), _bands_right(scores, labels)

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return _bands_right(network(images), labels)

    def settings(self, network: nn.Module) -> dict:
        return {}

    def of_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy of all bands' logits (N, A, K)."""
        of_bands = labels[:, None].expand(scores.shape[:2])  # (N, A)
        return cross_entropy(scores.transpose(1, 2), of_bands, label_smoothing=self.label_smoothing)


class WorstPair(Objective):
    """The certificate of double masking: the leads over all classes at the worst pair of places.

    Its loss is the generalised cross-entropy of −lead · τ, with a share of the loss of every band.

    Args:
        ablation, patch: what is to be certified.
        band_weight: of the loss of every band.
        stride: each step looks at every so-many-th band, from a random one on. Neighbouring bands have most of their
            pixels in common, so that little is lost; their leads count as often as there are bands for each of them.
        power: q of `generalised_cross_entropy`; above 0, images far from being certified count less.
    """

    measured = "worst pair test"  # not certified: that needs the numerical margin

    def __init__(self, ablation: Ablation, patch: Patch, band_weight: float, stride: int = 1, power: float = 0.0):
        self.bands, self.band_weight, self.stride, self.power = EveryBand(), band_weight, stride, power
        self.chosen = [slice(first, None, stride) if stride > 1 else slice(None) for first in range(stride)]
        self.maskings = [DoubleMasking(ablation, patch, chosen=chosen) for chosen in self.chosen]

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:
        device = generator.device
        first = int(torch.randint(self.stride, (), generator=generator, device=device)) if self.stride > 1 else 0
        scores, leads = self._scores_and_leads(network, images, labels, first)
        loss = generalised_cross_entropy(-TEMPERATURE * leads, labels, self.power)
        return loss + self.band_weight * self.bands.of_scores(scores, labels), _ahead(leads, labels)

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return _ahead(self._scores_and_leads(network, images, labels, first=0)[1], labels)

    def settings(self, network: nn.Module) -> dict:
        strided = {"band_stride": self.stride} if self.stride > 1 else {}
        powered = {"loss_power": self.power} if self.power > 0 else {}
        return {"band_weight": self.band_weight, "network": network.description} | strided | powered

    def _scores_and_leads(
        self, network: nn.Module, images: Tensor, labels: Tensor, first: int
    ) -> tuple[Tensor, Tensor]:
        """The logits (N, A', K) of every `stride`-th band from `first` on, and the labels' worst leads (N, K)."""
        scores = network(images, self.chosen[first]).float()
        return scores, self.stride * self.maskings[first].worst_leads(labels, scores)


def generalised_cross_entropy(logits: Tensor, labels: Tensor, power: float) -> Tensor:
    """The mean of (1 − p^q) / q, p being the labels' softmax probabilities: cross-entropy for q = 0, 1 − p for q = 1.

    An image's gradient is that of cross-entropy times p^q (Zhang and Sabuncu, NeurIPS 2018).

    Args:
        logits: (N, K).
        labels: (N,).
        power: q, from 0 to 1.
    """
    if power == 0:
        return cross_entropy(logits, labels)
    return -torch.expm1(-power * cross_entropy(logits, labels, reduction="none")).mean() / power


def ablated(images: Tensor, ablation: Ablation | None, generator: torch.Generator, per: str = "batch") -> Tensor:
    """Inputs (N, 2C, H, W) that show random ablations of `images` (N, C, H, W), as seen; the images without one.

    Args:
        per: `batch` shows the same ablation of all images, `sample` one of its own of each.
    """
    if ablation is None:
        return images
    number = len(images) if per == "sample" else 1
    indices = torch.randint(ablation.drawn or ablation.count, (number,), generator=generator, device=images.device)
    return ablation.as_seen(encode(images) * ablation.masks(indices)[:, None])


def are_right(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) float: 1 where the largest of the logits (N, K) is that of the label."""
    return (logits.detach().argmax(dim=1) == labels).float()


def _bands_right(scores: Tensor, labels: Tensor) -> Tensor:
    """(N,): the share of each image's bands that are classified correctly."""
    return (scores.detach().argmax(dim=2) == labels[:, None]).float().mean(dim=1)


def _ahead(leads: Tensor, labels: Tensor) -> Tensor:
    """(N,): 1 where the label is ahead of all other classes."""
    return (leads.detach().scatter(1, labels[:, None], float("inf")) > 0).all(dim=1).float()
