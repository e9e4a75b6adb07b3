"""Networks that say nothing, or of other classes, or while they train: an error wherever they are asked, no vote."""

import pytest
import torch
from torch import nn

from patchcert import Band, MaskedClassifier, Patch, SmoothedClassifier, certify, interval_bounds
from patchcert.attacks.targets import look_at
from patchcert.attacks.undefended import undefended
from patchcert.data.dataset import Dataset
from patchcert.engines.asking import engine
from patchcert.votes.certificate import Question
from patchcert.votes.randomized import top_one_votes
from patchcert.votes.rules import TopOneVote

ABLATION = Band(6, 6, 2)
PATCH = Patch(2, 2)
NAN, INFINITE, TRAINING = "nan", "inf", "training"


class Broken(nn.Module):
    """(B, …) to (B, 3), in one way wrong where there is a bright pixel; so are not all images."""

    def __init__(self, pixels: int, how: str):
        super().__init__()
        self.how, self.linear = how, nn.Linear(pixels, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = self.linear(images.flatten(1))
        if self.how == TRAINING:
            self.linear.train()
            return outputs
        bright = images.flatten(1).amax(dim=1, keepdim=True) > 0.995
        return torch.where(bright, float(self.how), outputs)


class BrokenInOnePass(nn.Module):
    """Shows a broken network each band of (N, 1, 6, 6), cut out: (N, 6, 3)."""

    limited_reach = True

    def __init__(self, how: str):
        super().__init__()
        self.network = Broken(12, how)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        wrapped = torch.cat([images, images[..., :1]], dim=3)
        bands = torch.stack([wrapped[..., start : start + 2] for start in range(6)], dim=1)  # (N, 6, 1, 6, 2)
        return self.network(bands.flatten(0, 1)).unflatten(0, bands.shape[:2])


def images(labels: int = 3) -> Dataset:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 250, (8, 1, 6, 6), generator=random, dtype=torch.uint8)
    pixels[5, :, 3] = 255
    return Dataset(pixels, torch.arange(8) % labels, torch.arange(8))


def asked(classifier: SmoothedClassifier, data: Dataset, *more: object, **how: object):
    return certify(classifier, data.images, data.labels, *more, batch_size=3, **how)


def smoothed(how: str, threshold: float | None = None) -> SmoothedClassifier:
    return SmoothedClassifier(Broken(72, how), ABLATION, threshold, batch_size=12)


def masked(how: str) -> MaskedClassifier:
    return MaskedClassifier(BrokenInOnePass(how), ABLATION, PATCH, batch_size=3)


QUESTION = Question(PATCH, TopOneVote(), "exact")
ASKING = {
    "votes": lambda how, data: asked(smoothed(how), data, PATCH),
    "votes of a threshold": lambda how, data: asked(smoothed(how, 0.4), data, PATCH),
    "one pass": lambda how, data: asked(SmoothedClassifier(BrokenInOnePass(how), ABLATION), data, PATCH),
    "scores": lambda how, data: asked(masked(how), data),
    "randomized": lambda how, data: top_one_votes(engine("dense", Broken(72, how), ABLATION, 2), data, ABLATION, 3),
    "attacks": lambda how, data: look_at(smoothed(how), data, [QUESTION], 12),
    "attacks on no defence": lambda how, data: look_at(undefended(Broken(36, how), 6, 6), data, [], 3),
    "a count": lambda how, data: smoothed(how)(data.images / 255),
    "masked sums": lambda how, data: masked(how)(data.images / 255),
}
EVERYWHERE = pytest.mark.parametrize("ask", ASKING)


@EVERYWHERE
@pytest.mark.parametrize("how", [NAN, INFINITE])
def test_what_is_not_finite_is_no_vote(ask, how):
    with pytest.raises(FloatingPointError, match="not finite: no answer can be given"):
        ASKING[ask](how, images())


@EVERYWHERE
def test_a_network_that_begins_to_train_gives_no_vote(ask):
    with pytest.raises(ValueError, match="in training mode: no answer can be given"):
        ASKING[ask](TRAINING, images())


@pytest.mark.parametrize("ask", [name for name in ASKING if name not in ("a count", "masked sums")])
def test_labels_that_the_network_does_not_know_are_an_error(ask):
    with pytest.raises(ValueError, match=r"has 3 classes|0 to 2, the network's classes"):
        ASKING[ask]("0", images(labels=4))


def test_interval_bounds_of_what_is_not_finite_are_an_error():
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    nn.init.constant_(network[1].weight, 3e38)
    data = images()
    with pytest.raises(FloatingPointError, match="not finite"):
        interval_bounds(network, data.images, data.labels, PATCH)
