"""Attacks on hidden windows: a patch that makes double masking, or a defence with alarms, give another class.

Some window w* hides the patch. What the network says without w*, alone or together with a second window w, does not
depend on the patch. So the prediction of the two rounds can only change if the clean image has another class already
without some pair (w, w*). And an alarm can only stay away if the clean image has another class without w* alone. The
search begins with the pairs, or windows, that come nearest to that. The patch goes into w*. It is changed step by step
until the network gives the rival of the pair without w, and without most other windows that leave the patch in sight.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchcert import networks
from patchcert.ablations.hidden_windows import NOTHING
from patchcert.attacks.ascent import CONTENT, TINY, log_mean_softmax
from patchcert.attacks.threats import PatchThreat
from patchcert.classifiers.window_masked import OneImageAsked, WindowMaskedClassifier
from patchcert.masking.alarms import ALARM

AT_ONCE = 8
"""Masked images of which a step takes the gradient."""

Decide = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to what the defence answers, (N,) int64: classes, or `ALARM`."""


@dataclass(frozen=True)
class Effort:
    """So many restarts of so many sign steps of `step_size`, on gradients summed up with factor `momentum`.

    Steps raise the `loss` "margin", how far the rival is ahead of the label in masked images, at most `CONTENT` each,
    or "softmax", −log of the label's mean probability.
    """

    restarts: int
    steps: int
    step_size: float
    momentum: float = 0.9
    loss: str = "margin"


@dataclass(frozen=True)
class Attempt:
    """The first restart that flipped the answer, or the one that came nearest to it.

    Attributes:
        flipped: whether the answer is another class now, and no alarm.
        image: (C, H, W), the attacked image.
        predicted: what the defence answers.
        place: of the patch, row-major by its upper left corner.
        restart: its number, from 0.
        loss: at the last step.
    """

    flipped: bool
    image: Tensor
    predicted: int
    place: int
    restart: int
    loss: float


@dataclass(frozen=True)
class _Start:
    """Where a restart begins: the patch's place, the window w to be won over, or `NOTHING`, and the rival class."""

    place: int
    window: int
    rival: int


class WindowAttack:
    """The attack on the images of a classifier, one after the other.

    Args:
        decide: judges; the classifier's `predict`, or the outputs of a defence with alarms.
        alarms: whether it is one, so that single windows have to be won over, and no pairs.
        places: (top, left) of the patch, of which each restart takes the next; by default those that promise most.
    """

    def __init__(
        self,
        classifier: WindowMaskedClassifier,
        threat: PatchThreat,
        effort: Effort,
        decide: Decide,
        seed: int,
        alarms: bool = False,
        places: Sequence[tuple[int, int]] = (),
    ):
        self.classifier, self.threat, self.effort, self.decide = classifier, threat, effort, decide
        self.seed, self.alarms = seed, alarms
        self.places = [top * threat.shape[1] + left for top, left in places]
        self.covering = classifier.windows.covering(threat.patch).flatten(1)  # (M, L)

    def __call__(self, image: Tensor, label: int, index: int, asked: OneImageAsked | None = None) -> Attempt:
        """Attack one image (C, H, W); its `index` and the seed fix what is random.

        Args:
            asked: what was asked about the clean image already.

        Raises:
            ValueError: the network hands no gradient on.
        """
        generator, best = torch.Generator().manual_seed(self.seed * 1_000_003 + index), None
        starts = self._starts(image, label, generator, asked or self.classifier)
        for restart in range(self.effort.restarts):
            start = next(starts)
            attacked, loss = self._climb(image, label, start, generator)
            predicted = int(self.decide(attacked[None])[0])
            attempt = Attempt(predicted not in (label, ALARM), attacked, predicted, start.place, restart, loss)
            if attempt.flipped:
                return attempt
            best = attempt if best is None or loss > best.loss else best
        assert best is not None, "there is one restart at least"
        return best

    def _starts(
        self, image: Tensor, label: int, generator: torch.Generator, asked: WindowMaskedClassifier
    ) -> Iterator[_Start]:
        """Yield where restarts begin: in both windows of each pair, from the nearest to failing on, again and again."""
        pairs, rivals = self._nearest(image, label, asked)
        roles = [
            (hiding, window if window != hiding else NOTHING, rival)
            for (first, second), rival in zip(pairs.tolist(), rivals.tolist(), strict=True)
            for hiding, window in dict.fromkeys(((second, first), (first, second)))
        ]
        number = 0
        while True:
            if self.places:
                place = self.places[number % len(self.places)]
                held = (role for role in roles if self.covering[role[0], place])
                _, window, rival = next(held, roles[0])
            else:
                hiding, window, rival = roles[number % len(roles)]
                place = self._place_in(hiding, window, generator)
            yield _Start(place, window, rival)
            number += 1

    def _nearest(self, image: Tensor, label: int, asked: WindowMaskedClassifier) -> tuple[Tensor, Tensor]:
        """Pairs of windows (Q, 2), or single ones twice, and the strongest rival without each, (Q,) int64.

        Those first without which the label leads by least, or is behind.
        """
        count = self.classifier.windows.count
        pairs = torch.triu_indices(count, count, offset=0 if self.alarms or count == 1 else 1).T
        if self.alarms:
            pairs = pairs[pairs[:, 0] == pairs[:, 1]]
        logits = asked.of_image(image, pairs)
        others = logits.index_fill(1, torch.tensor([label]), -torch.inf)
        order = (logits[:, label] - others.amax(dim=1)).argsort(stable=True)
        return pairs[order], others.argmax(dim=1)[order]

    def _place_in(self, hiding: int, window: int, generator: torch.Generator) -> int:
        """A place that the window `hiding` covers, and the other `window` does not if there is such a one."""
        held = self.covering[hiding]
        alone = held & ~self.covering[window] if window != NOTHING else held
        for chosen in (alone, held, torch.ones_like(held)):
            if chosen.any():
                break
        places = chosen.nonzero().flatten()
        return int(places[torch.randint(len(places), (), generator=generator)])

    def _climb(self, image: Tensor, label: int, start: _Start, generator: torch.Generator) -> tuple[Tensor, float]:
        """The attacked image (C, H, W) after all steps, and the loss of the last one."""
        lower, upper = self.threat.box(image[None], torch.tensor([start.place], device=image.device))
        noise = torch.rand(image.shape, generator=generator).to(image.device)
        attacked, velocity = (lower + (upper - lower) * noise).clamp(lower, upper), torch.zeros_like(lower)
        loss = torch.zeros(())
        for step in range(self.effort.steps):
            pairs = self._masks(start, generator)
            attacked = attacked.detach().requires_grad_()
            shown = attacked.expand(len(pairs), -1, -1, -1)
            logits = self.classifier.logits(shown, pairs)
            if not step:
                networks.require_gradient(logits, shown)
            loss = self._loss(logits.log_softmax(dim=1), label, start.rival)
            (gradient,) = torch.autograd.grad(loss, attacked)
            velocity = self.effort.momentum * velocity + gradient / gradient.abs().sum().clamp_min(TINY)
            attacked = (attacked + self.effort.step_size * velocity.sign()).clamp(lower, upper)
        return attacked.detach()[0], float(loss.detach())

    def _loss(self, log_p: Tensor, label: int, rival: int) -> Tensor:
        """What steps raise, from log-probabilities (B, K)."""
        if self.effort.loss == "margin":
            return (log_p[:, rival] - log_p[:, label]).clamp_max(CONTENT).mean()
        return log_mean_softmax(log_p[None], log_p[None], torch.tensor([label], device=log_p.device))[0]

    def _masks(self, start: _Start, generator: torch.Generator) -> Tensor:
        """(B, 2): without w; then by turns without another window alone and without w and another one, at random.

        Only windows count that leave the patch in sight.
        """
        in_sight = (~self.covering[:, start.place]).nonzero().flatten()
        own = torch.tensor([[start.window, start.window]])
        if not len(in_sight):
            return own
        others = in_sight[torch.randint(len(in_sight), (AT_ONCE - 1,), generator=generator)]
        beside = others.clone()
        if start.window != NOTHING:
            beside[::2] = start.window
        return torch.cat([own, torch.stack([beside, others], dim=1)])
