"""Classifiers that certificates are about, as modules: votes of ablated copies; `masked` has double masking.

Evaluation code and attack libraries use them like any network. They map images (N, C, H, W) in [0, 1] to one number for
each class. The answer is the class with the largest number, the first one if several are equal. A count of votes has no
gradient, so backwards they hand on that of the soft votes. They take the images that `certify` takes, and refuse those
that it refuses.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from patchcert import networks
from patchcert.ablations.ablation import Ablation, encode
from patchcert.data.given import pixels
from patchcert.engines import asking
from patchcert.engines.asking import Engine
from patchcert.engines.columns import LinesNetwork, has_limited_reach
from patchcert.errors import UsageError, require_count, require_number
from patchcert.masking.double_masking import MaskedVerdicts
from patchcert.patch import Patch
from patchcert.votes.certificate import Certifier, Question, Verdicts, predict
from patchcert.votes.rules import ThresholdVote, TopOneVote, VoteRule

LEAST = torch.finfo(torch.float32).min
"""What a sum of log-probabilities is at least, where float32 has no such number."""


class SmoothedClassifier(nn.Module):
    """A classifier whose answer is the class with the most votes of ablated copies. If votes tie, the lower class wins.

    The network is put into eval mode whenever it runs.

    Args:
        network: the base classifier. It maps encoded copies (B, 2C, H, W) to logits (B, K). The channels of a copy
            are x and 1 − x, and both are 0 where a pixel is hidden. A network of limited reach (with an attribute
            `limited_reach = True`) maps images (N, C, H, W) to logits (N, A, K): for each copy, from its pixels alone.
        ablation: says what the copies show.
        threshold: θ. A copy votes for every class whose probability is at least θ. If θ is left out, it votes for its
            most probable class alone.
        engine: the code that runs the network, for predictions and for certificates. "dense" runs the network as it
            is. "windowed" computes only what differs from the empty image (docs/engine.md).
        batch_size: the number of copies in a batch, or of images if the network has limited reach. If one image alone
            has more copies, they are one batch.

    Raises:
        ValueError: the network or the ablation is of another kind, θ is not between 0 and 1, the engine does not
            exist, or the network answers for other copies than those of the ablation.
    """

    usual_patches: tuple[Patch, ...] = ()
    """What `certify` asks about where nobody says."""

    def __init__(
        self,
        network: nn.Module,
        ablation: Ablation,
        threshold: float | None = None,
        *,
        engine: str = "dense",
        batch_size: int = 512,
    ):
        super().__init__()
        networks.require_module(network)
        if not isinstance(ablation, Ablation):
            raise UsageError("ablation", ablation, "expected one such as Band(32, 32, 4)")
        if threshold is not None:
            require_number("threshold", threshold, 0, 1)
        if engine not in ("dense", "windowed"):
            raise UsageError("engine", engine, "expected dense or windowed")
        require_count("batch_size", batch_size, "copies or images")
        if isinstance(network, LinesNetwork):
            network.require(ablation)
        self.network, self.ablation, self.batch_size = network, ablation, batch_size
        self.engine_asked_for = engine
        self.rule: VoteRule = TopOneVote() if threshold is None else ThresholdVote(float(threshold))

    def extra_repr(self) -> str:
        return f"{self.ablation}, {self.rule}"

    @property
    def limited_reach(self) -> bool:
        """Whether the network, as it is now, answers for all copies of an image in one pass."""
        return has_limited_reach(self.network)

    @property
    def engine_name(self) -> str:
        """The engine as results name it: shared, dense or windowed."""
        return "shared" if self.limited_reach else self.engine_asked_for

    def forward(self, images: Tensor) -> Tensor:
        """The votes for each class, (N, K). Their gradient is the gradient of the sum of the copies' probabilities.

        Raises:
            ValueError: see `every_copy`.
        """
        return torch.cat([self._totals(logits) for logits in self.every_copy(images, self.batch_size)])

    def soft(self) -> "SoftVotes":
        """A module to attack by its cross entropy. Judge what an attack finds by the classifier itself."""
        return SoftVotes(self)

    def engine(self, images: Tensor) -> Engine:
        """The engine that runs the network, as it is now, on the copies of `images` (N, C, H, W).

        Raises:
            ValueError: the network cannot be in eval mode, or does something that the windowed engine cannot do.
        """
        networks.put_into_eval(self.network)
        channels = 2 * images.shape[1]
        own = asking.engine(self.engine_name, self.network, self.ablation.to(images.device), channels)
        if self.engine_name == "windowed" and images.requires_grad and torch.is_grad_enabled():
            return asking.WithGradients(own, asking.engine("dense", self.network, self.ablation, channels))
        return own

    def logits(self, images: Tensor, rows: Tensor, copies: Tensor) -> Tensor:
        """The logits (P, K) for the ablations `copies` (P,) of the images `rows` (P,) in `images` (R, C, H, W).

        The dense engine computes them, whatever the engine of the classifier.
        """
        networks.require_eval(self.network)
        if self.limited_reach:
            shown = images.clone()
            every = networks.answer(self.network, shown, asking.OF_IMAGES, len(images), self.ablation.count)
            answers = every[rows, copies]
        else:
            visible = self.ablation.masks(copies)[:, None]  # (P, 1, H, W)
            shown = self.ablation.as_seen(encode(images)[rows] * visible)
            answers = networks.answer(self.network, shown, asking.OF_COPIES, len(rows))
        networks.require_gradient(answers, shown)
        return networks.finite(answers.float())

    def every_copy(self, images: Tensor | ArrayLike, batch_size: int) -> Iterator[Tensor]:
        """Yield the logits of every copy, (N', A, K), for a few of `images` (N, C, H, W) at a time.

        Args:
            batch_size: see `SmoothedClassifier`.

        Raises:
            ValueError: the images have another shape or type, or pixels outside [0, 1]; or the network rejects them,
                does not return logits, or returns no gradient although the images require one.
        """
        return (logits for logits, _ in self.logits_and_magnitudes(images, batch_size))

    def logits_and_magnitudes(
        self, images: Tensor | ArrayLike, batch_size: int, engine: Engine | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `every_copy` yields, and magnitudes (N', A).

        The larger the magnitude of a copy, the more rounding may change its logits.

        Args:
            engine: the classifier's own engine, if it has been made already.

        Raises:
            ValueError: see `every_copy`.
        """
        images = pixels(images, (self.ablation.height, self.ablation.width))
        self.ablation.to(images.device)
        engine = engine or self.engine(images)
        every = torch.arange(self.ablation.count, device=images.device)
        copies = 1 if self.limited_reach else self.ablation.count
        for part in images.split(max(1, batch_size // copies)):
            encoded, size = encode(part), max(engine.least, batch_size // len(part))
            found = [asking.logits_and_magnitudes(engine, encoded, chunk) for chunk in every.split(size)]
            logits, magnitudes = (torch.cat(of_chunks, dim=1) for of_chunks in zip(*found, strict=True))
            networks.require_gradient(logits, encoded)
            yield logits, magnitudes

    @torch.no_grad()
    def predict(self, images: Tensor | ArrayLike, batch_size: int | None = None) -> Tensor:
        """The predicted classes, (N,) int64, from all copies.

        Raises:
            ValueError: see `every_copy`.
        """
        size = self.batch_size if batch_size is None else batch_size
        require_count("batch_size", size, "copies or images")
        parts = self.every_copy(images, size)
        return torch.cat([self.decide(self.ballots(logits)) for logits in parts])

    def ballots(self, logits: Tensor) -> Tensor:
        """(…, K) bool: votes."""
        return self.rule(logits.softmax(dim=-1))

    def decide(self, ballots: Tensor) -> Tensor:
        """(N,) int64: the answers to all ballots (N, A, K)."""
        return predict(ballots.sum(dim=1))

    def verdicts(
        self, logits: Tensor, magnitudes: Tensor, questions: Sequence[Question]
    ) -> Sequence[Verdicts | MaskedVerdicts]:
        """The answers to `questions` about images, from the logits (N, A, K) of all their copies.

        Args:
            magnitudes: (N, A), as of `logits_and_magnitudes`.
        """
        every = torch.arange(self.ablation.count, device=logits.device)
        return Certifier(self.ablation, questions)([(every, logits.softmax(dim=-1))])

    def _totals(self, logits: Tensor) -> Tensor:
        """(N, K): all ballots together, from the logits (N, A, K) of all copies; the answer's total is the largest."""
        known, soft = logits.detach(), self._soft(logits)
        totals = largest_for(self.decide(self.ballots(known)), self._sums(known).float().clamp_min(LEAST))
        return asking.with_gradient_of(soft, totals)

    def _sums(self, logits: Tensor) -> Tensor:
        """(N, K): all ballots together."""
        return self.ballots(logits).sum(dim=1)

    def _soft(self, logits: Tensor) -> Tensor:
        """(N, K): what stands for all ballots together where a gradient is asked for."""
        return logits.softmax(dim=-1).sum(dim=1)


class SoftVotes(nn.Module):
    """Images (N, C, H, W) to the logarithm of each class's mean probability over the copies of `classifier`, (N, K).

    Its cross entropy is the loss of Levine and Feizi's attack. That of votes is flat where one class leads by many.
    """

    def __init__(self, classifier: SmoothedClassifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        parts = self.classifier.every_copy(images, self.classifier.batch_size)
        means = [logits.log_softmax(dim=-1).logsumexp(dim=1) for logits in parts]
        return torch.cat(means) - math.log(self.classifier.ablation.count)


def largest_for(winner: Tensor, totals: Tensor) -> Tensor:
    """The `totals` (N, K) with that of the `winner` (N,) raised, where they have another first largest, to be it."""
    winner, largest = winner[:, None], totals.amax(dim=1, keepdim=True)
    beyond = torch.maximum(largest + 1, largest.nextafter(torch.full_like(largest, math.inf)))
    is_first = totals.argmax(dim=1, keepdim=True) == winner
    return totals.scatter(1, winner, totals.gather(1, winner).where(is_first, beyond))
