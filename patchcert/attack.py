"""Patch and L∞ attacks on smoothed and undefended classifiers, judged by their hard decision.

The attacker of Levine and Feizi, NeurIPS 2020: projected gradient ascent by sign steps, many restarts, each
with the patch at a new place. A count of votes has no gradient, so the ascent follows a loss of the softmax
outputs that stand behind the votes; what counts as broken is decided by the votes alone.

Whatever the attacker may do is a box: each pixel lies between a lower and an upper bound. Outside the patch
both are the clean pixel, so an attacked image agrees with the clean one there bit for bit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from patchcert.ablation import Ablation, Patch, Whole, encode
from patchcert.certificate import predict
from patchcert.results import progress_bar
from patchcert.voting import TopOneVote, VoteRule

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Log-probabilities (R, A, K), votes (R, A, K) and labels (R,) to what the attack on each image raises, (R,)."""

TINY = torch.finfo(torch.float).tiny

SPREAD = 1000
CONTENT = 1.0
RANKING_STEPS = 4
"""Steps after which `--locations all` compares places."""


# ---- what is attacked --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classifier:
    """The class with most votes of ablated copies.

    Attributes:
        network: base classifier, encoded images (B, 2C, H, W) to logits (B, K), in eval mode, its weights fixed.
        ablation: the copies.
        rule: how they vote.
    """

    network: nn.Module
    ablation: Ablation
    rule: VoteRule

    def logits(self, images: Tensor, rows: Tensor, copies: Tensor) -> Tensor:
        """(P, K): what the network says of image `rows` (P,) out of `images` (R, C, H, W) under ablation `copies` (P,)."""
        visible = self.ablation.masks(copies)[:, None]  # (P, 1, H, W)
        return self.network(encode(images)[rows] * visible)


def undefended(network: nn.Module, height: int, width: int) -> Classifier:
    """The classifier of a `network` without defence: the one vote of a single copy that shows everything."""
    return Classifier(_Unencoded(network), Whole(height, width), TopOneVote())


class _Unencoded(nn.Module):
    """Shows a network of plain images (B, C, H, W) the first half of encoded ones (B, 2C, H, W), which is x."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, encoded: Tensor) -> Tensor:
        return self.network(encoded.chunk(2, dim=1)[0])


# ---- what the attacker may do ------------------------------------------------------------------------------------


class Threat(Protocol):
    """The attacker's freedom at each of `places`.

    Attributes:
        shape: rows and columns of places.
        touched: (L, A) bool, whether the attacker reaches ablation a from place ℓ (row-major).
    """

    shape: tuple[int, int]
    touched: Tensor

    def box(self, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (R, C, H, W) of attacked `images` (R, C, H, W) at `places` (R,)."""
        ...


class PatchThreat:
    """Anything in [0, 1] inside one patch, which lies inside the image."""

    def __init__(self, patch: Patch, ablation: Ablation):
        self.patch = patch
        self.shape = ablation.height - patch.height + 1, ablation.width - patch.width + 1
        self.touched = ablation.touched_by(patch)

    def box(self, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        inside = self.inside(images, places)
        return images.where(~inside, 0.0), images.where(~inside, 1.0)

    def inside(self, images: Tensor, places: Tensor) -> Tensor:
        """(R, 1, H, W) bool: the pixels of the patch."""
        height, width = images.shape[2:]
        top, left = (places // self.shape[1])[:, None], (places % self.shape[1])[:, None]
        rows, columns = torch.arange(height, device=places.device), torch.arange(width, device=places.device)
        in_rows = (rows >= top) & (rows < top + self.patch.height)
        in_columns = (columns >= left) & (columns < left + self.patch.width)
        return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


class BallThreat:
    """Every pixel by at most `epsilon` (ε), within [0, 1]: the L∞ ball."""

    shape = (1, 1)

    def __init__(self, epsilon: float, ablation: Ablation):
        self.epsilon = epsilon
        self.touched = torch.ones(1, ablation.count, dtype=torch.bool, device=ablation.cells.device)

    def box(self, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds whose distance from the image, in exact arithmetic on the floats, is at most ε."""
        exact = images.double()  # differences of the floats that occur here are exact in double precision
        lower, upper = (exact - self.epsilon).float(), (exact + self.epsilon).float()
        one_up, one_down = lower.nextafter(torch.ones_like(lower)), upper.nextafter(torch.zeros_like(upper))
        lower = torch.where(exact - lower.double() > self.epsilon, one_up, lower)
        upper = torch.where(upper.double() - exact > self.epsilon, one_down, upper)
        return lower.clamp_min(0), upper.clamp_max(1)


# ---- what the attack raises --------------------------------------------------------------------------------------


def log_mean_softmax(log_p: Tensor, votes: Tensor, labels: Tensor) -> Tensor:
    """(R,): −log of the mean probability of the label over all copies; the cross entropy if there is one copy."""
    of_label = _of_class(log_p, labels)
    return math.log(of_label.shape[1]) - of_label.logsumexp(dim=1)


def margin(log_p: Tensor, votes: Tensor, labels: Tensor) -> Tensor:
    """(R,): how far the strongest rival is ahead of the label, in log-probability, averaged over the copies.

    With one copy it is the difference of two logits. A copy that is ahead by `CONTENT` is won and pulls no more,
    so that the patch serves the copies still to be won. The rival has the most votes, among equals the highest
    mean probability.
    """
    standing = votes.sum(dim=1) + log_p.detach().exp().mean(dim=1)  # (R, K)
    rivals = standing.scatter(1, labels[:, None], -1).argmax(dim=1)
    lead = _of_class(log_p, rivals) - _of_class(log_p, labels)
    return lead.clamp_max(CONTENT).mean(dim=1)


def _of_class(log_p: Tensor, classes: Tensor) -> Tensor:
    """(R, A): the entries of `log_p` (R, A, K) for one class per image (R,)."""
    return log_p.gather(2, classes[:, None, None].expand(-1, log_p.shape[1], 1)).squeeze(2)


# ---- the attack --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ascent:
    """How one trial climbs: sign steps of `step_size`, on gradients summed up with factor `momentum`."""

    loss: Loss
    steps: int
    step_size: float
    momentum: float


@dataclass(frozen=True)
class Targets:
    """N correctly classified images and what is known of them beforehand; axis 0 of every tensor is the image.

    Attributes:
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) int64.
        indices: (N,) int64, places in the data set's own order; with the seed they fix an image's randomness.
        probabilities: (N, A, K), the softmax of every copy of the clean image.
        certified: (N,) bool, images of which a certificate says that the attack cannot flip them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    probabilities: Tensor
    certified: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Findings:
    """How N attacks ended; axis 0 of every tensor is the image.

    Attributes:
        flipped: (N,) bool, whether the hard decision left the label.
        images: (N, C, H, W), the adversarial image; the clean one where none was found.
        votes: (N, K) int64, votes for `images`.
        place, restart, step: (N,) int64, where and when it was found; −1 where none was. A place is numbered
            row-major by the patch's upper left corner, a step is 0 for the random start.
    """

    flipped: Tensor
    images: Tensor
    votes: Tensor
    place: Tensor
    restart: Tensor
    step: Tensor

    @classmethod
    def none_yet(cls, images: Tensor, votes: Tensor) -> "Findings":
        nowhere = torch.full((len(images),), -1, device=images.device)
        return cls(nowhere >= 0, images.clone(), votes, nowhere, nowhere.clone(), nowhere.clone())


class BrokenCertificate(Exception):
    """An image was flipped though a certificate says that this cannot be; `number` is its place in the targets."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@dataclass(frozen=True)
class _Trials:
    """R images under attack together, each at one place; axis 0 of every tensor is the trial.

    Attributes:
        numbers: (R,) int64, which target.
        labels, places: (R,) int64.
        lower, upper: (R, C, H, W) float, bounds of every pixel.
        touched: (R, A) bool, the copies that depend on the attack.
        log_p, votes: (R, A, K), of the copies of the clean image.
    """

    numbers: Tensor
    labels: Tensor
    places: Tensor
    lower: Tensor
    upper: Tensor
    touched: Tensor
    log_p: Tensor
    votes: Tensor

    def take(self, chosen: Tensor) -> Self:
        return type(self)(*(tensor[chosen] for tensor in vars(self).values()))


class Attack:
    """The attack on `targets`: who still stands, and how the others fell.

    Only copies that the attacker can reach are computed again at each step; the others keep the probabilities
    and votes of the clean image.

    Args:
        batch_size: ablated copies per call of the network, unless one image alone has more.
    """

    def __init__(
        self, classifier: Classifier, threat: Threat, ascent: Ascent, targets: Targets, seed: int, batch_size: int
    ):
        self.classifier, self.threat, self.ascent, self.targets = classifier, threat, ascent, targets
        self.together = max(1, batch_size // int(threat.touched.sum(dim=1).max()))
        self.votes = classifier.rule(targets.probabilities)
        self.log_p = targets.probabilities.clamp_min(TINY).log()
        self.findings = Findings.none_yet(targets.images, self.votes.sum(dim=1))
        self.generators = [
            torch.Generator().manual_seed(seed * 1_000_003 + index) for index in targets.indices.tolist()
        ]
        self.restarts = 0

    def standing(self) -> Tensor:
        """(R,) int64: the targets that no restart has flipped yet."""
        return (~self.findings.flipped).nonzero().squeeze(1)

    def random_places(self, numbers: Tensor) -> Tensor:
        """(R,) int64: a place for each of the targets `numbers`, by its own generator."""
        count = len(self.threat.touched)
        drawn = [torch.randint(count, (), generator=self.generators[n]) for n in numbers.tolist()]
        return torch.stack(drawn).to(numbers.device)

    def restart(self, numbers: Tensor, places: Tensor, steps: int, step_size: float) -> Tensor:
        """Attack each of the targets `numbers` (R,) once, at its place out of `places` (R,).

        Returns:
            (R,) float, the loss after the last step; ∞ where the image flipped.

        Raises:
            BrokenCertificate: a certified image flipped.
        """
        losses = [
            self._climb(self._trials(*batch), steps, step_size)
            for batch in zip(numbers.split(self.together), places.split(self.together), strict=True)
        ]
        self.restarts += 1
        broken = (self.findings.flipped & self.targets.certified).nonzero()
        if len(broken):
            raise BrokenCertificate(int(broken[0]))
        return torch.cat(losses)

    def _trials(self, numbers: Tensor, places: Tensor) -> _Trials:
        bounds = self.threat.box(self.targets.images[numbers], places)
        labels, touched = self.targets.labels[numbers], self.threat.touched[places]
        return _Trials(numbers, labels, places, *bounds, touched, self.log_p[numbers], self.votes[numbers])

    def _climb(self, trials: _Trials, steps: int, step_size: float) -> Tensor:
        """`restart` for one batch."""
        final = torch.full((len(self.targets),), math.inf, device=trials.labels.device)
        numbers, images = trials.numbers, self._random_start(trials)
        velocity = torch.zeros_like(images)
        for step in range(steps + 1):
            loss, gradient, votes = self._look(images, trials, with_gradient=step < steps)
            flipped = predict(votes) != trials.labels
            if flipped.any():
                self._record(trials.take(flipped), images[flipped], votes[flipped], step)
                stands = ~flipped
                trials, images, velocity = trials.take(stands), images[stands], velocity[stands]
                loss, gradient = loss[stands], gradient[stands]
            if step < steps:
                size = gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(TINY)
                velocity = self.ascent.momentum * velocity + gradient / size
                images = (images + step_size * velocity.sign()).clamp(trials.lower, trials.upper)
            if not len(images):
                break
        final[trials.numbers] = loss
        return final[numbers]

    def _random_start(self, trials: _Trials) -> Tensor:
        """(R, C, H, W): a random image between the bounds of each trial, by its target's own generator."""
        shape = trials.lower.shape[1:]
        noise = [torch.rand(shape, generator=self.generators[n]) for n in trials.numbers.tolist()]
        spread = (trials.upper - trials.lower) * torch.stack(noise).to(trials.lower.device)
        return (trials.lower + spread).clamp(trials.lower, trials.upper)

    def _look(self, images: Tensor, trials: _Trials, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (R,), its gradient (R, C, H, W), zero without `with_gradient`, and votes n_c (R, K) for `images`."""
        rows, copies = trials.touched.nonzero(as_tuple=True)
        with torch.set_grad_enabled(with_gradient):
            images = images.detach().requires_grad_(with_gradient)
            logits = self.classifier.logits(images, rows, copies)  # (P, K)
            log_p = trials.log_p.index_put((rows, copies), logits.log_softmax(dim=-1))
            votes = trials.votes.index_put((rows, copies), self.classifier.rule(logits.detach().softmax(dim=-1)))
            loss = self.ascent.loss(log_p, votes, trials.labels)
        gradient = torch.autograd.grad(loss.sum(), images)[0] if with_gradient else torch.zeros_like(images)
        return loss.detach(), gradient, votes.sum(dim=1)

    def _record(self, trials: _Trials, images: Tensor, votes: Tensor, step: int) -> None:
        """Note adversarial `images` of `trials`, all of which flipped at `step` of this restart."""
        for found, value in (
            (self.findings.flipped, True),
            (self.findings.images, images),
            (self.findings.votes, votes),
            (self.findings.place, trials.places),
            (self.findings.restart, self.restarts),
            (self.findings.step, step),
        ):
            found[trials.numbers] = value


def try_random_places(attack: Attack, restarts: int) -> None:
    """Each restart has the patch at a random place."""
    for _ in range(restarts):
        standing = attack.standing()
        if len(standing):
            attack.restart(standing, attack.random_places(standing), attack.ascent.steps, attack.ascent.step_size)


def try_all_places(attack: Attack, restarts: int) -> None:
    """Coarse to fine: rank places by a few steps, spend the rest on the best; no more steps than `restarts` have.

    Ranking takes up to half of the steps. If they suffice for every place, every place is ranked; else a grid of
    them, and then the neighbours of each image's best place at half the distance, again and again down to 1.
    """
    steps, step_size = attack.ascent.steps, attack.ascent.step_size
    few = min(RANKING_STEPS, steps)
    budget = restarts * (steps + 1)  # looks at an image
    rows, columns = attack.threat.shape
    stride = 1
    while -(-rows // stride) * -(-columns // stride) * (few + 1) > budget / 2 and stride < max(rows, columns):
        stride *= 2
    ranks = torch.full((len(attack.targets), rows * columns), -math.inf, device=attack.targets.labels.device)

    def rank(places: Tensor) -> None:
        nonlocal budget
        standing = attack.standing()
        if len(standing):
            places = places.expand(len(ranks))[standing]
            ranks[standing, places] = attack.restart(standing, places, few, max(step_size, 1 / few))
        budget -= few + 1

    grid = torch.arange(rows * columns, device=ranks.device).view(rows, columns)
    coarse = grid[stride // 2 :: stride, stride // 2 :: stride].flatten()
    for place in coarse:
        rank(place)
    while stride > 1:
        stride //= 2
        best = ranks.argmax(dim=1)
        for down in (-stride, 0, stride):
            for right in (-stride, 0, stride):
                if down or right:
                    rank((best // columns + down).clamp(0, rows - 1) * columns + (best % columns + right).clamp(0, columns - 1))
    order = ranks.argsort(dim=1, descending=True)
    for k in range(budget // (steps + 1)):
        standing = attack.standing()
        if len(standing):
            attack.restart(standing, order[standing, k % min(SPREAD, len(coarse))], steps, step_size)
