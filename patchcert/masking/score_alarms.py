"""Alarms where scores are added up: from what each place of a patch leaves, or of two patches each pair of places."""

import math

from torch import Tensor

from patchcert.errors import UsageError
from patchcert.masking.alarms import Alarms
from patchcert.masking.double_masking import BYTES_AT_ONCE, DoubleMasking
from patchcert.masking.margins import Margin

MOST_PAIRS = 1 << 20
"""Pairs of places that are looked at one by one; patches on 32 × 32 pixels have fewer."""

SUMS_AT_ONCE = 4
"""Tensors as large as the sums that are held beside each other: families' parts, and confidences."""


def of_scores(
    masking: DoubleMasking, scores: Tensor, margin: Margin, magnitudes: Tensor, whole: Tensor, at_once: int = 1
) -> Alarms:
    """What a defence with alarms answers.

    Args:
        masking: of one patch.
        scores: (N, A, K), of all copies.
        magnitudes: (N, A), as of `DoubleMasking.verdicts`.
        whole: (N,) int64, the class of the whole image.
        at_once: how many patches there may be. Two lie at some pair of places, or both at one place.
    """
    scores, added = scores.double(), margin.relative * magnitudes.double()[..., None]
    sets = [len(of_family) for of_family in masking.touched]
    of_image = 8 * scores.shape[2] * (math.prod(sets) + (sum(size**2 for size in sets) if at_once == 2 else 0))
    some = max(1, BYTES_AT_ONCE // of_image)
    parts = zip(scores.split(some), added.split(some), whole.split(some), strict=True)
    of_some = _of_pairs if at_once == 2 else _of_places
    return Alarms.concatenate([of_some(masking, *part) for part in parts])


def require_few_places(masking: DoubleMasking) -> None:
    """Raise UsageError if there are too many pairs of places for alarms by confidence against two patches."""
    places = len(masking.set_numbers()[0])
    pairs = places * (places + 1) // 2
    if pairs > MOST_PAIRS:
        taken = f"alarms by confidence take at most {MOST_PAIRS} of them, strict alarms take more"
        raise UsageError("patches", 2, f"there are {pairs} pairs of places here, and {taken}")


def _of_places(masking: DoubleMasking, scores: Tensor, added: Tensor, whole: Tensor) -> Alarms:
    left, less = masking.left_by_one(scores), masking.left_by_one(added)
    return Alarms.of_sums(left, less.squeeze(2), whole, masking.temperature)


def _of_pairs(masking: DoubleMasking, scores: Tensor, added: Tensor, whole: Tensor) -> Alarms:
    some = max(1, BYTES_AT_ONCE // (SUMS_AT_ONCE * 8 * len(scores) * scores.shape[2]))
    left = zip(masking.left_by_two(scores, some), masking.left_by_two(added, some), strict=True)
    return Alarms.of_all([Alarms.of_sums(sums, less.squeeze(2), whole, masking.temperature) for sums, less in left])
