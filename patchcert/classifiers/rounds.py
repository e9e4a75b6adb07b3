"""The two rounds of double masking about one image, which ask about its copies with hidden windows while they must."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from patchcert.engines.added_up import parted
from patchcert.masking.double_masking import ahead, beats_all
from patchcert.masking.linked import WindowMasking

AT_ONCE = 4
"""Copies that are asked for before the first look at what they say; then twice as many each time."""


Asking = Generator[Tensor, Tensor, None]
"""Yields numbers of questions (B,), is sent the answers (B, K + 1)."""


class Copies(Protocol):
    """What is known of the copies of one image.

    Attributes:
        known: (A,) bool, the copies of which it is known what they say.
        mixed: (A, K + 1), that, and behind it what was added up.
    """

    known: Tensor
    mixed: Tensor

    def ask(self, copies: Tensor) -> Asking:
        """Get to know these copies (n,)."""


@dataclass(frozen=True)
class Wanted:
    """What is asked about images.

    Attributes:
        recovery: the prediction, by a second round where the first one leaves it open; else its most frequent answer.
        pairs: whether every pair of windows gives the answer, where those without one window agree.
        whole: what alarms are made of, for which the whole image is asked about, too.
        everything: also what decides nothing.
        at_once: against so many patches alarms are found; against two, `everything` has to be asked.
    """

    recovery: bool = True
    pairs: bool = True
    whole: bool = False
    everything: bool = False
    at_once: int = 1


RECOVERY = Wanted()
"""For predictions and certificates."""


@dataclass(frozen=True)
class Decision:
    """What the rounds for one patch say of one image; `lead` is the least that was seen, `dissenting` is (k²,) bool."""

    predicted: int
    lead: float
    refuted: bool
    dissenting: Tensor


class Rounds:
    """The two rounds for one patch, on one image.

    Args:
        bands: of the image, see `WindowMasking.of_bands`.
        numbers: (k², k²) int64, of copies.
    """

    def __init__(self, copies: Copies, masking: WindowMasking, bands: list[Tensor], numbers: Tensor, weight: float):
        self.copies, self.masking, self.bands, self.numbers, self.weight = copies, masking, bands, numbers, weight

    def decide(self, wanted: Wanted) -> Generator[Tensor, Tensor, Decision]:
        first = self.masking.first_round(self.bands, self._scores(self.numbers.diagonal())[None])  # (1, P, K)
        answers, (windows,) = first[0].argmax(dim=1), self.masking.dissenting(first)
        counts = answers.bincount(minlength=first.shape[2])
        predicted = int(counts.argmax())
        for dissenting in counts.nonzero().squeeze(1).tolist():
            if not wanted.recovery or dissenting == predicted:
                continue
            if (yield from self._confirmed(dissenting, answers == dissenting)):
                predicted = dissenting
                break  # no place of another answer is confirmed as well: without both there is one answer
        if wanted.pairs and int(counts.amax()) == len(answers):
            lead, refuted = yield from self._unanimous(predicted)
            return Decision(predicted, lead, refuted, windows)
        leads = ahead(torch.tensor([predicted], device=first.device), first)[0]
        return Decision(predicted, _least(leads, predicted), True, windows)

    def _unanimous(self, winner: int) -> Generator[Tensor, Tensor, tuple[float, bool]]:
        """Ask for every pair of windows until one does not give the `winner`; the least lead, and whether one did."""
        copies, least = self.copies, torch.inf
        class_ = torch.tensor([winner], device=self.numbers.device)
        first, second = self.masking.windows.windows_hidden()
        bands = self.masking.bands_ahead(class_, self.bands)
        bands = bands[0, first, second] if self.bands else torch.zeros(len(first), 1, device=first.device)
        used = bands[:, 0] < torch.inf  # some place belongs to each of the two windows
        expected = _expected(self._ahead(class_, self.numbers.diagonal()), first, second, bands, winner)
        order = expected.argsort(stable=True)
        order = order[used[order]]
        asked, at_once = copies.known.new_zeros(len(used)), AT_ONCE
        while True:
            new = (copies.known & used & ~asked).nonzero().squeeze(1)
            leads = bands[new] + self._ahead(class_, new)
            least = min(least, _least(leads, winner))
            if not beats_all(leads, class_.expand(len(new))).all():
                return least, True
            asked[new] = True
            left = order[~asked[order]]
            if not len(left):
                return least, False
            yield from copies.ask(left[:at_once])
            at_once *= 2

    def _confirmed(self, dissenting: int, places: Tensor) -> Generator[Tensor, Tensor, bool]:
        """Whether some of the `places` (P,) bool gives that class with every second place besides it."""
        masking, copies = self.masking, self.copies
        class_ = torch.tensor([dissenting], device=self.numbers.device)
        for window in masking.window_at[places].unique().tolist():
            here = (places & (masking.window_at == window)).nonzero().squeeze(1)
            bands = masking.bands_ahead_from(here, class_, self.bands)  # (P', k², K)
            beside, used = self.numbers[window], (bands < torch.inf).any(dim=2).any(dim=0)
            singles = self._ahead(class_, self.numbers.diagonal())
            expected = _without(bands.amin(dim=0) + singles, dissenting).amin(dim=1)
            order = expected.argsort(stable=True)
            order, looked, at_once = order[used[order]], torch.zeros_like(used), AT_ONCE
            while len(here):
                new = (copies.known[beside] & used & ~looked).nonzero().squeeze(1)
                leads = bands[:, new] + self._ahead(class_, beside[new])
                stands = beats_all(leads, class_.expand(leads.shape[:2])).all(dim=1)
                here, bands, looked[new] = here[stands], bands[stands], True
                left = order[~looked[order]]
                if len(here) and not len(left):
                    return True
                if len(here):
                    yield from copies.ask(beside[left[:at_once]])
                    at_once *= 2
        return False

    def _scores(self, numbers: Tensor) -> Tensor:
        """(n, K) float64: the scores of some copies."""
        return (self.weight * parted(self.copies.mixed[numbers])[0]).double()

    def _ahead(self, class_: Tensor, numbers: Tensor) -> Tensor:
        """(n, K): how far the class (1,) is ahead in the scores of some copies."""
        return ahead(class_, self._scores(numbers)[None])[0]


def _expected(singles: Tensor, first: Tensor, second: Tensor, bands: Tensor, winner: int) -> Tensor:
    """(A,): roughly how far the `winner` will be ahead without two windows each, from its leads without one (k², K).

    Each window is taken to cost what it costs alone. The order follows from this, and nothing else does.
    """
    leads = bands + singles[first] + singles[second] - singles.amax(dim=0)
    return _without(leads, winner).amin(dim=1)


def _without(leads: Tensor, winner: int) -> Tensor:
    """The leads (n, K) over all classes but the winner itself."""
    own = torch.arange(leads.shape[1], device=leads.device) == winner
    return leads.masked_fill(own, torch.inf)


def _least(leads: Tensor, winner: int) -> float:
    """The least of the leads (n, K), infinite if there is none."""
    return float(_without(leads, winner).amin()) if leads.numel() else torch.inf
