"""Attacks on smoothed and undefended classifiers: how one climbs, judged by the classifier's hard decision.

The attacker of Levine and Feizi, NeurIPS 2020: projected gradient ascent by sign steps, many restarts, each
with the patch at a new place. A count of votes has no gradient, so the ascent follows a loss of the softmax
outputs behind the votes. The votes alone decide whether an answer is flipped.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from patchcert.attacks.targets import Targets
from patchcert.attacks.threats import Threat
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.errors import BrokenCertificateError
from patchcert.journal import Journal

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Log-probabilities (R, A, K), ballots (R, A, K) and labels (R,) to what the attack on each image raises, (R,)."""

TINY = torch.finfo(torch.float).tiny

CONTENT = 1.0
"""Lead over the label, in log-probability, beyond which `margin` counts a copy as won."""


def log_mean_softmax(log_p: Tensor, ballots: Tensor, labels: Tensor) -> Tensor:
    """(R,): −log of the mean probability of the label over all copies; the cross entropy if there is one copy."""
    of_label = _of_class(log_p, labels)
    return math.log(of_label.shape[1]) - of_label.logsumexp(dim=1)


def margin(log_p: Tensor, ballots: Tensor, labels: Tensor) -> Tensor:
    """(R,): how far the strongest rival is ahead of the label, in log-probability, averaged over the copies.

    With one copy it is the difference of two logits. A copy that is ahead by `CONTENT` is won and pulls no more,
    so that the patch serves the copies still to be won. The rival has the most votes, among equals the highest
    mean probability; of ballots that are scores, the highest sum.
    """
    standing = ballots.sum(dim=1) + log_p.detach().exp().mean(dim=1)  # (R, K)
    rivals = standing.scatter(1, labels[:, None], -math.inf).argmax(dim=1)
    lead = _of_class(log_p, rivals) - _of_class(log_p, labels)
    return lead.clamp_max(CONTENT).mean(dim=1)


LOSSES = {"softmax": log_mean_softmax, "margin": margin}


def _of_class(log_p: Tensor, classes: Tensor) -> Tensor:
    """(R, A): the entries of `log_p` (R, A, K) for one class per image (R,)."""
    return log_p.gather(2, classes[:, None, None].expand(-1, log_p.shape[1], 1)).squeeze(2)


@dataclass(frozen=True)
class Ascent:
    """How one trial climbs: sign steps of `step_size`, on gradients summed up with factor `momentum`."""

    loss: Loss
    steps: int
    step_size: float
    momentum: float


@dataclass(frozen=True)
class Findings:
    """How N attacks ended; axis 0 of every tensor is the image.

    Attributes:
        flipped: (N,) bool, whether the hard decision left the label.
        images: (N, C, H, W), the adversarial image; the clean one where none was found.
        predicted: (N,) int64, the class of `images`.
        totals: (N, K), all ballots on `images` together: int64, votes, or for double masking float, scores.
        place, restart, step: (N,) int64, where and when it was found; −1 where none was. A place is numbered
            row-major by the patch's upper left corner, a step is 0 for the random start.
    """

    flipped: Tensor
    images: Tensor
    predicted: Tensor
    totals: Tensor
    place: Tensor
    restart: Tensor
    step: Tensor

    @classmethod
    def none_yet(cls, targets: Targets, totals: Tensor) -> "Findings":
        nowhere = torch.full_like(targets.labels, -1)
        predicted = targets.labels.clone()
        return cls(nowhere >= 0, targets.images.clone(), predicted, totals, nowhere, nowhere.clone(), nowhere.clone())


@dataclass(frozen=True)
class Trials:
    """R images under attack together, each at one place; axis 0 of every tensor is the trial.

    Attributes:
        numbers: (R,) int64, which target.
        labels, places: (R,) int64.
        lower, upper: (R, C, H, W) float, bounds of every pixel.
        touched: (R, A) bool, the copies that depend on the attack.
        log_p, ballots: (R, A, K), of the copies of the clean image.
    """

    numbers: Tensor
    labels: Tensor
    places: Tensor
    lower: Tensor
    upper: Tensor
    touched: Tensor
    log_p: Tensor
    ballots: Tensor

    def take(self, chosen: Tensor) -> Self:
        return type(self)(*(tensor[chosen] for tensor in vars(self).values()))


class Attack:
    """The attack on `targets`: who still stands, and how the others fell.

    Only copies that the attacker can reach are computed again at each step; the others keep the outputs
    and ballots of the clean image.

    Args:
        batch_size: ablated copies per call of the network, unless one image alone has more.
        journal: keeps how each batch of targets fared.
    """

    def __init__(
        self,
        classifier: SmoothedClassifier,
        threat: Threat,
        ascent: Ascent,
        targets: Targets,
        seed: int,
        batch_size: int,
        journal: Journal | None = None,
    ):
        self.journal = journal or Journal()
        self.classifier, self.threat, self.ascent, self.targets = classifier, threat, ascent, targets
        self.batch_size = batch_size
        copies = 1 if classifier.limited_reach else int(threat.touched.sum(dim=1).max())
        self.together = max(1, batch_size // copies)
        self.ballots, self.log_p = classifier.ballots(targets.outputs), targets.outputs.log_softmax(dim=-1)
        self.findings = Findings.none_yet(targets, self.ballots.sum(dim=1))
        self.generators = [
            torch.Generator().manual_seed(seed * 1_000_003 + index) for index in targets.indices.tolist()
        ]
        self.restarts = 0

    def climbs_blindly(self) -> bool:
        """Whether the gradient of the loss is exactly zero for all of the first targets, the patch in the middle."""
        numbers = torch.arange(len(self.targets), device=self.targets.labels.device)[: self.together]
        if not len(numbers):
            return False
        trials = self._trials(numbers, torch.full_like(numbers, len(self.threat.touched) // 2))
        return not self.gradient_at(self.targets.images[numbers], trials).any()

    def gradient_at(self, images: Tensor, trials: Trials) -> Tensor:
        """(R, C, H, W): the gradient of what the first step of the trials raises, at `images` (R, C, H, W)."""
        return self._look(images, trials, with_gradient=True)[1]

    def random_places(self) -> Tensor:
        """(N,) int64: a place for each target, drawn by its own generator."""
        drawn = [torch.randint(len(self.threat.touched), (), generator=generator) for generator in self.generators]
        return torch.tensor(drawn, device=self.targets.labels.device)

    def restart(self, places: Tensor, steps: int, step_size: float, done: Callable[[int], object]) -> Tensor:
        """Attack each target that still stands once more, at its place out of `places` (N,).

        Args:
            done: is told of every look at a target, or that there was no need for it: N · (steps + 1) in all.

        Returns:
            (N,) float, the loss after the last step; ∞ for flipped images.

        Raises:
            BrokenCertificateError: a certified image flipped.
        """
        losses = torch.full((len(self.targets),), math.inf, device=places.device)
        standing = (~self.findings.flipped).nonzero().squeeze(1)
        done((len(self.targets) - len(standing)) * (steps + 1))
        for numbers in standing.split(self.together):
            if len(numbers):
                trials = self._trials(numbers, places[numbers])
                climb = partial(self._climb, trials, self._random_start(trials), steps, step_size, done)
                indices = self.targets.indices[numbers.to(self.targets.indices.device)]
                if self.journal.ahead:
                    done(len(numbers) * (steps + 1))
                outcome = self.journal.recall(f"restart {self.restarts + 1}", indices, climb)
                self._note(outcome, places, losses)
        self.restarts += 1
        broken = (self.findings.flipped & self.targets.certified).nonzero().flatten().tolist()
        if broken:
            index = int(self.targets.indices[broken[0]])
            raise BrokenCertificateError(broken[0], f"image {index} is certified, and was flipped")
        return losses

    def _trials(self, numbers: Tensor, places: Tensor) -> Trials:
        bounds = self.threat.box(self.targets.images[numbers], places)
        labels, touched = self.targets.labels[numbers], self.threat.touched[places]
        return Trials(numbers, labels, places, *bounds, touched, self.log_p[numbers], self.ballots[numbers])

    def _climb(
        self, trials: Trials, images: Tensor, steps: int, step_size: float, done: Callable[[int], object]
    ) -> dict:
        """One batch of a restart, from `images` (R, C, H, W) on.

        Returns:
            `fallen`, for each step after which images flipped what they are: `numbers` of their targets, adversarial
            `images`, the class `predicted`, `totals`, all (R', …), and `step`; `standing`, the numbers of the others,
            (R',) int64, and their `losses` after the last step.
        """
        fallen, velocity = [], torch.zeros_like(images)
        for step in range(steps + 1):
            loss, gradient, ballots = self._look(images, trials, with_gradient=step < steps)
            predicted = self.classifier.decide(ballots)
            flipped = predicted != trials.labels
            if flipped.any():
                totals = ballots[flipped].sum(dim=1)
                found = {"images": images[flipped], "predicted": predicted[flipped], "totals": totals, "step": step}
                fallen.append({"numbers": trials.numbers[flipped]} | found)
                stands = ~flipped
                done(int(flipped.sum()) * (steps + 1 - step))
                trials, images, velocity = trials.take(stands), images[stands], velocity[stands]
                loss, gradient = loss[stands], gradient[stands]
            if step < steps:
                images, velocity = self.moved(images, velocity, gradient, trials, step_size)
            done(len(images))
            if not len(images):
                break
        return {"fallen": fallen, "standing": trials.numbers, "losses": loss}

    def moved(
        self, images: Tensor, velocity: Tensor, gradient: Tensor, trials: Trials, step_size: float
    ) -> tuple[Tensor, Tensor]:
        """The images one step on, and their velocity; all are (R, C, H, W)."""
        size = gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(TINY)
        velocity = self.ascent.momentum * velocity + gradient / size
        return (images + step_size * velocity.sign()).clamp(trials.lower, trials.upper), velocity

    def _random_start(self, trials: Trials) -> Tensor:
        """(R, C, H, W): a random image between the bounds of each trial, by its target's own generator."""
        shape = trials.lower.shape[1:]
        noise = [torch.rand(shape, generator=self.generators[n]) for n in trials.numbers.tolist()]
        spread = (trials.upper - trials.lower) * torch.stack(noise).to(trials.lower.device)
        return (trials.lower + spread).clamp(trials.lower, trials.upper)

    def _look(self, images: Tensor, trials: Trials, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (R,), its gradient (R, C, H, W), zero without `with_gradient`, and ballots (R, A, K) on `images`."""
        rows, copies = trials.touched.nonzero(as_tuple=True)
        with torch.set_grad_enabled(with_gradient):
            images = images.detach().requires_grad_(with_gradient)
            logits = self.classifier.logits(images, rows, copies)  # (P, K)
            log_p = trials.log_p.index_put((rows, copies), logits.log_softmax(dim=-1))
            cast = self.classifier.ballots(logits.detach())
            ballots = trials.ballots.index_put((rows, copies), cast)
            loss = self.ascent.loss(log_p, ballots, trials.labels)
        gradient = torch.autograd.grad(loss.sum(), images)[0] if with_gradient else torch.zeros_like(images)
        return loss.detach(), gradient, ballots

    def _note(self, outcome: dict, places: Tensor, losses: Tensor) -> None:
        """Put what `_climb` gave, at `places` (N,) of this restart, into the findings and `losses` (N,)."""
        losses[outcome["standing"]] = outcome["losses"]
        for found in outcome["fallen"]:
            numbers = found.pop("numbers")
            found |= {"flipped": True, "place": places[numbers], "restart": self.restarts}
            for name, value in found.items():
                getattr(self.findings, name)[numbers] = value
