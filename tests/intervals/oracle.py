"""The plain construction: one full image per place, pushed through the network layer by layer."""

import torch

from patchcert.intervals.bounds import Box, margins, through
from patchcert.intervals.places import corners_of


def plain_boxes(images, threat, scale, corners):
    """A box (P·N, C, H, W) of inputs for each of the corners (P, 2), or (P, N, 2) where images have their own."""
    if corners.dim() == 2:
        corners = corners[:, None].expand(-1, len(images), -1)
    lower, upper = (images.repeat(len(corners), 1, 1, 1, 1) for _ in range(2))
    for place, own in enumerate(corners.tolist()):
        for image, (row, column) in enumerate(own):
            under = image, ..., slice(row, row + threat.patch.height), slice(column, column + threat.patch.width)
            lower[place][under] = (images[under] - threat.epsilon).clamp(min=0)
            upper[place][under] = (images[under] + threat.epsilon).clamp(max=1)
    return Box(scale.inputs(lower.flatten(0, 1)), scale.inputs(upper.flatten(0, 1)))


def plain_margins(network, images, labels, threat, scale, corners=None):
    """(P, N, K): margin bounds at the corners (P, 2) or (P, N, 2), by default all places."""
    corners = corners_of(threat.patch, *images.shape[2:]) if corners is None else corners
    box = through(network[:-1], plain_boxes(images, threat, scale, corners))
    ends = (end.unflatten(0, (-1, len(images))) for end in (box.lower, box.upper))
    return margins(network[-1], Box(*ends), labels)


def plain_tight_margins(network, images, labels, threat, scale):
    """(N, K): tight sparse bounds of a network that begins with flatten and linear, from the moves of all inputs."""
    weight, clean = network[1].weight, network[1](scale.inputs(images).flatten(1))
    up, down = (scale.lengths(room.clamp(max=threat.epsilon)).flatten(1)[:, None] for room in (1 - images, images))
    rises = torch.where(weight > 0, weight * up, -weight * down)  # (N, D, I)
    falls = torch.where(weight > 0, weight * down, -weight * up)
    rise, fall = (moves.topk(threat.k, dim=2).values.sum(dim=2) for moves in (rises, falls))
    box = through(network[2:-1], Box(clean - fall, clean + rise))
    return margins(network[-1], Box(box.lower[None], box.upper[None]), labels)[0]
