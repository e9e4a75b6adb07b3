"""The geometry, against masks written by hand, brute force and the closed forms of SMOOTHING.md."""

from itertools import pairwise
from math import ceil, comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchcert.ablations.ablation import Band, Block, Row, encode
from patchcert.ablations.choices import MultiBand, MultiBlock
from patchcert.ablations.windows import WindowPairs
from patchcert.errors import UsageError
from patchcert.patch import Patch
from tests import oracle

sizes = st.integers(1, 9)


@st.composite
def ablations(draw):
    height, width = draw(sizes), draw(sizes)
    kind = draw(st.sampled_from([Band, Row, Block, MultiBand, MultiBlock]))
    limit = {Band: width, Row: height, MultiBand: width}.get(kind, min(height, width))
    size = draw(st.integers(1, limit))
    if kind in (Band, Row, Block):
        return kind(height, width, size)
    pieces = width // size * (height // size if kind is MultiBlock else 1)
    return kind(height, width, size, draw(st.integers(1, min(pieces, 3))))


def square_images(kind):
    """(W, size, m) with the size and the patch no larger than the image."""
    return st.integers(1, 10).flatmap(lambda w: st.tuples(st.just(w), st.integers(1, w), st.integers(1, w)))


def shown_columns(mask):
    assert (mask == mask[0]).all()
    return mask[0].nonzero().flatten().tolist()


def test_bands_wrap_around_the_right_border():
    masks = Band(3, 5, 2).masks()
    assert [shown_columns(mask) for mask in masks] == [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]]


def test_rows_are_bands_of_the_transposed_image():
    assert torch.equal(Row(5, 3, 2).masks(), Band(3, 5, 2).masks().transpose(1, 2))


def test_blocks_wrap_around_the_corner():
    last = Block(3, 4, 2).masks()[-1]
    assert last.int().tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]]


def test_multi_bands_leave_the_remainder_dark():
    masks = MultiBand(2, 7, 2, 2).masks()
    assert sorted(map(shown_columns, masks)) == [[0, 1, 2, 3], [0, 1, 4, 5], [2, 3, 4, 5]]


def test_multi_blocks_leave_the_remainder_dark():
    masks = MultiBlock(5, 5, 2, 3).masks()
    assert masks.shape == (4, 5, 5)
    assert (masks.flatten(1).sum(1) == 12).all() and not masks[:, 4].any() and not masks[:, :, 4].any()


@given(ablations())
def test_masks_are_distinct_and_counted(ablation):
    masks = ablation.masks()
    assert masks.shape == (ablation.count, ablation.height, ablation.width)
    lengths = {Band: [ablation.width], Row: [ablation.height], Block: [ablation.height, ablation.width]}
    size = getattr(ablation, "band_size", getattr(ablation, "block_size", None))
    shows_a_whole_axis = size in lengths.get(type(ablation), [])
    assert shows_a_whole_axis or len(masks.unique(dim=0)) == ablation.count


@given(ablations())
def test_some_masks_are_those_of_all(ablation):
    indices = torch.randperm(ablation.count)[:3]
    assert torch.equal(ablation.masks(indices), ablation.masks()[indices])


@given(ablations(), st.data())
def test_touched_is_mask_meets_patch(ablation, data):
    patch = Patch(data.draw(st.integers(1, ablation.height)), data.draw(st.integers(1, ablation.width)))
    masks, touched = ablation.masks(), ablation.touched_by(patch)
    place = 0
    for top in range(ablation.height - patch.height + 1):
        for left in range(ablation.width - patch.width + 1):
            covered = masks[:, top : top + patch.height, left : left + patch.width]
            assert torch.equal(touched[place], covered.flatten(1).any(dim=1))
            place += 1
    assert place == len(touched) and ablation.most_touched(patch) == touched.sum(dim=1).max()


@given(square_images(Band))
def test_closed_form_of_bands_and_rows(case):
    width, s, m = case
    for ablation in (Band(width, width, s), Row(width, width, s)):
        assert ablation.most_touched(Patch(m, m)) == min(m + s - 1, width)


@given(square_images(Block))
def test_closed_form_of_blocks(case):
    width, s, m = case
    assert Block(width, width, s).most_touched(Patch(m, m)) == min((m + s - 1) ** 2, width**2)


@given(square_images(MultiBand), st.integers(1, 3))
def test_closed_form_of_multi_bands(case, keep):
    width, b, m = case
    n = width // b
    keep = min(keep, n)
    a = min(ceil((m - 1) / b) + 1, n)
    assert MultiBand(width, width, b, keep).most_touched(Patch(m, m)) == comb(n, keep) - comb(n - a, keep)


@given(square_images(MultiBlock), st.integers(1, 2))
def test_closed_form_of_multi_blocks(case, keep):
    width, b, m = case
    n = (width // b) ** 2
    keep = min(keep, n)
    a = min(ceil((m - 1) / b) + 1, width // b) ** 2
    assert MultiBlock(width, width, b, keep).most_touched(Patch(m, m)) == comb(n, keep) - comb(n - a, keep)


@pytest.mark.parametrize("size", [4, 5, 7])
def test_closed_forms_at_mnist_size(size):
    assert Band(28, 28, size).most_touched(Patch(5, 5)) == size + 4
    n, a = (28 // size) ** 2, (ceil(4 / size) + 1) ** 2
    assert MultiBlock(28, 28, size, 2).most_touched(Patch(5, 5)) == comb(n, 2) - comb(n - a, 2)


def test_of_16_windows_one_or_two_are_hidden_at_a_time():
    masks = WindowPairs(32, 32, 11, 4).masks()
    assert masks.shape == (16 * 17 // 2, 32, 32)
    expected = torch.ones(32, 32, dtype=torch.bool)
    expected[:11, :11] = expected[7:18, 21:] = False  # windows 0 and 7
    assert torch.equal(masks[6], expected)
    hidden = (~masks).sum(dim=(1, 2))
    assert hidden.max() == 2 * 11 * 11 and hidden[:120].min() == 2 * 11 * 11 - 4 * 11
    assert (hidden[120:] == 11 * 11).all() and len(masks.unique(dim=0)) == len(masks)


@given(st.integers(4, 9), st.integers(4, 9), st.integers(2, 4), st.integers(2, 4))
def test_windows_hold_the_patches_that_fit_and_no_larger_ones(height, width, size, per_side):
    try:
        ablation = WindowPairs(height, width, size, per_side)
    except UsageError as error:
        assert str(error).startswith("per_side")
        starts = [[(side - size) * i // (per_side - 1) for i in range(per_side)] for side in (height, width)]
        assert any(b - a > size for along in starts for a, b in pairwise(along))
        return
    windows = oracle.windows(height, width, size, per_side)
    for patch in (Patch(rows, columns) for rows in range(1, size + 1) for columns in range(1, size + 1)):
        places = [
            oracle.rectangle(top, left, patch.height, patch.width)
            for top in range(height - patch.height + 1)
            for left in range(width - patch.width + 1)
        ]
        held = all(any(place <= window for window in windows) for place in places)
        try:
            ablation.require_fits("size_to_certify", patch)
            fits = True
        except UsageError:
            fits = False
        assert fits == held


def test_encoding_tells_hidden_from_black_and_white():
    encoded = encode(torch.tensor([0.0, 0.3, 1.0]).view(3, 1, 1, 1)).flatten(1)
    assert encoded.tolist() == [[0.0, 1.0], [pytest.approx(0.3), pytest.approx(0.7)], [1.0, 0.0]]
    assert (encoded.sum(dim=1) == 1).all()  # a hidden pixel sums to 0


def test_encoding_keeps_the_channels_in_order():
    image = torch.rand(1, 3, 2, 2)
    assert torch.equal(encode(image), torch.cat([image, 1 - image], dim=1))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Band(28, 28, 29), "^band_size 29"),
        (lambda: Row(28, 28, 0), "^band_size 0"),
        (lambda: Block(28, 28, -1), "^block_size -1"),
        (lambda: MultiBand(28, 28, 3, 10), "^keep 10"),
        (lambda: MultiBlock(28, 28, 29, 1), "^block_size 29"),
        (lambda: MultiBlock(28, 28, 1, 392), "^keep 392"),
        (lambda: WindowPairs(28, 28, 29, 2), "^window_size 29"),
        (lambda: WindowPairs(28, 28, 14, 1), "^per_side 1"),
        (lambda: WindowPairs(28, 28, 9, 3), "per_side 3: so many windows of 9 pixels leave gaps"),
        (lambda: WindowPairs(32, 32, 11, 4).most_touched(Patch(5, 6)), "size_to_certify 5x6: expected at most 5 × 5"),
        (lambda: Band(28, 28, 4).patch_cells(Patch(5, 29)), "^size_to_certify 5x29"),
        (lambda: Band(0, 28, 4), "^height 0: expected a whole number from 1 on"),
        (lambda: Block(28, "28", 4), "^width '28': expected a whole number from 1 on"),
        (lambda: Band(28, 28, 4.0), "^band_size 4.0: expected a whole number from 1 to 28"),
    ],
)
def test_impossible_sizes_are_named(build, named):
    with pytest.raises(UsageError, match=named):
        build()
