"""Smoothing written out anew: visible pixels as sets, one image, one ablated copy, one place after the other."""

from itertools import combinations as choices
from itertools import product

import torch


def rectangle(top, left, height, width):
    return set(product(range(top, top + height), range(left, left + width)))


def whole(height, width):
    return [rectangle(0, 0, height, width)]


def bands(height, width, size):
    return [{(row, (start + k) % width) for row in range(height) for k in range(size)} for start in range(width)]


def rows(height, width, size):
    return [{((start + k) % height, column) for column in range(width) for k in range(size)} for start in range(height)]


def blocks(height, width, size):
    corners = product(range(height), range(width))
    return [{((i + top) % height, (j + left) % width) for i, j in rectangle(0, 0, size, size)} for top, left in corners]


def multi_bands(height, width, size, keep):
    aligned = [rectangle(0, left, height, size) for left in range(0, width - size + 1, size)]
    return [set.union(*chosen) for chosen in choices(aligned, keep)]


def multi_blocks(height, width, size, keep):
    corners = product(range(0, height - size + 1, size), range(0, width - size + 1, size))
    return [set.union(*chosen) for chosen in choices([rectangle(*corner, size, size) for corner in corners], keep)]


def windows(height, width, size, per_side):
    """They begin at ⌊(side − size) · i / (k − 1)⌋."""
    starts = [[(side - size) * i // (per_side - 1) for i in range(per_side)] for side in (height, width)]
    return [rectangle(*corner, size, size) for corner in product(*starts)]


def overlaps(side, coarse, fine):
    """Where the first coarse and the first fine window overlap that hold the largest square that both can hold."""
    kinds = [windows(side, side, *kind) for kind in (coarse, fine)]
    for held in range(side, 0, -1):
        places = [rectangle(*corner, held, held) for corner in product(range(side - held + 1), repeat=2)]
        if all(any(place <= window for window in kind) for kind in kinds for place in places):
            break
    found = [tuple(next(window for window in kind if place <= window) for kind in kinds) for place in places]
    return [first & second for i, (first, second) in enumerate(found) if (first, second) not in found[:i]]


def pairs_and_singles(count):
    """The numbers of two windows each, and then those of one, twice."""
    return [*choices(range(count), 2), *((number, number) for number in range(count))]


def window_pairs(height, width, size, per_side):
    hidden = windows(height, width, size, per_side)
    return [rectangle(0, 0, height, width) - hidden[i] - hidden[j] for i, j in pairs_and_singles(len(hidden))]


def encoded(image, copies):
    """(A, 2C, H, W): what a network sees of `copies` of one image (C, H, W)."""
    inputs = torch.zeros(len(copies), 2 * len(image), *image.shape[1:])
    for seen, shown in zip(inputs, copies, strict=True):
        where = ..., *zip(*shown, strict=True)
        seen[where] = torch.cat([image[where], 1 - image[where]])
    return inputs


@torch.no_grad()
def probabilities(network, image, copies):
    """(A, K): the softmax outputs for `copies` of one image (C, H, W)."""
    return network(encoded(image, copies)).softmax(dim=1)


def votes(p, threshold):
    """(A, K) bool; without a threshold each copy votes for its most probable class alone."""
    return p >= threshold if threshold is not None else torch.nn.functional.one_hot(p.argmax(1), p.shape[1]) > 0


def touched(copies, height, width, patch):
    """(L, A) bool: whether the patch of `patch` rows and columns meets what a copy shows, at each of its places."""
    corners = product(range(height - patch[0] + 1), range(width - patch[1] + 1))
    places = [rectangle(*corner, *patch) for corner in corners]
    return torch.tensor([[not place.isdisjoint(shown) for shown in copies] for place in places])


def verdict(votes, touched, certificate):
    """The columns of the table per image for votes (A, K) of one image and the (L, A) copies that a patch touches."""
    counts = votes.sum(dim=0).tolist()
    winner, second = sorted(range(len(counts)), key=lambda c: (-counts[c], c))[:2]
    if certificate == "margin":
        stands = counts[winner] - counts[second] >= 2 * max(map(sum, touched.tolist())) + (second < winner)
    else:
        stands = all(_wins(winner, votes[~hit].sum(dim=0).tolist(), int(hit.sum())) for hit in touched)
    return {
        "predicted": winner,
        "votes": counts[winner],
        "runner_up": second,
        "runner_up_votes": counts[second],
        "certified": stands,
    }


def _wins(winner, kept, lost):
    """Whether `winner` wins with `kept` votes (K,) whatever `lost` copies vote."""
    return all(kept[winner] >= kept[c] + lost + (c < winner) for c in range(len(kept)) if c != winner)


def double_masked(scores, places):
    """The two-round prediction for scores (A, K) of one image and the (L, A) copies touched at each place."""
    first = [_best(scores[~place].sum(0)) for place in places]
    most_frequent = min(set(first), key=lambda c: (-first.count(c), c))
    for place, answer in zip(places, first, strict=True):
        if answer != most_frequent and all(_best(scores[~(place | other)].sum(0)) == answer for other in places):
            return answer
    return most_frequent


def _best(sums):
    return sums.tolist().index(max(sums.tolist()))
