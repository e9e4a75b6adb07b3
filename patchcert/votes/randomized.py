"""The probabilistic certificate: votes of random ablations, and how far chance lets them be trusted.

Levine and Feizi, NeurIPS 2020, section 3; Clopper and Pearson, Biometrika 1934.
"""

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from patchcert import distributed
from patchcert.ablations.ablation import Ablation
from patchcert.data.folders import Images
from patchcert.engines.asking import Engine, require_classes, softmax_over
from patchcert.journal import Journal
from patchcert.progress import progress_bar
from patchcert.votes.certificate import Verdicts, predict
from patchcert.votes.rules import TopOneVote


def randomized_verdicts(
    votes: Tensor, most_touched: int, alpha: float, predsamples: int, boundsamples: int, generator: np.random.Generator
) -> Verdicts:
    """Predictions and certificates from random ablations; a certificate is wrong with probability at most α.

    `predsamples` ablations, drawn with replacement, pick the class; `boundsamples` more bound its share p of
    all ablations from below by Clopper and Pearson's one-sided interval; certified if p > 1/2 + Δ/A.
    Drawing an ablation is drawing its vote, so each of the A votes is computed once and then drawn from.

    Args:
        votes: (N, A, K) bool, top-one: one vote per ablation.
        most_touched: Δ, the most ablations that one patch touches.
    """
    shares = votes.double().mean(dim=1).cpu().numpy()  # (N, K)
    counts = generator.multinomial(predsamples, shares)
    of_winner = np.take_along_axis(shares, counts.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    successes = generator.binomial(boundsamples, of_winner.clip(0, 1))
    lower = np.where(successes > 0, betaincinv(successes.clip(1), boundsamples - successes + 1, alpha), 0.0)
    certified = torch.from_numpy(lower > 0.5 + most_touched / votes.shape[1])
    counts, close = torch.from_numpy(counts), torch.zeros(len(votes), dtype=torch.int64)  # no margin was asked for
    parts = counts, predict(counts), certified, close
    return Verdicts.from_counts(*(tensor.to(votes.device) for tensor in parts))


def top_one_votes(
    engine: Engine, dataset: Images, ablation: Ablation, batch_size: int, journal: Journal | None = None
) -> Tensor:
    """(N, A, K) bool: the vote of every ablated copy of every image, with a progress bar; a `journal` keeps them."""
    require_classes(engine, dataset)

    def look(images: Tensor, labels: Tensor) -> Tensor:
        return TopOneVote()(softmax_over(engine, images, ablation, batch_size))

    votes = []
    with progress_bar(len(dataset), "voting") as bar:
        for found, labels in (journal or Journal()).over(dataset, batch_size, look):
            votes.append(found)
            bar.update(len(labels) * distributed.world())
    return distributed.merge(torch.cat(votes), len(dataset))
