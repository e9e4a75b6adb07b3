"""Trials before certifying: does the network answer in the way that certificates presume, and how exactly?"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from patchcert import networks
from patchcert.ablations.ablation import Ablation, encode
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.arithmetic import NUMERICAL_MARGINS, coarser, require_as_set
from patchcert.classifiers.in_order import CopiesInOrder
from patchcert.classifiers.masked_goals import in_order_of
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.window_masked import WindowMaskedClassifier
from patchcert.comparing import Comparison
from patchcert.engines import asking
from patchcert.engines.asking import OF_COPIES, OF_IMAGES, DenseNetwork, Engine
from patchcert.engines.joint import JointNetwork
from patchcert.engines.plain import PlainNetwork
from patchcert.engines.windowed import WindowedNetwork
from patchcert.errors import Note
from patchcert.patch import Patch

TRIED = 3
"""Images that are tried: the first, the one in the middle, the last."""

COPIES = 16
"""Copies of all these images together that are tried, evenly spaced, if the network is shown copies."""

ALONE = 4
"""Of these, each is asked alone."""

IN_ORDER = 64
"""Copies that are tried as they are asked about in order; `COPIES` of them alone."""

FEW = 7
"""Copies in a batch that is not full."""

AT_ONCE = 64
"""Images shown at once to a network of limited reach; all of its copies are tried."""

ENGINES_APART = 32
"""How many times as much as rounding does the windowed engine may differ from the whole network, whose sums differ."""

OF_WINDOWS = "images in which a window is hidden"

BESIDE = "a network must give a copy the same answer whatever else is in the batch"
EITHER_ENGINE = "a network must give the same answer by either engine"
HIDDEN = "a network must give the same answer whatever the hidden pixels show"
WITHIN_REACH = "with limited reach a copy's answer must come from its own pixels alone"

OFF_ONE = 1e-2
"""By how much the sum of probabilities in bfloat16 may differ from 1."""

SHARE_OF_VOTES = 0.1
"""Of a numerical margin of scores, which add up many copies' logits, for the probabilities of one copy."""


@dataclass(frozen=True)
class Manner:
    """How a network answers.

    Attributes:
        arithmetic: the coarsest that was seen, by its name in `NUMERICAL_MARGINS`.
        apart: how far the logits of one copy were apart in batches of several sizes, or jumped, at most.
        copies: whose logits a lead of scores adds up, at most.
        jumps: whether it rounds to levels, so that answers were seen to jump, see `Comparison.note_jumps`.
    """

    arithmetic: str
    apart: float
    copies: int
    jumps: bool = False

    def margin(self, of_scores: bool) -> float:
        """ν for leads of scores, to which every copy adds two logits, or for the probabilities that decide votes.

        Where logits change by so much, two probabilities that are compared move apart by no more; here by twice that.
        """
        if of_scores:
            return max(NUMERICAL_MARGINS[self.arithmetic], 2 * self.copies * self.apart)
        return max(SHARE_OF_VOTES * NUMERICAL_MARGINS[self.arithmetic], 2 * self.apart)

    def __str__(self) -> str:
        computes = f"the network computes in {self.arithmetic}"
        if self.jumps:
            return f"{computes} and rounds to levels: rounding moves its logits by {self.apart:.2g}"
        return f"{computes}, and its logits differed by {self.apart:.2g} between batches"


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
        chosen = _evenly(ablation.count, COPIES).to(image.device)
        copies = ablation.as_seen(encode(image) * ablation.masks(chosen)[:, None])
        answers = networks.answer(network, copies, OF_COPIES, len(copies))
    _note_probabilities(answers)
    return answers.shape[-1]


@torch.no_grad()
def require_masks(ablation: Ablation, patches: Iterable[Patch]) -> None:
    """Raise ValueError unless patches touch exactly those copies whose masks show some of their pixels.

    A class of somebody's own may say otherwise, or draw its masks anew each time. Some of the copies are looked at.
    """
    chosen = _evenly(ablation.count, COPIES).to(ablation.cells.device)
    for patch in patches:
        sets, places = ablation.distinct_places(patch)
        touched = ablation.touching(sets, chosen)[places].T  # (A', L)
        masks = ablation.masks(chosen).float()
        shown = F.max_pool2d(F.max_pool2d(masks[:, None], (patch.height, 1), 1), (1, patch.width), 1) > 0
        if not touched.equal(shown.flatten(1)):
            what = f"has masks that show other pixels than patches of {patch} are said to touch, or others each time"
            raise ValueError(f"{type(ablation).__name__} {what}")


@torch.no_grad()
def require_parts(ablation: Ablation) -> None:
    """Raise ValueError unless copies show what double masking takes for granted: their windows, or their families.

    It does not ask for masks. A class of somebody's own may have others. Some of the copies are looked at.
    """
    chosen, families = _evenly(ablation.count, COPIES).to(ablation.cells.device), ablation.families()
    if isinstance(ablation, WindowPairs):
        what, shown = "windows", ~ablation.hidden().hidden(ablation.windows_hidden().T[chosen])
    elif families != [ablation]:
        what, shown = "families", torch.cat([family.masks() for family in families])[chosen]
    else:
        return
    if not shown.equal(ablation.masks(chosen)):
        right = f"has masks that show other pixels than its {what}, by which double masking goes"
        raise ValueError(f"{type(ablation).__name__} {right}")


def _evenly(count: int, most: int) -> Tensor:
    """(n,) int64: at most so many numbers from 0 to count − 1, evenly spaced, the first and the last among them."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def _tried(images: Tensor) -> tuple[Tensor, Tensor]:
    """The `TRIED` ones (T, C, H, W) of some images, and where they are, (T,); of one image alone its inverse, too."""
    places = _evenly(len(images), TRIED)
    return (images[places] if len(images) > 1 else torch.cat([images, 1 - images])), places


def _note_probabilities(answers: Tensor) -> None:
    """Warn if `answers` (A', K) are probabilities."""
    if networks.are_probabilities(answers, OFF_ONE):
        text = "the network gives probabilities, which are taken for logits: their softmax is nearly the same for all"
        warnings.warn(Note(f"{text} classes, and certifies little; let it give logits"), stacklevel=6)


@torch.no_grad()
def manner_of(classifier: SmoothedClassifier, engine: Engine, images: Tensor, batch_size: int) -> Manner:
    """How the network answers `engine`, which will run, about the copies of some of `images` (N, C, H, W), a batch.

    A copy's answer must be the same, to the bit, each time and whatever is asked in the same places beside it. In a
    batch of another size it must be the same but for rounding, or for the level to which it rounds something itself.
    Nor must it depend on pixels that the copy hides. Copies that are masked hide their pixels for certain; networks of
    limited reach only say that they do not look at them. Where windows are refined, other images change how many copies
    go into a batch, so that answers may differ by rounding.

    Args:
        images: as many as go into a batch; better those from everywhere than the first ones.
        batch_size: ablated copies per call of the network; images, with limited reach.

    Raises:
        ValueError: its answers depend on what they must not.
    """
    networks.put_into_eval(classifier.network)
    ablation, (tried, places) = classifier.ablation.to(images.device), _tried(images)
    every, encoded = torch.arange(ablation.count, device=images.device), encode(tried)
    ask = partial(asking.logits, engine)
    chosen = every if classifier.limited_reach else every[_evenly(ablation.count, COPIES // len(tried))]
    seen = Comparison(partial(ask, encoded, chosen))
    if isinstance(engine, WindowedNetwork):
        dense = Comparison(partial(asking.logits, DenseNetwork(classifier.network, ablation), encoded, chosen))
        seen.require_close(dense.first, seen.first, EITHER_ENGINE, ENGINES_APART)
    apart = 0.0
    if classifier.limited_reach:
        apart = tried_hidden_pixels(classifier, tried).apart
        copies, together = every, seen.first
    else:
        _ask_alone(seen, ask, encoded, chosen)
        copies = every[: max(engine.least, batch_size // len(tried))]
        together = ask(encoded, copies)
    refined = isinstance(classifier.network, JointNetwork) and classifier.network.refined
    seen.require_equal_beside_others(lambda shown: ask(encode(shown), copies), tried, together, BESIDE, refined)
    if classifier.limited_reach and len(images) > len(tried):
        together = ask(encode(images), every)[places]
    few = _evenly(len(copies), COPIES // len(tried))
    for own, answers in zip(encoded.split(1), together.split(1), strict=True):
        seen.note(ask(own, copies[few]), answers[:, few], BESIDE)
    seen.note_jumps()
    return Manner(seen.arithmetic, max(seen.apart, apart), _added_up(ablation), seen.jumps)


@torch.no_grad()
def manner_in_order(classifier: SmoothedClassifier, images: Tensor, batch_size: int, rounded: bool = False) -> Manner:
    """How the network answers about copies of some of `images` (N, C, H, W), asked as those are that decide.

    The copies are asked about in batches of one size. Each of some copies alone fills a batch, so that it stands in
    every row. Some are asked about together, in sevens, in another order among others, and beside noise; bands alone
    and in a batch. By rounding, an answer may depend on the row of its copy, but not on what stands beside it. What is
    added up follows from the size of a batch and from the row, not from the numbers. So where all answers about a few
    copies are the same to the bit, `apart` 0.0, those about other copies are expected to be.

    A classifier with a small batch size of its own predicts in smaller batches. These copies are tried in them, too.

    Args:
        classifier: one that asks in order.
        batch_size: of a `MaskedLook`.
        rounded: by rounding, an answer may also depend on what stands beside it; that counts as `apart`. Then no other
            batch size is tried, since the certificates will hold for this one alone, and for this number of threads.

    Raises:
        ValueError: answers differ by more, or each time.
    """
    source = in_order_of(classifier, batch_size)
    assert source is not None, "the caller has looked"
    tried, _ = _tried(images)
    sources = [source] if rounded else [source, in_order_of(classifier, classifier.batch_size)]
    parts = [_tried_copies(one, tried, rounded) for one in {one.at_once: one for one in sources}.values()]
    parts[0].note(parts[0].first, parts[-1].first, BESIDE)
    if source.joint:
        parts.append(_tried_bands(source, tried, images))
    for part in [] if rounded else parts:
        part.note_jumps()
    arithmetic, apart = coarser(*(part.arithmetic for part in parts)), max(part.apart for part in parts)
    return Manner(arithmetic, apart, _added_up(classifier.ablation), any(part.jumps for part in parts))


def _tried_copies(source: CopiesInOrder, tried: Tensor, rounded: bool) -> Comparison:
    """Of copies with hidden windows, each of one of the images (T, C, H, W)."""
    numbers = _evenly(len(source.pairs), IN_ORDER).to(tried.device)
    own = tried[torch.arange(len(numbers)) % len(tried)]
    seen = Comparison(partial(source.answers, own, numbers))
    for one in range(0, len(own), IN_ORDER // COPIES):
        everywhere = source.answers(own[one].expand(source.at_once, -1, -1, -1), numbers[one].expand(source.at_once))
        seen.note(seen.first[one].expand_as(everywhere), everywhere, BESIDE)
    for some in torch.arange(len(own)).split(FEW):
        seen.note(seen.first[some], source.answers(own[some], numbers[some]), BESIDE)
    order = torch.arange(2 * source.at_once).flip(0) % len(own)
    seen.note(seen.first[order], source.answers(own[order], numbers[order]), BESIDE)
    seen.require_equal_beside_others(partial(source.answers, numbers=numbers), own, seen.first, BESIDE, rounded)
    return seen


def _tried_bands(source: CopiesInOrder, tried: Tensor, images: Tensor) -> Comparison:
    """Of the bands of images (T, C, H, W), alone and behind a few others, (N, C, H, W)."""
    before = images[:FEW]
    seen, together = Comparison(partial(source.of_bands, tried)), source.of_bands(torch.cat([before, tried]))
    seen.note(seen.first, together[len(before) :], BESIDE)
    for image, answers in zip(tried.split(1), seen.first.split(1), strict=True):
        seen.note(answers, source.of_bands(image), BESIDE)
    return seen


def _added_up(ablation: Ablation) -> int:
    """How many copies' logits a lead of scores adds up, at most: of those with hidden windows one alone."""
    if isinstance(ablation, BandsAndWindows):
        return ablation.bands.count + 1
    return 1 if isinstance(ablation, WindowPairs) else ablation.count


@torch.no_grad()
def manner_of_windows(classifier: WindowMaskedClassifier, images: Tensor) -> tuple[int, Manner]:
    """K, and how the network answers about some of `images` (N, C, H, W) without one window.

    Its answer must be the same, to the bit, each time, whatever is asked in the same places beside it, and whatever the
    hidden pixels show. In a batch of another size it must be the same but for rounding.

    Raises:
        ValueError: it is not; or the network is in training mode, does not take such images, gives something else than
            logits, or computes in less than float32 by itself.
    """
    networks.require_eval(classifier.network)
    rows, (tried, _) = torch.arange(classifier.batch_size), _tried(images)
    pairs, own = (rows % classifier.windows.count)[:, None].expand(-1, 2), tried[rows % len(tried)]

    def ask(shown: Tensor, hidden: Tensor) -> Tensor:
        if isinstance(classifier.network, PlainNetwork):  # which says itself what is wrong
            return classifier.logits(shown, hidden)
        return networks.answer(partial(classifier.logits, pairs=hidden), shown, OF_WINDOWS, len(shown)).float()

    seen = Comparison(partial(ask, own, pairs))
    _note_probabilities(seen.first)
    require_as_set(seen.arithmetic, images.device)
    for few in (slice(1), slice(2)):
        seen.note(seen.first[few], ask(own[few], pairs[few]), BESIDE)
    seen.require_equal_beside_others(partial(ask, hidden=pairs), own, seen.first, BESIDE)
    hidden = classifier.windows.hidden(pairs.to(own.device))[:, None]
    noise = torch.rand(own.shape, generator=torch.Generator().manual_seed(0)).to(own)
    seen.require_equal(seen.first, ask(noise.where(hidden, own), pairs), HIDDEN)
    seen.note_jumps()
    return seen.first.shape[1], Manner(seen.arithmetic, seen.apart, copies=1, jumps=seen.jumps)


def note_numerical_margin(margin: float, manner: Manner) -> None:
    """Warn that the numerical margin is a larger one because of the `manner` of a network."""
    warnings.warn(Note(f"the numerical margin is {margin:.2g}, since {manner}"), stacklevel=5)


def note_differing(apart: float) -> None:
    """Warn that the larger margin is needed, since answers were so far `apart`, as of `manner_in_order`."""
    why = f"logits differed between batches, by {apart:.2g} in the first process"
    warnings.warn(Note(f"--numerical_margin measured stays with the larger margin, since {why}"), stacklevel=5)


def _ask_alone(seen: Comparison, ask: Callable[[Tensor, Tensor], Tensor], encoded: Tensor, chosen: Tensor) -> None:
    """Ask about some of the `chosen` copies (A',) of encoded images (T, 2C, H, W) one by one, and about two at once."""
    for number in range(min(ALONE, len(chosen))):
        image, copy = slice(number % len(encoded), number % len(encoded) + 1), slice(number, number + 1)
        seen.note(seen.first[image, copy], ask(encoded[image], chosen[copy]), BESIDE)
    seen.note(seen.first[:1, :2], ask(encoded[:1], chosen[:2]), BESIDE)


@torch.no_grad()
def tried_hidden_pixels(classifier: SmoothedClassifier, images: Tensor) -> Comparison:
    """Of a network of limited reach, shown noise in the pixels that each copy hides, each of one of some images.

    Of a joint network these are its bands. Its copies with hidden windows are masked.

    Raises:
        ValueError: an answer depends on hidden pixels.
    """
    network, ablation, (images, _) = classifier.network, classifier.ablation, _tried(images)
    if isinstance(network, JointNetwork):
        network, ablation = network.of_bands, ablation.bands

    def answers(shown: Tensor) -> Tensor:
        return networks.answer(network, shown, OF_IMAGES, len(shown), ablation.count).float()

    seen = Comparison(lambda: answers(images.clone()))
    for indices in ablation.chunks(AT_ONCE):
        numbers = indices % len(images)
        shown = images[numbers]
        elsewhere = answers(torch.where(ablation.masks(indices)[:, None], shown, torch.rand_like(shown)))
        found = elsewhere[torch.arange(len(indices), device=images.device), indices]
        seen.note(seen.first[numbers, indices], found, WITHIN_REACH)
    return seen
