"""Whether a network answers in the way that certificates presume, tried before all images, and how exactly it does."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from patchcert import networks
from patchcert.ablations.ablation import encode
from patchcert.arithmetic import NUMERICAL_MARGINS, coarsest
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.comparing import Comparison
from patchcert.engines import asking
from patchcert.engines.asking import OF_COPIES, OF_IMAGES, DenseNetwork, Engine
from patchcert.engines.joint import JointNetwork
from patchcert.engines.plain import PlainNetwork
from patchcert.engines.windowed import WindowedNetwork
from patchcert.errors import Note

COPIES = 16
"""That are tried of a network to which they are shown, evenly spaced."""

ALONE = 4
"""Of these, each is asked alone."""

AT_ONCE = 64
"""Images shown at once to a network of limited reach, of which all copies are tried."""

ENGINES_APART = 32
"""So much more than rounding does may the windowed engine differ from the whole network, whose sums are others."""

OF_WINDOWS = "images of which a window is hidden"

BESIDE = "a network must give a copy the same answer whatever is asked beside it"
EITHER_ENGINE = "a network must give the same answer by either engine"
WITHIN_REACH = "with limited reach a copy's answer must come from its own pixels alone"

OFF_ONE = 1e-2
"""So much do probabilities in bfloat16 add up to more or less than 1."""

SHARE_OF_VOTES = 0.1
"""Of a numerical margin of scores, which add up many copies' logits, for the probabilities of one copy."""


@dataclass(frozen=True)
class Manner:
    """How a network answers.

    Attributes:
        arithmetic: the coarsest that was seen, by its name in `NUMERICAL_MARGINS`.
        apart: how far the logits of one copy were apart in batches of several sizes, at most.
        copies: A.
    """

    arithmetic: str
    apart: float
    copies: int

    def margin(self, of_scores: bool) -> float:
        """ν for leads of scores, to which every copy adds two logits, or for the probabilities that decide votes.

        Where logits change by so much, two probabilities that are compared move apart by no more; here by twice that.
        """
        if of_scores:
            return max(NUMERICAL_MARGINS[self.arithmetic], 2 * self.copies * self.apart)
        return max(SHARE_OF_VOTES * NUMERICAL_MARGINS[self.arithmetic], 2 * self.apart)

    def __str__(self) -> str:
        return f"the network computes in {self.arithmetic}, and its logits differed by {self.apart:.2g} between batches"


@torch.no_grad()
def class_count(classifier: SmoothedClassifier, image: Tensor) -> int:
    """K, from what the network says of one `image` (1, C, H, W), or of some of its copies.

    Raises:
        ValueError: the network does not take such images, or gives something else than logits.
    """
    network, ablation = networks.put_into_eval(classifier.network), classifier.ablation.to(image.device)
    if classifier.limited_reach:
        answers = networks.answer(network, image.clone(), OF_IMAGES, 1, ablation.count)[0]
    else:
        copies = ablation.as_seen(encode(image) * ablation.masks(_chosen(classifier, image.device))[:, None])
        answers = networks.answer(network, copies, OF_COPIES, len(copies))
    _note_probabilities(answers)
    return answers.shape[-1]


def _chosen(classifier: SmoothedClassifier, device: torch.device) -> Tensor:
    """The numbers of the copies that are tried."""
    count = classifier.ablation.count
    return torch.arange(0, count, -(-count // COPIES), device=device)


def _note_probabilities(answers: Tensor) -> None:
    """Warn if `answers` (A', K) are probabilities."""
    if networks.are_probabilities(answers, OFF_ONE):
        text = "the network gives probabilities, which are taken for logits: their softmax is nearly the same for all"
        warnings.warn(Note(f"{text} classes, and certifies little; let it give logits"), stacklevel=6)


@torch.no_grad()
def manner_of(classifier: SmoothedClassifier, engine: Engine, images: Tensor, batch_size: int) -> Manner:
    """How the network answers `engine`, which will run, about the copies of `images` (N, C, H, W), its first batch.

    A copy's answer must be the same, to the bit, each time and whatever is asked in the same places beside it, and the
    same but for rounding in a batch of another size. Nor must it depend on pixels that the copy hides. Copies that are
    masked hide their pixels for certain; networks of limited reach only say that they do not look at them.

    Args:
        batch_size: ablated copies per call of the network; images, with limited reach.

    Raises:
        ValueError: its answers depend on what they must not.
    """
    networks.put_into_eval(classifier.network)
    ablation, chosen = classifier.ablation.to(images.device), _chosen(classifier, images.device)
    encoded, ask = encode(images[:1]), partial(asking.logits, engine)
    seen = Comparison(partial(ask, encoded, chosen))
    if isinstance(engine, WindowedNetwork):
        dense = Comparison(partial(asking.logits, DenseNetwork(classifier.network, ablation), encoded, chosen))
        seen.require_close(dense.first, seen.first, EITHER_ENGINE, ENGINES_APART)
    if classifier.limited_reach:
        _look_at_hidden_pixels(seen, classifier, images[:1])
    else:
        for few in (*(slice(place, place + 1) for place in range(min(ALONE, len(chosen)))), slice(2)):
            seen.note(seen.first[:, few], ask(encoded, chosen[few]), BESIDE)
    every = torch.arange(ablation.count, device=images.device)
    _look_at_batch(seen, ask, images, every[: max(engine.least, batch_size // len(images))])
    return Manner(seen.arithmetic, seen.apart, ablation.count)


@torch.no_grad()
def manner_of_windows(classifier: WindowMaskedClassifier, images: Tensor) -> tuple[int, Manner]:
    """K, and how the network answers about the first of `images` (N, C, H, W) without one window.

    Its answer must be the same, to the bit, each time and whatever is asked in the same places beside it, and the same
    but for rounding in a batch of another size.

    Raises:
        ValueError: it is not; or the network is in training mode, does not take such images, gives something else than
            logits, or computes in less than float32 by itself.
    """
    networks.require_eval(classifier.network)
    each = torch.arange(classifier.batch_size) % classifier.windows.count
    pairs, own = each[:, None].expand(-1, 2), images[:1].expand(len(each), -1, -1, -1)

    def ask(shown: Tensor, hidden: Tensor) -> Tensor:
        if isinstance(classifier.network, PlainNetwork):  # which says itself what is wrong
            return classifier.logits(shown, hidden)
        return networks.answer(partial(classifier.logits, pairs=hidden), shown, OF_WINDOWS, len(shown)).float()

    seen = Comparison(partial(ask, own, pairs))
    _note_probabilities(seen.first)
    if seen.arithmetic != coarsest(images.device):
        right = "the network computes in bfloat16 or float16 by itself, expected float32"
        raise ValueError(f"{right}: of nearly equal logits these would make ties")
    for few in (slice(1), slice(2)):
        seen.note(seen.first[few], ask(own[few], pairs[few]), BESIDE)
    others = torch.cat([own[:1], 1 - own[1:]])
    seen.require_equal(seen.first[0], ask(others, pairs)[0], BESIDE)
    return seen.first.shape[1], Manner(seen.arithmetic, seen.apart, copies=1)


def note_numerical_margin(margin: float, manner: Manner) -> None:
    """Warn that the numerical margin is a larger one because of the `manner` of a network."""
    warnings.warn(Note(f"the numerical margin is {margin:.2g}, since {manner}"), stacklevel=5)


def _look_at_batch(seen: Comparison, ask: Callable[[Tensor, Tensor], Tensor], images: Tensor, copies: Tensor) -> None:
    """Ask about the first image at both ends of a batch like those that will run, and between other images."""
    own, between = images[:1], images[1:-1] if len(images) > 2 else 1 - images[:1]
    dark = torch.rand(between.shape, generator=torch.Generator().manual_seed(0)).to(images) / 10
    others = torch.cat([dark[::2], 1 - dark[1::2]])
    found, again = (ask(encode(torch.cat([own, some, own])), copies)[[0, -1]] for some in (between, others))
    seen.require_equal(found, again, BESIDE)
    few = torch.arange(0, len(copies), -(-len(copies) // COPIES), device=copies.device)
    seen.note(ask(encode(own), copies[few]).expand_as(found[:, few]), found[:, few], BESIDE)


def _look_at_hidden_pixels(seen: Comparison, classifier: SmoothedClassifier, image: Tensor) -> None:
    """Show a network of limited reach noise in the pixels that each copy of the `image` (1, C, H, W) hides.

    Of a joint network that is asked of its bands. Its copies with hidden windows are masked.
    """
    network, ablation = classifier.network, classifier.ablation
    if isinstance(network, JointNetwork):
        network, ablation = network.of_bands, ablation.bands
    answers = networks.answer(network, image.clone(), OF_IMAGES, 1, ablation.count)[0].float()
    for indices in ablation.chunks(AT_ONCE):
        noise = torch.rand(len(indices), *image.shape[1:], device=image.device)
        hidden = torch.where(ablation.masks(indices)[:, None], image, noise)
        elsewhere = networks.answer(network, hidden, OF_IMAGES, len(indices), ablation.count).float()
        found = elsewhere[torch.arange(len(indices), device=image.device), indices]
        seen.note(answers[indices], found, WITHIN_REACH)
