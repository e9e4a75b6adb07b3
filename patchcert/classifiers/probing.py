"""Whether a network answers in the way that certificates presume, tried on one image before all others."""

import warnings

import torch
from torch import Tensor

from patchcert import networks
from patchcert.ablations.ablation import encode
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.engines.asking import OF_COPIES, OF_IMAGES, DenseNetwork, Engine
from patchcert.errors import Note

COPIES = 16
"""That are tried of a network to which they are shown, evenly spaced."""

AT_ONCE = 64
"""Images shown at once to a network of limited reach, of which all copies are tried."""

OFF_ONE = 1e-2
"""So much do probabilities in bfloat16 add up to more or less than 1."""


@torch.no_grad()
def class_count(classifier: SmoothedClassifier, engine: Engine, image: Tensor) -> int:
    """K, from what the network says of the copies of one `image` (1, C, H, W).

    A copy's answer must not depend on what else is asked at the same time, nor on pixels that the copy hides. Copies
    that are masked hide their pixels for certain; networks of limited reach only say that they do not look at them.

    Raises:
        ValueError: the network does not take such images, gives something else than logits, or its answers depend on
            what they must not.
    """
    networks.put_into_eval(classifier.network)
    classifier.ablation.to(image.device)
    if classifier.limited_reach:
        return _count_of_one_pass(classifier, image)
    network, ablation = classifier.network, classifier.ablation
    indices = torch.arange(0, ablation.count, -(-ablation.count // COPIES), device=image.device)
    encoded = encode(image)
    copy = ablation.as_seen(encoded * ablation.masks(indices[:1])[:, None])
    alone = networks.answer(network, copy, OF_COPIES, 1)
    dense, found = (e.logits(encoded, indices)[0] for e in (DenseNetwork(network, ablation), engine))
    networks.require_same(alone, dense[:1], "a network must give a copy the same answer whatever is asked beside it")
    networks.require_same(dense, found, "a network must give the same answer each time and by either engine")
    _note_probabilities(dense)
    return alone.shape[-1]


def _count_of_one_pass(classifier: SmoothedClassifier, image: Tensor) -> int:
    network, ablation = classifier.network, classifier.ablation
    answers = networks.answer(network, image.clone(), OF_IMAGES, 1, ablation.count)[0]
    for indices in ablation.chunks(AT_ONCE):
        noise = torch.rand(len(indices), *image.shape[1:], device=image.device)
        hidden = torch.where(ablation.masks(indices)[:, None], image, noise)
        elsewhere = networks.answer(network, hidden, OF_IMAGES, len(indices), ablation.count)
        found = elsewhere[torch.arange(len(indices), device=image.device), indices]
        right = "with limited reach a copy's answer must come from its own pixels alone"
        networks.require_same(answers[indices], found, right)
    _note_probabilities(answers)
    return answers.shape[-1]


def _note_probabilities(answers: Tensor) -> None:
    """Warn if `answers` (A', K) are probabilities."""
    if networks.are_probabilities(answers, OFF_ONE):
        text = "the network gives probabilities, which are taken for logits: their softmax is nearly the same for all"
        warnings.warn(Note(f"{text} classes, and certifies little; let it give logits"), stacklevel=5)
