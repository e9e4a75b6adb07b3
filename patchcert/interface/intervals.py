"""Certifying an ordinary network by interval bounds on images that the caller has."""

import time
from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from patchcert import networks
from patchcert.data.given import given, require_classes
from patchcert.interface.certification import Answer, Certification
from patchcert.intervals.bounds import through
from patchcert.intervals.places import Scale, Threat, all_places
from patchcert.intervals.rounding import sums_of_products
from patchcert.intervals.worst_places import Batch, lowest_margins
from patchcert.patch import Patch
from patchcert.progress import progress_bar

COMPUTING = ("forward", "_conv_forward")
"""The methods of layers that compute."""


@torch.no_grad()
def interval_bounds(
    network: nn.Sequential,
    images: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    patch: Patch,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 100,
    max_memory: float = 2e9,
) -> Certification:
    """Which predictions of a network no patch can change, by bounds at every place of the patch.

    Verdicts have a `lead` (N,) besides: the lowest bound of how far the prediction is ahead of another class, in
    logits; above 0 it is certified. Bounds are float32 with room for rounding, theirs and the network's own.

    Args:
        network: a Sequential of convolutions, max pooling, ReLU and flatten layers that ends in a linear one.
        images: (N, C, H, W), floats in [0, 1], computed with as float32, or uint8.
        labels: (N,) whole numbers.
        mean, std: the network sees (x − mean) / std of each channel; 0 and 1 where they are not given.
        batch_size: images at a time.
        max_memory: for bounds at a time, bytes.

    Raises:
        ValueError: images or labels are not such, or the patch does not fit into them.
        TypeError: there is no bound for a layer, or it computes in a way of its own, or has forward hooks.
        FloatingPointError: an output of the network is not finite.
    """
    if not isinstance(network, nn.Sequential) or not network or not isinstance(network[-1], nn.Linear):
        raise ValueError(f"the network is a {type(network).__name__}, expected a Sequential with a Linear layer last")
    _require_known(network)
    network.eval()
    dataset = given(images, labels).to(network[-1].weight.device)
    require_classes(dataset.labels, network[-1].out_features)
    scale = _scale(mean, std, dataset.channels)
    started, predicted, leads = time.perf_counter(), [], []
    with sums_of_products(), progress_bar(len(dataset), "bounding") as bar:
        for pixels, _ in dataset.batches(batch_size):
            answers = networks.finite(network(scale.inputs(pixels))).argmax(dim=1)
            batch = Batch(network, pixels, answers, Threat(patch), scale, (), int(max_memory), rounded=True)
            worst, _ = lowest_margins(batch, all_places(pixels, patch))  # (N, K)
            predicted.append(answers)
            leads.append(worst.scatter(1, answers[:, None], torch.inf).amin(dim=1))
            bar.update(len(pixels))
    lead = torch.cat(leads)
    verdicts = {"predicted": torch.cat(predicted), "certified": lead > 0, "lead": lead}
    asked = {"certificate": "intervals", "patches": 1, "numerical_margin": 0.0}
    answer = Answer.of(patch, {"size_to_certify": patch.size} | asked, verdicts, dataset.labels)
    said: dict[str, object] = {"script": "patchcert.interval_bounds", "network": networks.description(network)}
    config = said | {"mean": scale.mean, "std": scale.std}
    return Certification((answer,), dataset.labels.cpu(), time.perf_counter() - started, config)


def _require_known(network: nn.Sequential) -> None:
    """Raise TypeError where a layer computes otherwise than that whose bound would be taken for its own."""
    for layer in network.modules():
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise TypeError(f"{type(layer).__name__} has forward hooks, of which its bound knows nothing")
    for kind in map(type, (network, *network)):
        known = next(base for base in kind.__mro__ if base in through.registry)
        own = any(getattr(kind, name, None) is not getattr(known, name, None) for name in COMPUTING)
        if own and known is not object:  # whose rule refuses
            raise TypeError(f"{kind.__name__} computes in a way of its own, {known.__name__}'s bound is not its bound")


def _scale(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> Scale:
    means, deviations = mean or [0.0] * channels, std or [1.0] * channels
    if {len(means), len(deviations)} != {channels}:
        raise ValueError(f"mean {mean} and std {std}: expected {channels} numbers each, one for each channel")
    if not all(0 < deviation < float("inf") for deviation in deviations):
        raise ValueError(f"std {std}: expected numbers above 0")
    return Scale(tuple(means), tuple(deviations))
