"""Logits that are mixed of larger ones, which cancel: margins are a share of what was added up, not of what is left."""

import pytest
import torch
from torch import nn

from patchcert.ablations.windows import BandsAndWindows
from patchcert.arithmetic import RELATIVE_MARGINS
from patchcert.classifiers.in_order import CopiesInOrder
from patchcert.classifiers.masked import MaskedClassifier
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.rounds import Wanted
from patchcert.engines.joint import JointNetwork
from patchcert.masking.linked import masking_of
from patchcert.masking.margins import Margin
from patchcert.patch import Patch
from patchcert.votes.certificate import Question
from tests.test_in_order import Looked, LookedBands, differing, everything

ABLATION, PATCH, CLASSES, IMAGES, SURE, WEIGHT = BandsAndWindows(7, 7, 2, 5, 2, 4, 3), Patch(2, 2), 3, 30, 4.0, 2.0
COARSE, FINE = ABLATION.windows.coarse.count, ABLATION.windows.fine.count
MARGIN = Margin.of_scores(1e-3, "float32")
UNITS = 9
"""In the last place of the largest logit of a copy: by so much were logits of shipped networks seen to differ."""


def contradicting(loud):
    """Bands, coarse and fine logits: the first class leads by little, which is left where large ones are mixed."""
    bands = torch.rand(IMAGES, ABLATION.bands.count, CLASSES) / 100
    leads = torch.rand(IMAGES, COARSE + FINE + 1, CLASSES) + torch.tensor([3.0, 0.0, 0.0])
    base = torch.stack([loud, loud - SURE / 2, -loud], dim=1)[:, None]
    windows = torch.cat([base.expand(-1, COARSE, -1), leads[:, COARSE:] - base], dim=1)
    return bands, windows


def of_loud_bands(loud):
    """Bands know nothing of the first two classes, very loudly, and coarse windows are nearly sure enough.

    The fine ones would say something else. So the share of these decides, and rounding of the bands moves it.
    """
    bands = loud[:, None, None] * torch.tensor([1.0, 1.0, -1.0]).expand(ABLATION.bands.count, -1)
    windows = torch.tensor([0.99 * SURE, 0.0, 0.0]).repeat(IMAGES, COARSE + FINE + 1, 1)
    windows[:, COARSE:] = torch.tensor([-380.0, 0.0, -380.0]) - 10 * torch.rand(IMAGES, FINE + 1, CLASSES)
    return bands, windows


def of_loud_fine_windows(loud):
    """Coarse windows are just sure enough; the fine ones would say something else, and very loudly."""
    bands = torch.zeros(IMAGES, ABLATION.bands.count, CLASSES)
    windows = torch.tensor([6 + SURE, 6.0, 0.0]).repeat(IMAGES, COARSE + FINE + 1, 1)
    windows[:, :COARSE, 0] *= 1 + 2**-23
    windows[:, COARSE:] = loud[:, None, None] ** 2 * torch.tensor([-1.0, 1.0, 0.0])
    return bands, windows


def classifier_of(bands, windows, off=None):
    """Whose networks give these logits, or are `off`, a generator, by what rounding may do."""
    kinds = ABLATION.windows.coarse, ABLATION.windows.fine
    masks = torch.cat([*(kind.masks() for kind in kinds), torch.ones(1, ABLATION.height, ABLATION.width).bool()])
    if off is not None:
        bands, windows = (rounded(logits, off) for logits in (bands, windows))
    network = JointNetwork(LookedBands(bands), Looked(masks, windows), ABLATION, WEIGHT, SURE).eval()
    return SmoothedClassifier(network, ABLATION)


def rounded(logits, generator):
    signs = 2 * torch.randint(2, logits.shape, generator=generator) - 1
    return (logits + UNITS * 2.0**-23 * signs * logits.abs().amax(dim=-1, keepdim=True)).float()


@torch.no_grad()
@pytest.mark.parametrize("made_up", [contradicting, of_loud_bands, of_loud_fine_windows])
def test_no_rounding_undoes_certificates_where_large_logits_cancel(made_up):
    torch.manual_seed(0)
    bands, windows = made_up(10 ** torch.linspace(0, 5, IMAGES))
    images = (torch.arange(IMAGES) / 255).view(-1, 1, 1, 1).expand(-1, 1, ABLATION.height, ABLATION.width).clone()
    classifier, masking = classifier_of(bands, windows), masking_of(ABLATION, PATCH)
    (verdicts,) = everything(classifier, [masking], images, MARGIN)
    ((in_order, alarms),) = CopiesInOrder(classifier, 100).look(images, [masking], MARGIN, Wanted(whole=True))
    assert differing(in_order, verdicts) == 0
    from_python = MaskedClassifier(classifier.network, ABLATION, PATCH)
    question = Question(PATCH, None, "masking", 1, MARGIN.numerical, "float32")
    ((logits, magnitudes),) = from_python.logits_and_magnitudes(images, IMAGES)
    proven = verdicts.certified | from_python.verdicts(logits, magnitudes, [question])[0].certified
    output, proven_to_alert = alarms.strict(MARGIN.numerical)
    flipped, silent = torch.zeros(2, IMAGES, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        (scores,) = classifier_of(bands, windows, generator).every_copy(images, IMAGES)
        again = masking.verdicts(scores, Margin(0.0))
        flipped |= (again.predicted != verdicts.predicted) | ~again.certified
        silent |= masking.left_by_one(scores).argmax(dim=2).ne(output[:, None]).any(dim=1)
    assert flipped.any() and not (flipped & proven).any() and proven.any()
    assert not (silent & proven_to_alert).any() and proven_to_alert.any()


class Linear(nn.Module):
    """Copies, or all bands of images, to logits of which all but little has the other sign for their mirror images."""

    limited_reach, description = True, {}

    def __init__(self, channels, masks=None):
        super().__init__()
        one_way, both_ways = torch.randn(2, CLASSES, channels, ABLATION.height, ABLATION.width)
        weight = 1e5 * (one_way - one_way.flip(3)) + (both_ways + both_ways.flip(3))
        self.weight, self.masks = nn.Parameter(weight.flatten(1)), masks

    def require(self, ablation):
        pass

    def forward(self, images):
        shown = images if self.masks is None else images[:, None] * self.masks[:, None]
        return shown.flatten(-3) @ self.weight.T


@torch.no_grad()
@pytest.mark.parametrize("refined", [False, True])
def test_means_of_two_ways_keep_the_magnitude_of_each(refined):
    torch.manual_seed(0)
    ablation = ABLATION if refined else BandsAndWindows(7, 7, 2, 4, 3)
    linear = Linear(1, ablation.bands.masks()), Linear(2)
    network = JointNetwork(*linear, ablation, WEIGHT, SURE, mirrored=True).eval()
    images = torch.rand(6, 1, ablation.height, ablation.width)
    answers = network.beside_magnitudes(images)
    of_differences = answers[..., :-1] - network.double()(images.double())
    of_differences = of_differences.amax(dim=2) - of_differences.amin(dim=2)  # (N, A), between two classes
    share = RELATIVE_MARGINS["float32"]
    assert (of_differences <= share * answers[..., -1]).all()
    beyond = of_differences > share * answers[..., :-1].abs().amax(dim=2)
    assert all(of_kind.any() for of_kind in beyond.tensor_split([ablation.bands.count], dim=1))
