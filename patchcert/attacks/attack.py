"""Patch and L∞ attacks on smoothed and undefended classifiers, judged by their hard decision.

The attacker of Levine and Feizi, NeurIPS 2020: projected gradient ascent by sign steps, many restarts, each
with the patch at a new place. A count of votes has no gradient, so the ascent follows a loss of the softmax
outputs that stand behind the votes; what counts as broken is decided by the votes alone.

Whatever the attacker may do is a box: each pixel lies between a lower and an upper bound. Outside the patch
both are the clean pixel, so an attacked image agrees with the clean one there bit for bit.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from patchcert.data.datasets import Dataset
from patchcert.errors import BrokenCertificateError
from patchcert.results import progress_bar
from patchcert.smoothing.ablation import Ablation, Patch, Whole, encode
from patchcert.smoothing.certificate import Certifier, Question, Verdicts, predict
from patchcert.smoothing.voting import DenseNetwork, TopOneVote, VoteRule, softmax_over

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Log-probabilities (R, A, K), votes (R, A, K) and labels (R,) to what the attack on each image raises, (R,)."""

RANKING_STEPS = 4
"""Steps after which `--locations all` compares places."""

CONTENT = 1.0
"""Lead over the label, in log-probability, beyond which `margin` counts a copy as won."""

TINY = torch.finfo(torch.float).tiny


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
        """(P, K): what the network says of ablations `copies` (P,) of image `rows` (P,) in `images` (R, C, H, W)."""
        visible = self.ablation.masks(copies)[:, None]  # (P, 1, H, W)
        return self.network(encode(images)[rows] * visible).float()

    def probabilities(self, images: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Yield the softmax of every copy, (N', A, K), for some of `images` (N, C, H, W) after the other.

        Args:
            batch_size: ablated copies per call of the network, unless one image alone has more.
        """
        engine = DenseNetwork(self.network, self.ablation)
        for part in images.split(max(1, batch_size // self.ablation.count)):
            yield softmax_over(engine, part, self.ablation, batch_size)

    def predict(self, images: Tensor, batch_size: int) -> Tensor:
        """(N,) int64: the hard decisions, from all copies."""
        return torch.cat([predict(self.rule(p).sum(dim=1)) for p in self.probabilities(images, batch_size)])


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

    def rectangle(self, place: int) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of the only pixels that change at `place`; None if all may."""
        ...

    def box(self, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (R, C, H, W) of attacked `images` (R, C, H, W) at `places` (R,)."""
        ...


class PatchThreat:
    """Anything in [0, 1] inside one patch, which lies inside the image."""

    def __init__(self, patch: Patch, ablation: Ablation):
        self.patch = patch
        self.shape = ablation.height - patch.height + 1, ablation.width - patch.width + 1
        self.touched = ablation.touched_by(patch)

    def rectangle(self, place: int) -> tuple[int, int, int, int]:
        return *divmod(place, self.shape[1]), self.patch.height, self.patch.width

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

    def rectangle(self, place: int) -> None:
        return None

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


LOSSES = {"softmax": log_mean_softmax, "margin": margin}


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
class Clean:
    """What N images are before the attack: `probabilities` (N, A, K), predictions and answers to some questions.

    Attributes:
        images, labels, indices, probabilities: as in `Targets`, also of images that are classified wrongly.
        predicted: (N,) int64.
        verdicts: one for each question.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    probabilities: Tensor
    predicted: Tensor
    verdicts: list[Verdicts]

    def targets(self) -> Targets:
        """The correctly classified images."""
        right = self.predicted == self.labels
        certified = torch.zeros_like(right)
        for verdicts in self.verdicts:
            certified |= verdicts.certified
        return Targets(
            self.images[right],
            self.labels[right],
            self.indices[right.to(self.indices.device)],
            self.probabilities[right],
            certified[right],
        )


def look_at(classifier: Classifier, dataset: Dataset, questions: list[Question], batch_size: int) -> Clean:
    """Classify the images of `dataset` and answer `questions` about them, in one pass over the network.

    Args:
        batch_size: ablated copies per call of the network, unless one image alone has more.
    """
    certifier = Certifier(classifier.ablation, questions)
    every_copy = torch.arange(classifier.ablation.count, device=dataset.labels.device)
    images = torch.cat([batch for batch, _ in dataset.batches(batch_size)])
    parts = list(classifier.probabilities(images, batch_size))
    answers = zip(*(certifier([(every_copy, part)]) for part in parts), strict=True)
    verdicts = [Verdicts.concatenate(answer) for answer in answers]
    p = torch.cat(parts)
    return Clean(images, dataset.labels, dataset.indices, p, predict(classifier.rule(p).sum(dim=1)), verdicts)


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

    def random_places(self) -> Tensor:
        """(N,) int64: a place for each target, drawn by its own generator."""
        drawn = [torch.randint(len(self.threat.touched), (), generator=generator) for generator in self.generators]
        return torch.tensor(drawn, device=self.targets.labels.device)

    def restart(self, places: Tensor, steps: int, step_size: float) -> Tensor:
        """Attack each target that still stands once more, at its place out of `places` (N,).

        Returns:
            (N,) float, the loss after the last step; ∞ for flipped images.

        Raises:
            BrokenCertificateError: a certified image flipped.
        """
        losses = torch.full((len(self.targets),), math.inf, device=places.device)
        for numbers in (~self.findings.flipped).nonzero().squeeze(1).split(self.together):
            if len(numbers):
                self._climb(self._trials(numbers, places[numbers]), steps, step_size, losses)
        self.restarts += 1
        broken = (self.findings.flipped & self.targets.certified).nonzero().flatten().tolist()
        if broken:
            index = int(self.targets.indices[broken[0]])
            raise BrokenCertificateError(broken[0], f"image {index} is certified, and was flipped")
        return losses

    def _trials(self, numbers: Tensor, places: Tensor) -> _Trials:
        bounds = self.threat.box(self.targets.images[numbers], places)
        labels, touched = self.targets.labels[numbers], self.threat.touched[places]
        return _Trials(numbers, labels, places, *bounds, touched, self.log_p[numbers], self.votes[numbers])

    def _climb(self, trials: _Trials, steps: int, step_size: float, losses: Tensor) -> None:
        """`restart` for one batch; puts the loss of trials that still stand into `losses` (N,)."""
        images = self._random_start(trials)
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
                return
        losses[trials.numbers] = loss

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
    with progress_bar(restarts, "attacking", "restart") as bar:
        for _ in range(restarts):
            attack.restart(attack.random_places(), attack.ascent.steps, attack.ascent.step_size)
            bar.update()


def try_all_places(attack: Attack, restarts: int) -> None:
    """Coarse to fine: rank places by a few steps, spend the rest on the best; no more steps than `restarts` have.

    Ranking takes up to half of the steps. If they suffice for every place, every place is ranked; else a grid of
    them, and then the neighbours of each image's best place at half the distance, again and again down to 1.
    Where not even that can be had, ranking ends when one whole restart is left.
    """
    steps, step_size = attack.ascent.steps, attack.ascent.step_size
    few = min(RANKING_STEPS, steps)
    looks = restarts * (steps + 1)  # each restart looks at its start and after every step
    device = attack.targets.labels.device
    grid = torch.arange(len(attack.threat.touched), device=device).view(attack.threat.shape)
    stride = _affordable_stride(grid, looks // 2 // (few + 1))
    ranked = 0
    losses = torch.full((len(attack.targets), grid.numel()), -math.inf, device=device)
    with progress_bar(looks, "attacking", "step") as bar:
        for places in _coarse_to_fine(grid, stride, losses):
            losses.scatter_(1, places[:, None], attack.restart(places, few, max(step_size, 1 / few))[:, None])
            looks, ranked = looks - (few + 1), ranked + 1
            bar.update(few + 1)
            if looks < few + 1 + steps + 1:
                break
        best_first = losses.argsort(dim=1, descending=True)
        for k in range(looks // (steps + 1)):
            attack.restart(best_first[:, k % ranked], steps, step_size)
            bar.update(steps + 1)


SEARCHES = {"random": try_random_places, "all": try_all_places}


def _affordable_stride(grid: Tensor, most: int) -> int:
    """The smallest power of two for which `_coarse_to_fine` has at most `most` places, or that leaves a grid of one."""
    exponent = 0
    while len(_every(grid, 2**exponent)) + 8 * exponent > most and len(_every(grid, 2**exponent)) > 1:
        exponent += 1
    return 2**exponent


def _every(grid: Tensor, stride: int) -> Tensor:
    """(count,): every `stride`-th of the places `grid` (rows, columns) both ways, the first half a stride inside."""
    rows, columns = (slice(min(stride, size) // 2, None, stride) for size in grid.shape)
    return grid[rows, columns].flatten()


def _coarse_to_fine(grid: Tensor, stride: int, losses: Tensor) -> Iterator[Tensor]:
    """Yield places (N,), one per image: first a coarse grid, then around the best of `losses` (N, L) so far."""
    for place in _every(grid, stride):
        yield place.expand(len(losses))
    rows, columns = grid.shape
    while stride > 1:
        stride //= 2
        best = losses.argmax(dim=1)
        for down, right in product((-stride, 0, stride), repeat=2):
            if down or right:
                row, column = best // columns + down, best % columns + right
                yield grid[row.clamp(0, rows - 1), column.clamp(0, columns - 1)]
