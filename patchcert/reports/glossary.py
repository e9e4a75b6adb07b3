"""What the words and signs on a page mean, of those that occur there."""

from collections.abc import Iterable, Sequence

COLUMNS = {
    "run": "the file of results, or the network in it",
    "clean": "the share of images that get the right class while nobody attacks",
    "certified": "the share of images that get the right class and keep it, whatever a patch shows and wherever it "
    "lies; this is proved, not only tested",
    "attacked": "the share of images that get the right class and keep it under one attack; another attack may "
    "find more",
    "certified wrong": "the number of images that get a wrong class, and that no patch changes",
    "patch": "rows × columns of pixels that the attacker may change at will, anywhere in the image",
    "patches": "how many such patches the attacker has",
    "certificate": "the kind of proof that no patch changes an answer; the kinds are explained below",
    "promise": "what is certified for hidden windows: recovery is the right class; with alarms it is the right class "
    "or an alarm. An alarm on a clean image counts as an error. A strict alarm is raised if, with some window hidden, "
    "the answer changes; with τ (tau), only if the changed answer has a confidence above τ",
    "θ": "theta, the threshold of a vote: a copy votes for each class whose probability is at least θ",
    "ν": "nu, the numerical margin: room for rounding. An answer is certified only if it would stay the same after "
    "every number that it rests on had changed by ν",
    "s": "the width of the band or block that a copy shows, in pixels",
    "images": "the number of images",
    "ms per image": "milliseconds of computing per image, for all questions of the run together",
}
"""The headings of the table of answers."""

CERTIFICATES = {
    "margin": "a certificate: a patch touches at most Δ (delta) copies, so the winner must be ahead by more "
    "than 2Δ votes, or by 2Δ if a tie goes its way",
    "exact": "a certificate: for each place of the patch, only the votes of the copies that it touches there "
    "count as lost",
    "double masking": "a certificate: the answer must stay the same whichever two places of a patch are hidden",
    "randomized": "a certificate that draws copies at random, and holds except with a small probability α",
    "interval bounds": "a certificate: lower and upper bounds of the network's outputs, whatever the patch shows",
}
"""The kinds of certificates, as the column of that name has them."""

GALLERY = {
    "copy": "the image with some pixels hidden; the network answers for each copy, and the answers are combined",
    "lead": "how far the answer is ahead of the next class, in votes or in logits (the network's scores for classes); "
    "below 0, a patch may change the answer",
    "weak spot": "a place where a patch may take most of the answer's lead, or all of it",
    "window": "a rectangle of the image that is hidden from the network; wherever the patch lies, some window hides "
    "it, and the attacker cannot change what the network then answers",
    "dissent": "to give, with a window hidden, another class than with most others; this hints "
    "at where an image was tampered with, but it is no certificate",
}
"""What galleries are about."""


def of(headings: Iterable[str], certificates: Iterable[str], words: Sequence[str]) -> dict[str, str]:
    """The explanations of a page's headings, of kinds of certificates and of `words` of `GALLERY`, in this order."""
    columns = {heading: COLUMNS[heading] for heading in headings}
    kinds = {kind: CERTIFICATES[kind] for kind in CERTIFICATES if kind in set(certificates)}
    return columns | kinds | {word: GALLERY[word] for word in words}
