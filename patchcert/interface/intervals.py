"""Certifying an ordinary network by interval bounds on images that the caller has."""

import math
import time
from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from patchcert import networks, results
from patchcert.arithmetic import processor
from patchcert.data.given import given, require_classes
from patchcert.errors import UsageError, require_count, require_number
from patchcert.interface.certification import Answer, Certification
from patchcert.intervals.bounds import leads
from patchcert.intervals.layers import require_bounded
from patchcert.intervals.places import Scale, Threat, all_places
from patchcert.intervals.rounding import sums_of_products
from patchcert.intervals.worst_places import Batch, lowest_margins
from patchcert.patch import Patch, require_patch
from patchcert.patch_sizes import Share, in_pixels
from patchcert.progress import progress_bar


@torch.no_grad()
def interval_bounds(
    network: nn.Sequential,
    images: Tensor | ArrayLike,
    labels: Tensor | ArrayLike | None,
    patch: Patch | Share,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 100,
    max_memory: float = 2e9,
) -> Certification:
    """Find out which predictions of an ordinary network no patch can change, by bounds at every place of the patch.

    The verdicts also have a `lead` (N,): a lower bound, in logits, of the prediction's lead over every other class. If
    it is above 0, the prediction is certified. Bounds are float32. They leave room for their own rounding, and for the
    network's.

    Args:
        network: an `nn.Sequential` of convolutions, max pooling, ReLU, flatten and linear layers, in float32. The last
            layer is linear.
        images: (N, C, H, W), floats in [0, 1], which become float32, or uint8.
        labels: (N,) whole numbers, or None. Without labels there are certificates, but no accuracies.
        patch: the patch. A `Share` becomes a `Patch` of so large a share of the images' pixels.
        mean, std: the network sees (x − mean) / std of each channel. By default mean is 0 and std is 1. Each std must
            be from 1e-6 to 1e9, and each mean within ± 1e9.
        batch_size: the number of images in a batch.
        max_memory: the number of bytes that bounds may take at a time.

    Raises:
        ValueError: images, labels, the patch or a number is not valid; a layer has no bound; or a layer computes
            something else than its class says, for example because of hooks or a method that was set on it.
        FloatingPointError: an output of the network is not finite, or numbers in it may be too large for float32,
            or the processor does not round to nearest.
    """
    if not isinstance(network, nn.Sequential) or not network or not isinstance(network[-1], nn.Linear):
        raise ValueError(f"the network is a {type(network).__name__}, expected a Sequential with a Linear layer last")
    network.eval()
    require_bounded(network)
    dataset = given(images, labels).to(network[-1].weight.device)
    scale = _scale(mean, std, dataset.channels)
    sides = dataset.image_shape[1:]
    patch = in_pixels(patch, *sides)
    require_patch(patch, *sides)
    require_count("batch_size", batch_size, "images")
    require_number("max_memory", max_memory, 1, math.inf)
    started, predicted, lowest = time.perf_counter(), [], []
    with sums_of_products(), progress_bar(len(dataset), "bounding") as bar:
        first = scale.inputs(next(dataset.batches(1))[0])
        require_classes(dataset.labels, networks.answer(network, first, "images, normalised", 1).shape[1])
        for pixels, _ in dataset.batches(batch_size):
            answers = networks.finite(network(scale.inputs(pixels))).argmax(dim=1)
            batch = Batch(network, pixels, answers, Threat(patch), scale, (), int(max_memory), rounded=True)
            worst, _ = lowest_margins(batch, all_places(pixels, patch))  # (N, K)
            predicted.append(answers)
            lowest.append(leads(worst, answers))
            bar.update(len(pixels))
    lead = torch.cat(lowest)
    verdicts = {"predicted": torch.cat(predicted), "certified": lead > 0, "lead": lead}
    asked = {"certificate": "intervals", "patches": 1, "numerical_margin": 0.0}
    known = None if labels is None else dataset.labels.cpu()
    answer = Answer.of(patch, {"size_to_certify": patch.size} | asked, verdicts, known)
    said: dict[str, object] = {"script": "patchcert.interval_bounds", "network": networks.description(network)}
    config = said | {"mean": scale.mean, "std": scale.std}
    arithmetic = results.computed_with("float32", "intervals", [processor(lead.device)])
    return Certification((answer,), known, time.perf_counter() - started, config, arithmetic)


def _scale(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> Scale:
    """What `mean` and `std` ask for; ValueError where they are not `channels` numbers each."""
    numbers = []
    for name, given_numbers, default in (("mean", mean, 0.0), ("std", std, 1.0)):
        try:
            numbers.append(tuple(map(float, [default] * channels if given_numbers is None else given_numbers)))
        except (TypeError, ValueError):
            numbers.append(())
        if len(numbers[-1]) != channels:
            raise UsageError(name, given_numbers, f"expected {channels} numbers, one for each channel")
    return Scale(*numbers)
