"""The attacked classifier: votes of ablated copies, double masking of their scores, or one undefended network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchcert import networks
from patchcert.smoothing import voting
from patchcert.smoothing.ablation import Ablation, Whole, encode
from patchcert.smoothing.certificate import Certifier, Question, predict
from patchcert.smoothing.columns import LinesNetwork
from patchcert.smoothing.masking import DoubleMasking
from patchcert.smoothing.voting import TopOneVote, VoteRule

TINY = torch.finfo(torch.float).tiny


@dataclass(frozen=True)
class Classifier:
    """The class with most votes of ablated copies.

    What is kept of a copy are its `outputs`, here probabilities; its ballot, here its votes, follows from them, and the
    decision from all ballots.

    Attributes:
        network: base classifier, encoded images (B, 2C, H, W) to logits (B, K), or one that answers for all copies in
            one pass; put into eval mode.
        ablation: the copies.
        rule: how they vote.
    """

    network: nn.Module
    ablation: Ablation
    rule: VoteRule

    def __post_init__(self):
        self.network.eval()

    def logits(self, images: Tensor, rows: Tensor, copies: Tensor) -> Tensor:
        """(P, K): what the network says of ablations `copies` (P,) of image `rows` (P,) in `images` (R, C, H, W)."""
        networks.require_eval(self.network)
        if self.in_one_pass:
            return networks.finite(self.network(images)[rows, copies].float())
        visible = self.ablation.masks(copies)[:, None]  # (P, 1, H, W)
        return networks.finite(self.network(self.ablation.as_seen(encode(images)[rows] * visible)).float())

    @property
    def in_one_pass(self) -> bool:
        """Whether all copies of an image cost no more than one."""
        return isinstance(self.network, LinesNetwork)

    def every_copy(self, images: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Yield the outputs of every copy, (N', A, K), for some of `images` (N, C, H, W) after the other.

        Args:
            batch_size: ablated copies per call of the network, unless one image alone has more; images, where all of
                their copies take one pass.
        """
        self.ablation.require_size(images)
        engine = voting.engine("dense", self.network, self.ablation, 2 * images.shape[1])
        every = torch.arange(self.ablation.count, device=images.device)
        copies = 1 if self.in_one_pass else self.ablation.count
        for part in images.split(max(1, batch_size // copies)):
            chunks, encoded = every.split(max(engine.least, batch_size // len(part))), encode(part)
            yield self.outputs(torch.cat([voting.logits(engine, encoded, chunk) for chunk in chunks], dim=1))

    def predict(self, images: Tensor, batch_size: int) -> Tensor:
        """(N,) int64: the hard decisions, from all copies."""
        return torch.cat([self.decide(self.ballots(part)) for part in self.every_copy(images, batch_size)])

    def outputs(self, logits: Tensor) -> Tensor:
        """(…, K): probabilities."""
        return logits.softmax(dim=-1)

    def log_p(self, outputs: Tensor) -> Tensor:
        """(…, K): log-probabilities."""
        return outputs.clamp_min(TINY).log()

    def ballots(self, outputs: Tensor) -> Tensor:
        """(…, K) bool: votes."""
        return self.rule(outputs)

    def decide(self, ballots: Tensor) -> Tensor:
        """(N,) int64: the answers to all ballots (N, A, K)."""
        return predict(ballots.sum(dim=1))

    def certify(self, outputs: Tensor, questions: Sequence[Question]) -> list[Tensor]:
        """(N,) bool for each of `questions`: whether clean outputs (N, A, K) prove that the answer stands."""
        every = torch.arange(self.ablation.count, device=outputs.device)
        return [verdicts.certified for verdicts in Certifier(self.ablation, questions)([(every, outputs)])]


@dataclass(frozen=True)
class MaskedClassifier(Classifier):
    """The class that double masking gives; ballots are log-probabilities.

    Attributes:
        rule: of the patch that attacks.
        numerical_margin: ν, by which the lead of a certified answer is above 0.
    """

    rule: DoubleMasking
    numerical_margin: float

    def outputs(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=-1)

    def log_p(self, outputs: Tensor) -> Tensor:
        return outputs

    def ballots(self, outputs: Tensor) -> Tensor:
        return outputs

    def decide(self, ballots: Tensor) -> Tensor:
        return self.rule.predict(ballots)

    def certify(self, outputs: Tensor, questions: Sequence = ()) -> list[Tensor]:
        return [self.rule.verdicts(outputs, self.numerical_margin).certified]


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
