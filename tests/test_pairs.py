"""Coarse windows first, finer ones where these leave a network unsure: against the definition, copy by copy."""

import pytest
import torch
from torch import nn

from patchcert.ablations.windows import RefinedPairs, WindowPairs
from patchcert.engines.added_up import BesideMagnitudes, parted
from patchcert.engines.pairs import CoarsePairsFirst, EveryPair
from patchcert.errors import UsageError
from patchcert.patch import Patch
from tests import oracle

SIZES = [(8, (5, 3), (4, 3)), (9, (6, 2), (5, 3)), (7, (4, 3), (5, 2)), (10, (7, 2), (4, 4))]


class Counting(nn.Module):
    """A network of two layers that counts the copies it is shown."""

    def __init__(self, side):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(2 * side**2, 16), nn.Tanh(), nn.Linear(16, 3))
        self.copies = 0

    def forward(self, inputs):
        self.copies += len(inputs)
        return 8 * self.layers(inputs)


def case(side, coarse, fine, sure=1.0):
    """Network, ablation, refined answers and five images."""
    torch.manual_seed(side)
    network, ablation = Counting(side).double().eval(), RefinedPairs(side, side, *coarse, *fine)
    refined = CoarsePairsFirst(BesideMagnitudes(network).eval(), ablation, sure)
    return network, ablation, refined, torch.rand(5, 1, side, side).double()


@pytest.mark.parametrize(("side", "coarse", "fine"), [*SIZES, (32, (11, 4), (9, 6)), (28, (10, 4), (8, 6))])
def test_windows_are_the_overlaps_of_coarse_and_fine_ones(side, coarse, fine):
    ablation, overlaps = RefinedPairs(side, side, *coarse, *fine), oracle.overlaps(side, coarse, fine)
    assert ablation.side**2 == len(overlaps)
    for mask, (i, j) in zip(ablation.masks(), oracle.pairs_and_singles(len(overlaps)), strict=True):
        assert {tuple(pixel) for pixel in (~mask).nonzero().tolist()} == overlaps[i] | overlaps[j]
    numbers = (ablation.of_coarse, coarse), (ablation.of_fine, fine)
    for of_kind, kind in numbers:
        windows = oracle.windows(side, side, *kind)
        assert all(overlap <= windows[i] for overlap, i in zip(overlaps, of_kind.tolist(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize(("side", "coarse", "fine"), SIZES)
def test_logits_are_those_of_the_definition(side, coarse, fine):
    network, ablation, refined, images = case(side, coarse, fine)
    pairs = {kind: list(map(set, oracle.pairs_and_singles(kind[1] ** 2))) for kind in (coarse, fine)}
    shares = []
    for image, found in zip(images, parted(refined(images))[0], strict=True):
        seen = {kind: oracle.encoded(image.float(), oracle.window_pairs(side, side, *kind)) for kind in pairs}
        of_coarse, of_fine = (network(seen[kind].double()) for kind in (coarse, fine))
        for number, two in enumerate(map(list, oracle.pairs_and_singles(ablation.side**2))):
            in_coarse, in_fine = (set(along[two].tolist()) for along in (ablation.of_coarse, ablation.of_fine))
            without, finer = of_coarse[pairs[coarse].index(in_coarse)], of_fine[pairs[fine].index(in_fine)]
            second, first = without.sort().values[-2:]
            shares.append(min(1.0, float(first - second)))
            wanted = shares[-1] * without + (1 - shares[-1]) * finer
            assert torch.allclose(found[number], wanted, rtol=1e-5, atol=1e-5)
    assert min(shares) < 0.5 and max(shares) == 1


@pytest.mark.parametrize(("side", "coarse", "fine"), SIZES)
def test_answers_follow_from_what_their_copies_show(side, coarse, fine):
    _, ablation, refined, images = case(side, coarse, fine, sure=3.0)
    image, answers = images[:1], refined(images[:1])[0]
    for number, mask in enumerate(ablation.masks()):
        others = torch.where(mask, image, torch.rand(4, 1, side, side).double())
        others[0][:, ~mask], others[1][:, ~mask] = 0, 1
        torch.testing.assert_close(refined(others)[:, number], answers[number].expand(4, -1))
    assert not torch.allclose(refined(others), answers)


def test_fine_copies_are_asked_for_only_where_coarse_ones_are_unsure():
    network, ablation, refined, images = case(9, (6, 2), (5, 3))
    coarse, fine = ablation.coarse.count, ablation.fine.count
    asked = []
    for sure in (1e-9, 0.5, 1e9):
        refined.sure, network.copies = sure, 0
        refined(images)
        asked.append(network.copies / len(images))
    assert asked[0] == coarse < asked[1] < asked[2] <= coarse + fine


def test_gradients_are_those_of_the_answers():
    _, _, refined, images = case(8, (5, 3), (4, 3))
    image = images[:1].requires_grad_()
    torch.autograd.gradcheck(lambda x: parted(refined(x))[0][:, ::50], image, fast_mode=True)


def test_without_coarse_windows_every_copy_is_asked():
    network, _, _, images = case(8, (5, 3), (4, 3))
    ablation = WindowPairs(8, 8, 5, 3)
    answers = EveryPair(network, ablation)
    expected = network(oracle.encoded(images[0].float(), oracle.window_pairs(8, 8, 5, 3)).double())
    assert torch.allclose(answers(images)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((8, 9, 5, 3, 4, 3), "^window_size 5: expected square images"),
        ((32, 32, 9, 6, 8, 7), "^per_side 6: 1. overlaps with the finer windows along each side, expected at"),
    ],
)
def test_windows_that_cannot_be_refined_are_refused(sizes, said):
    with pytest.raises(UsageError, match=said):
        RefinedPairs(*sizes)


def test_patches_have_to_fit_coarse_and_fine_windows():
    ablation = RefinedPairs(32, 32, 11, 4, 9, 6)
    ablation.require_fits("size_to_certify", Patch(5, 5))
    with pytest.raises(UsageError, match="expected at most 5 × 5 pixels"):
        ablation.require_fits("size_to_certify", Patch(6, 5))
