"""By how much a lead of added scores must exceed 0, so that no rounding undoes it.

A lead is Σ_a (s_ay − s_ak): over the copies a that a pair of places leaves, the scores of the class y less those of a
rival k. Let M_a be the largest magnitude of the logits of copy a, or where these are mixed of other logits, what
`engines.added_up` and `engines.pairs` say of what was mixed. Two things round.

Adding. Scores have 24 significant bits at most and are added up in float64, whose unit is u = 2⁻⁵³. A sum of n terms,
in any order, is off by at most (n − 1) · u · Σ|s| (to first order), so that of up to 2²⁰ copies a lead is off by less
than 2⁻³² · Σ M_a.

The network. Asked in another batch, or by other threads, it gives a copy logits that differ in their last digits. This
is measured, not proven, and in proportion to M_a:

    float32         a logit by up to 9 · 2⁻²³ · M_a, for its products are added up in another order. A lead is made of
                    two logits of each copy: 18 · 2⁻²³ · Σ M_a if all copies err to its harm, and 32 · 2⁻²³ = 2⁻¹⁸ are
                    kept. Of whole leads 0.7 · 2⁻²³ · Σ M_a is the most that was seen.
    TF32, bfloat16  sums are rounded to 11 and to 8 significant bits, mostly to the same. Where they are not, the last
                    bit differs: one logit of every copy by 2⁻¹⁰, or 2⁻⁷, of M_a. Emulated, leads differed by up to
                    a thirteenth of that, see docs/threat-model.md.

Where logits are large, that is more than any fixed number; where they are small, layers before the last may err by more
than it. So every lead must exceed both together: the numerical margin ν, and that share of its own Σ M_a.
"""

from dataclasses import dataclass
from typing import Self

from patchcert.arithmetic import RELATIVE_MARGINS


@dataclass(frozen=True)
class Margin:
    """By how much leads must exceed 0; by nothing where scores are votes, whole numbers that add up exactly.

    Attributes:
        numerical: ν, in units of the scores.
        relative: share of the magnitudes that were added up.
    """

    numerical: float
    relative: float = 0.0

    @classmethod
    def of_scores(cls, numerical: float, arithmetic: str) -> Self:
        """That of scores which a network computed in this `arithmetic`, of `RELATIVE_MARGINS`."""
        return cls(numerical, RELATIVE_MARGINS[arithmetic])
