"""Whether a network always gives the same answer to a question: to the bit, or up to rounding in other batches."""

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from patchcert.arithmetic import ROUNDING, Levels, ShakenSums, coarser, coarsest

EACH_TIME = "a network must give the same answer each time"

SHARES, TIMES = [2.0**-20, 2.0**-16, 2.0**-13, 2.0**-10], 4
"""By which shares sums are shaken, and how often by each, to see how far answers jump."""

SMOOTH = 2.0**-13
"""Shaken by no larger share, answers that do not jump change in equal steps, but for rounding.

Above, ReLUs bend them: at 2⁻¹⁰ by up to 15 times rounding, in networks of 9 to 40 layers."""


class Comparison:
    """Of what a network says, in logits (…, K), with its first answer, which is asked for twice.

    Args:
        ask: for these logits.

    Attributes:
        first: the answer.
        arithmetic: the coarsest in which it was computed, by its name in `NUMERICAL_MARGINS`.
        levels: whether some operation was of those that round to levels, see `arithmetic.JUMPING`.
        jumps: whether answers were seen to jump, see `note_jumps`.
        apart: how far answers that were noted were apart, at most.

    Raises:
        ValueError: the second time the answer is another one.
    """

    def __init__(self, ask: Callable[[], Tensor]):
        watch, self.ask = Levels(), ask
        with watch:
            self.first = ask().float()
        self.arithmetic = coarser(coarsest(self.first.device), watch.arithmetic)
        self.apart, self.size = 0.0, float(self.first.abs().max())
        self.levels, self.jumps = watch.levels, False
        self.require_equal(self.first, ask().float(), EACH_TIME)

    def note(self, first: Tensor, second: Tensor, right: str) -> None:
        """Note two answers; see `require_close`."""
        self.require_close(first, second, right)
        self.apart = max(self.apart, _apart(first, second))

    def note_jumps(self) -> None:
        """Note how far the first answer jumps if the network rounds to levels, as quantised ones do.

        There, adding up in another order moves few answers, and these by whole levels. So sums are shaken, more and
        more, until each of `TIMES` shakes makes some answer jump. Where half a shake and the other half change an
        answer by unequal steps, it has jumped.
        """
        for share in SHARES if self.levels else ():
            jumps = [self._jump(share, seed) for seed in range(TIMES)]
            smooth = self._rounding() * max(1.0, share / SMOOTH) ** 1.5
            self.apart = max(self.apart, *(jump for jump in jumps if jump > smooth), 0.0)
            self.jumps |= max(jumps) > smooth
            if min(jumps) > smooth:
                return

    def _jump(self, share: float, seed: int) -> float:
        """How far any answer jumps where sums are shaken by up to this share."""
        answers = [self.first]
        for part in (share / 2, share):
            with ShakenSums(part, seed):
                answers.append(self.ask().float())
        return _apart(*torch.stack(answers).diff(dim=0))

    def _rounding(self) -> float:
        """By how much answers may differ as they are rounded in another order."""
        return ROUNDING[self.arithmetic] * (1 + self.size)

    def require_close(self, first: Tensor, second: Tensor, right: str, times: int = 1) -> None:
        """Raise ValueError, which says what would be `right`, if they differ by more than so many `times` rounding."""
        if not _apart(first, second) <= times * self._rounding():
            self._refuse(first, second, right)

    def require_equal(self, first: Tensor, second: Tensor, right: str) -> None:
        """Raise ValueError, which says what would be `right`, unless both are the same to the bit."""
        if not first.equal(second):
            self._refuse(first, second, right)

    def require_equal_beside_others(
        self, ask: Callable[[Tensor], Tensor], shown: Tensor, together: Tensor, right: str, rounded: bool = False
    ) -> None:
        """Raise ValueError, which says what would be `right`, if an answer depends on what stands beside, to the bit.

        Noise, dark and bright, takes the place of half of what is `shown` (B, C, H, W), and then of the other half.

        Args:
            ask: for the answers (B, …) to images in place of `shown`.
            together: those to `shown` itself.
            rounded: answers may differ by rounding, which is noted.
        """
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(shown.shape, generator=generator).to(shown) / 10
        noise[1::2] = 1 - noise[1::2]
        some = torch.zeros(len(shown), dtype=torch.bool, device=shown.device)
        some[torch.randperm(len(shown), generator=generator)[::2]] = True
        compare = self.note if rounded else self.require_equal
        for kept in (some, ~some):
            beside = ask(shown.where(kept[:, None, None, None], noise))
            compare(together[kept], beside[kept], right)

    def _refuse(self, first: Tensor, second: Tensor, right: str) -> NoReturn:
        raise ValueError(f"{right}; here logits of about {self.size:.3g} differ by {_apart(first, second):.3g}")


def _apart(first: Tensor, second: Tensor) -> float:
    return float((first.float() - second.float()).abs().max())
