"""What the words and signs on a page mean, of those that occur there."""

from collections.abc import Iterable, Sequence

COLUMNS = {
    "run": "the file of results, or the network in it",
    "clean": "how many of the images get the right class while nobody attacks",
    "certified": "how many of the images get the right class and keep it, whatever a patch shows and wherever it lies; "
    "this is proved, not tried",
    "attacked": "how many of the images get the right class and keep it under the attack that was tried; another "
    "attack may find more",
    "certified wrong": "images that get a wrong class, and no patch changes that",
    "patch": "rows × columns of pixels that the attacker may change at will, anywhere in the image",
    "patches": "how many such patches the attacker has",
    "certificate": "how it is proved that no patch changes an answer; the kinds are explained below",
    "promise": "what is certified of hidden windows: recovery is the right class; with alarms it is the right class or "
    "an alarm. An alarm on a clean image counts as an error. Strict alarms are raised by any other answer without a "
    "window, those with τ (tau) only by one of more confidence than τ",
    "θ": "theta, the threshold of a vote: a copy votes for each class whose probability is at least θ",
    "ν": "nu, the numerical margin: room for rounding. An answer is certified only if it would stay the same after "
    "every number that it rests on had changed by ν",
    "s": "how wide a band or block is that a copy shows, in pixels",
    "images": "how many images were looked at",
    "ms per image": "milliseconds of computing for each image, for all questions of the run together",
}
"""The headings of the table of answers."""

CERTIFICATES = {
    "margin": "a certificate: a patch touches at most Δ (delta) copies, so the winner must be ahead by more "
    "than 2Δ votes, or by 2Δ if a tie goes its way",
    "exact": "a certificate: for each place of the patch, only the votes of the copies that it touches there "
    "count as lost",
    "double masking": "a certificate: the answer must stay the same whichever two places of a patch are hidden",
    "randomized": "a certificate that draws copies at random, and holds except with a small probability α",
    "interval bounds": "a certificate: limits that the network's outputs cannot leave, whatever the patch shows",
}
"""The kinds of certificates, as the column of that name has them."""

GALLERY = {
    "copy": "the image with most of it hidden; the network answers for each copy, and the answers are put together",
    "lead": "how far the answer is ahead of the next class, in votes or in logits (the network's scores for classes); "
    "below 0, a patch may change the answer",
    "weak spot": "a place where a patch would leave the answer little of its lead, or none",
    "window": "a rectangle of the image that is hidden from the network; wherever the patch lies, some window hides "
    "it, and what the network says then is out of the attacker's reach",
    "dissent": "to give another class than without most windows; the windows where that happens hint at where an "
    "image was tampered with, but this is no certificate",
}
"""What galleries are about."""


def of(headings: Iterable[str], certificates: Iterable[str], words: Sequence[str]) -> dict[str, str]:
    """The explanations of a page's headings, of kinds of certificates and of `words` of `GALLERY`, in this order."""
    columns = {heading: COLUMNS[heading] for heading in headings}
    kinds = {kind: CERTIFICATES[kind] for kind in CERTIFICATES if kind in set(certificates)}
    return columns | kinds | {word: GALLERY[word] for word in words}
