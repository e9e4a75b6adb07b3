"""Whether a network answers in the way that certificates presume, tried on one image before all others."""

import math

import torch
from torch import Tensor, nn

from patchcert.ablations.ablation import encode
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.engines.asking import DenseNetwork, Engine

COPIES = 16
"""That are tried of a network to which they are shown, evenly spaced."""

AT_ONCE = 64
"""Images shown at once to a network of limited reach, of which all copies are tried."""

TOLERANCE = 10
"""By so many square roots of the rounding unit, of the largest logit plus 1, may answers to one question differ."""


@torch.no_grad()
def class_count(classifier: SmoothedClassifier, engine: Engine, image: Tensor) -> int:
    """K, from what the network says of the copies of one `image` (1, C, H, W).

    A copy's answer must not depend on what else is asked at the same time, nor on pixels that the copy hides. Copies
    that are masked hide their pixels for certain; networks of limited reach only say that they do not look at them.

    Raises:
        ValueError: the network does not take such images, gives something else than logits, or its answers depend on
            what they must not.
    """
    classifier.network.eval()
    classifier.ablation.to(image.device)
    if classifier.limited_reach:
        return _count_of_one_pass(classifier, image)
    network, ablation = classifier.network, classifier.ablation
    indices = torch.arange(0, ablation.count, -(-ablation.count // COPIES), device=image.device)
    encoded = encode(image)
    copy = ablation.as_seen(encoded * ablation.masks(indices[:1])[:, None])
    alone = _answer(network, copy, "a copy with channels (x, 1 − x)", (1,))
    dense, found = (e.logits(encoded, indices)[0] for e in (DenseNetwork(network, ablation), engine))
    _require_same(alone, dense[:1], "a network must give a copy the same answer whatever is asked beside it")
    _require_same(dense, found, "a network must give the same answer each time and by either engine")
    return alone.shape[-1]


def _count_of_one_pass(classifier: SmoothedClassifier, image: Tensor) -> int:
    network, ablation = classifier.network, classifier.ablation
    answers = _answer(network, image, "an image", (1, ablation.count))[0]
    for indices in ablation.chunks(AT_ONCE):
        noise = torch.rand(len(indices), *image.shape[1:], device=image.device)
        elsewhere = network(torch.where(ablation.masks(indices)[:, None], image, noise))
        found = elsewhere[torch.arange(len(indices), device=image.device), indices]
        _require_same(answers[indices], found, "with limited reach a copy's answer must come from its own pixels alone")
    return answers.shape[-1]


def _answer(network: nn.Module, asked: Tensor, what: str, leading: tuple[int, ...]) -> Tensor:
    """The network's answer to what is `asked`, in words `what`; it must be (*leading, K)."""
    what = f"{what}, {tuple(asked.shape)}"
    try:
        answer = network(asked)
    except Exception as error:  # other people's networks fail in every way there is
        raise ValueError(f"the network fails on {what}: {type(error).__name__}: {error}") from error
    found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if not isinstance(answer, Tensor) or answer.shape[:-1] != leading:
        wanted = ", ".join(map(str, (*leading, "K")))
        raise ValueError(f"the network gives {found} for {what}, expected logits ({wanted})")
    return answer


def _require_same(first: Tensor, second: Tensor, right: str) -> None:
    """Raise ValueError unless both are the same but for rounding."""
    unit, size = torch.finfo(first.dtype).eps, 1 + float(first.abs().max())
    difference = float((first.float() - second.float()).abs().max())
    if not difference <= TOLERANCE * math.sqrt(unit) * size:
        raise ValueError(f"{right}; here logits of about {size - 1:.3g} differ by {difference:.3g}")
