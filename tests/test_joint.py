"""Bands and windows as one network, refined and of mirror images: against the definition, copy by copy."""

import pytest
import torch
from torch import nn

from patchcert.ablations.ablation import Band, BandAndRow, Block, Row
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.arithmetic import RELATIVE_MARGINS
from patchcert.engines.columns import LinesNetwork, Shape
from patchcert.engines.joint import JointNetwork
from patchcert.engines.mirrored import Mirrored
from tests import oracle

SIDE, BAND, COARSE, FINE, WEIGHT, SURE = 9, 2, (6, 2), (4, 4), 3.0, 0.2


@pytest.fixture(scope="module")
def networks():
    """A network for bands and one for windows, both with random weights."""
    torch.manual_seed(0)
    images = {"height": SIDE, "width": SIDE, "image_channels": 1, "classes": 3}
    bands = LinesNetwork(Shape((6, 8), (0, 1), BAND, "both", **images))
    for name, parameter in bands.named_parameters():
        nn.init.normal_(parameter, std=0.01 if "head" in name else 0.3)
    windows = nn.Sequential(nn.Flatten(), nn.Linear(2 * SIDE**2, 16), nn.Tanh(), nn.Linear(16, 3))
    return bands.eval(), windows.eval()


def joint(networks, mirrored, *sizes):
    ablation = BandsAndWindows(SIDE, SIDE, BAND, *sizes)
    return ablation, JointNetwork(*networks, ablation, WEIGHT, SURE, mirrored).eval()


def seen(image, copies, mirrored):
    """What the windows' network is shown of each of the `copies` of an image, once or in both ways."""
    inputs = oracle.encoded(image, copies)
    return [inputs, inputs.flip(3)] if mirrored else [inputs]


def of_bands(network, image, mirrored):
    """(A, K): every band's logits, of columns and of rows; the mirror image of a band is one of the mirrored image."""
    shown = oracle.bands(SIDE, SIDE, BAND) + oracle.rows(SIDE, SIDE, BAND)
    scores = network(image[None])[0]
    if not mirrored:
        return shown, scores
    across = network(image[None].flip(3))[0]
    numbers = [shown.index({(row, SIDE - 1 - column) for row, column in band}) for band in shown]
    return shown, (scores + across[numbers]) / 2


@torch.no_grad()
@pytest.mark.parametrize("mirrored", [False, True])
def test_logits_are_those_of_the_definition(networks, mirrored):
    bands, windows = networks
    _, network = joint(networks, mirrored, *COARSE, *FINE)
    overlaps, shares = oracle.overlaps(SIDE, COARSE, FINE), []
    hidden = {kind: oracle.windows(SIDE, SIDE, *kind) for kind in (COARSE, FINE)}
    pairs = {kind: list(map(set, oracle.pairs_and_singles(kind[1] ** 2))) for kind in (COARSE, FINE)}
    for image in torch.rand(3, 1, SIDE, SIDE):
        shown, expected = of_bands(bands, image, mirrored)
        of_kind = {
            kind: sum(map(windows, inputs)) / len(inputs)
            for kind in pairs
            for inputs in [seen(image, oracle.window_pairs(SIDE, SIDE, *kind), mirrored)]
        }
        found = network(image[None])[0]
        torch.testing.assert_close(found[: len(shown)], expected, rtol=1e-4, atol=1e-4)
        for logits, (i, j) in zip(found[len(shown) :], oracle.pairs_and_singles(len(overlaps)), strict=True):
            two = overlaps[i], overlaps[j]
            without, finer = (
                of_kind[kind][pairs[kind].index({_first(window, hidden[kind]) for window in two})]
                for kind in (COARSE, FINE)
            )
            outside = [band.isdisjoint(two[0] | two[1]) for band in shown]
            second, first = (without + expected[outside].sum(dim=0) / WEIGHT).sort().values[-2:]
            shares.append(min(1.0, float(first - second) / SURE))
            wanted = shares[-1] * without + (1 - shares[-1]) * finer
            torch.testing.assert_close(logits, WEIGHT * wanted, rtol=1e-4, atol=1e-4)
    assert min(shares) < 0.5 and max(shares) == 1


def _first(overlap, windows):
    """The number of the first window that holds it."""
    return next(number for number, window in enumerate(windows) if overlap <= window)


@torch.no_grad()
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("sizes", [FINE, (*COARSE, *FINE)])
def test_answers_follow_from_what_their_copies_show(networks, mirrored, sizes):
    ablation, network = joint(networks, mirrored, *sizes)
    image = torch.rand(1, 1, SIDE, SIDE)
    answers = network(image)[0]
    for numbers in torch.arange(ablation.count).split(32):
        shown = ablation.masks()[numbers][:, None, None]  # (M, 1, 1, H, W), of M copies
        others = torch.where(shown, image, torch.rand(len(numbers), 3, 1, SIDE, SIDE))
        others[:, 0] *= shown[:, 0]
        found = network(others.flatten(0, 1)).unflatten(0, (-1, 3))  # (M, 3, A, K)
        own = found[torch.arange(len(numbers)), :, numbers]
        torch.testing.assert_close(own, answers[numbers][:, None].expand_as(own), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[-1], answers)


@torch.no_grad()
@pytest.mark.parametrize("ablation", [Band(6, 8, 3), Row(6, 8, 3), BandAndRow(6, 8, 3), Block(6, 8, 3)])
def test_every_copy_meets_its_mirror_image(ablation):
    class Sums(nn.Module):
        """Of the pixels that each copy shows, and of these weighted from left to right."""

        def forward(self, images):
            shown = (images * ablation.masks()).sum(dim=2)
            return torch.stack([shown.sum(dim=2), (shown * torch.arange(8)).sum(dim=2)], dim=2)

    image = torch.rand(1, 1, 6, 8)
    sums, weighted = Mirrored(Sums(), ablation)(image).unbind(dim=2)
    torch.testing.assert_close(sums, Sums()(image)[..., 0])
    torch.testing.assert_close(weighted, sums * 3.5)  # the middle of the columns from 0 to 7


class Rounded(nn.Module):
    """A network whose logits, `loud` times as large, are off by up to two units in the last place of the largest."""

    limited_reach = True

    def __init__(self, network, loud, units):
        super().__init__()
        self.network, self.loud, self.units, self.description = network, loud, units, {}

    def require(self, ablation):
        self.network.require(ablation)

    def forward(self, images):
        logits = self.loud * self.network(images).double()
        off = torch.randint(-1, 2, logits.shape, generator=torch.Generator().manual_seed(7))
        return logits + self.units * 2.0**-23 * off * logits.abs().amax(dim=-1, keepdim=True)


@torch.no_grad()
@pytest.mark.parametrize(("loud", "sure"), [(1, SURE), (1e5, 100.0), (1e5, 1000.0)])
def test_margins_grow_with_what_rounding_makes_of_refined_windows(networks, loud, sure):
    ablation, images = BandsAndWindows(SIDE, SIDE, BAND, *COARSE, *FINE), torch.rand(12, 1, SIDE, SIDE)
    exact, off = (
        JointNetwork(*(Rounded(network, loud, units) for network in networks), ablation, WEIGHT, sure).eval()
        for units in (0, 2)
    )
    scores = exact(images)
    changed = off(images) - scores
    of_differences = changed.amax(dim=2) - changed.amin(dim=2)  # (N, A), between two classes
    share = RELATIVE_MARGINS["float32"]
    assert (of_differences <= share * exact.beside_magnitudes(images)[..., -1]).all()
    assert (of_differences > share * scores.abs().amax(dim=2)).any() == (loud > 1)


def test_copies_without_mirror_images_are_refused():
    with pytest.raises(ValueError, match="mirror images of some copies are missing"):
        Mirrored(nn.Identity(), WindowPairs(9, 9, 4, 3))
