"""Networks of limited reach: every output is a function of its band alone."""

import pytest
import torch
from torch import nn

from patchcert.ablations.ablation import Band, Row
from patchcert.engines.columns import STEMS, LinesNetwork, Shape
from patchcert.errors import UsageError


def shape(lines="columns", band_size=4, height=10, width=12, **changes):
    usual = {"channels": (4, 6, 8), "blocks": (1, 0, 1), "image_channels": 3, "classes": 5}
    return Shape(band_size=band_size, lines=lines, height=height, width=width, **(usual | changes))


def network_of(shape, seed=0):
    """A network in which every weight matters: fresh ones begin with residual blocks and positions that are silent."""
    torch.manual_seed(seed)
    network = LinesNetwork(shape)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
    return network.double().eval()


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("band_size", range(1, 11))
def test_kernel_widths_add_up_to_the_band(band_size, stem):
    (family,) = LinesNetwork(shape(band_size=band_size, width=10, stem=stem)).families
    convolutions = [m for m in family.modules() if isinstance(m, nn.Conv2d)]
    assert sum(c.kernel_size[1] - 1 for c in convolutions) == band_size - 1
    assert all(c.stride[1] == 1 and c.padding[1] == 0 for c in convolutions)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(("lines", "ablation"), [("columns", Band), ("rows", Row)])
@pytest.mark.parametrize("band_size", [1, 3, 4, 7])
def test_what_is_outside_of_a_band_changes_nothing_and_what_is_inside_does(lines, ablation, band_size, stem):
    network = network_of(shape(lines, band_size, stem=stem))
    images = torch.rand(2, 3, 10, 12, dtype=torch.double)
    with torch.no_grad():
        before = network(images)
        for copy, shown in enumerate(ablation(10, 12, band_size).masks()):
            after = network(torch.where(shown, images, torch.randn_like(images) * 100))
            assert torch.allclose(after[:, copy], before[:, copy], rtol=0, atol=1e-12)
            for line in shown.any(0 if lines == "columns" else 1).nonzero().flatten():
                changed = images.clone()
                changed[(..., line) if lines == "columns" else (..., line, slice(None))] += 1
                assert not torch.allclose(network(changed)[:, copy], before[:, copy], atol=1e-6)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(("lines", "ablation"), [("columns", Band), ("rows", Row)])
def test_a_band_cut_out_alone_gives_the_same_logits(lines, ablation, stem):
    network = network_of(shape(lines, stem=stem))
    (family,) = network.families
    images = torch.rand(2, 3, 10, 12, dtype=torch.double)
    length = 12 if lines == "columns" else 10
    with torch.no_grad():
        together = network(images)
        for start in range(length):
            shown = (start + torch.arange(4)) % length
            band = images[..., shown] if lines == "columns" else images[..., shown, :]
            alone = family.of_bands(band, torch.full((2,), start))
            assert torch.allclose(alone, together[:, start], rtol=0, atol=1e-12)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("chosen", [slice(0, None, 4), slice(3, None, 4), slice(1, None, 3), slice(9, None, 5)])
def test_bands_looked_at_alone_say_what_they_say_among_all(chosen, stem):
    network = network_of(shape("both", stem=stem))
    images = torch.rand(2, 3, 10, 12, dtype=torch.double)
    with torch.no_grad():
        of_each = [family[:, chosen] for family in network(images).split([12, 10], dim=1)]
        assert torch.allclose(network(images, chosen), torch.cat(of_each, dim=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("stem", STEMS)
def test_a_folded_network_gives_the_same_logits_without_normalising(stem):
    network = network_of(shape("both", stem=stem))
    images = torch.rand(3, 3, 10, 12, dtype=torch.double, requires_grad=True)
    weights = torch.randn(3, 22, 5, dtype=torch.double)
    before = network(images)
    (gradient,) = torch.autograd.grad((before * weights).sum(), images)
    network.train()
    network.fold()
    after = network(images)
    assert torch.allclose(after, before, rtol=1e-9, atol=1e-9) and before.std() > 0.1
    assert torch.allclose(torch.autograd.grad((after * weights).sum(), images)[0], gradient, rtol=1e-9, atol=1e-9)
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_descriptions_build_the_network_again_and_those_without_a_stem_share_it():
    for stem in STEMS:
        assert Shape.described(shape(stem=stem).description()) == shape(stem=stem)
    assert "stem" not in shape().description()
    with pytest.raises(ValueError, match="is not possible"):
        Shape.described(shape(stem="whole").description() | {"stem": "broken"})


def test_bands_know_where_they_lie():
    """The same picture in every band, and yet other logits: by the learned vector of each start alone."""
    with torch.no_grad():
        logits = network_of(shape())(torch.full((1, 3, 10, 12), 0.5, dtype=torch.double))
    assert len(logits[0].unique(dim=0)) == 12


def test_both_are_one_network_beside_the_other():
    network = network_of(shape("both"))
    images = torch.rand(2, 3, 10, 12, dtype=torch.double)
    with torch.no_grad():
        columns, rows = (family(images) for family in network.families)
        assert columns.shape == (2, 12, 5) and rows.shape == (2, 10, 5)
        assert torch.equal(network(images), torch.cat([columns, rows], dim=1))


def test_all_bands_are_trained_in_one_step():
    network = network_of(shape("both")).train()
    network(torch.rand(4, 3, 10, 12, dtype=torch.double)).logsumexp(2).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"band_size": 0}, "band_size"), ({"band_size": 13}, "band_size"), ({"blocks": (1, 1)}, "blocks")],
)
def test_shapes_that_cannot_be_are_refused(changes, named):
    with pytest.raises(UsageError, match=named):
        shape(**changes)


def test_logits_are_float32_under_autocast():
    network, images = network_of(shape("both")).float(), torch.rand(2, 3, 10, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    assert logits.dtype == torch.float32 and not logits.equal(logits.bfloat16().float())
