import gzip
import hashlib
import shutil

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets
from torchvision.datasets import CIFAR10, SVHN

from patchcert.data import named, splits
from patchcert.data.augmentation import random_colours, random_crop, random_erasing, random_flip, random_turn
from patchcert.data.dataset import Dataset
from patchcert.data.given import given
from patchcert.errors import UsageError


def dataset_of(count):
    images, labels = torch.zeros(count, 1, 2, 2, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64)
    return Dataset(images, labels, torch.arange(count))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"images": torch.rand(6, 1, 2, 2)}, TypeError, "images are torch.float32 .*expected torch.uint8 .*pixels"),
        ({"images": torch.zeros(6, 4, dtype=torch.uint8)}, ValueError, r"images .* \(6, 4\), expected .*\(N, C, H, W"),
        ({"labels": torch.zeros(6)}, TypeError, "labels are torch.float32 .*expected torch.int64"),
        ({"labels": torch.arange(5)}, ValueError, r"labels .* \(5,\), expected .* \(6,\), a class for each image"),
        ({"labels": torch.eye(6, dtype=torch.int64)}, ValueError, r"labels .* \(6, 6\), expected .* \(6,\)"),
        ({"indices": torch.arange(7)}, ValueError, r"indices .* \(7,\), expected .* \(6,\)"),
    ],
)
def test_what_is_no_data_set_is_refused(change, error, named):
    with pytest.raises(error, match=named):
        Dataset(**(vars(dataset_of(6)) | change))


def test_digits_are_all_there_and_split_without_overlap(tmp_path):
    train, test = (named.load("digits", tmp_path, part) for part in (True, False))
    assert train.images.shape == (1437, 1, 28, 28) and test.images.shape == (360, 1, 28, 28)
    assert train.images.dtype == torch.uint8 and train.images.max() == 255
    total = torch.bincount(torch.cat([train.labels, test.labels]))
    from sklearn.datasets import load_digits

    assert total.tolist() == np.bincount(load_digits().target).tolist()


def test_mnist_files_are_read_as_they_lie(generated_mnist):
    data = named.load("mnist", generated_mnist, train=False)
    raw = (generated_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert data.images.flatten().tolist() == list(raw) and len(data) == 101


def test_mnist_files_are_read_packed_and_under_kaggles_names(tmp_path, generated_mnist, monkeypatch):
    raw = generated_mnist / "MNIST" / "raw"
    expected = {part: named.load("mnist", generated_mnist, part) for part in (True, False)}
    laid_out = {
        "packed": lambda file: (f"MNIST/raw/{file.name}.gz", gzip.compress(file.read_bytes())),
        "packed, above": lambda file: (f"MNIST/{file.name}.gz", gzip.compress(file.read_bytes())),
        "Kaggle's": lambda file: (f"MNIST/{file.name.replace('-idx', '.idx')}", file.read_bytes()),
        "in folders": lambda file: (f"MNIST/raw/{file.name}/{file.name}", file.read_bytes()),
    }
    monkeypatch.setattr(datasets, "MNIST", None)  # nothing is downloaded, or unpacked to the disk
    for layout, of_file in laid_out.items():
        for file in raw.iterdir():
            name, content = of_file(file)
            (tmp_path / layout / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / layout / name).write_bytes(content)
        for part, data in expected.items():
            found = named.load("mnist", tmp_path / layout, part)
            assert torch.equal(found.images, data.images) and torch.equal(found.labels, data.labels)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda whole: gzip.compress(whole)[:-400], "t10k-images-idx3-ubyte.gz is a damaged gzip file"),
        (lambda whole: gzip.compress(whole[:-1]), "does not have exactly the bytes of the 101 images that it names"),
        (lambda whole: gzip.compress(whole + bytes(1)), "does not have exactly the bytes of the 101 images"),
        (lambda whole: gzip.compress(np.array([2051, 10**6, 28, 28], ">u4").tobytes() + bytes(10**6)), "would take"),
        (
            lambda whole: b"version https://git-lfs.github.com/spec/v1\n",
            "is a pointer of Git LFS .*, not a file",
        ),
        (lambda whole: b"<!DOCTYPE html>", "is a web page, .*, not a file in the format of MNIST"),
    ],
)
def test_packed_files_that_hold_something_else_are_refused(tmp_path, generated_mnist, write, said):
    shutil.copytree(generated_mnist / "MNIST", tmp_path / "MNIST")
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").write_bytes(write(file.read_bytes()))
    file.unlink()
    with pytest.raises(UsageError, match=said):
        named.load("mnist", tmp_path, train=False)


def test_a_pointer_in_place_of_cifar_10_is_said_to_be_one(tmp_path):
    (tmp_path / CIFAR10.base_folder).mkdir()
    for name, _ in CIFAR10.train_list:
        (tmp_path / CIFAR10.base_folder / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UsageError, match=r"data_batch_1 is a pointer of Git LFS .*, not the original file"):
        named.load("cifar10", tmp_path, train=True)


WHOLE = {
    **{f"{order}{size}": np.array([0, 1, 2], f"{order}{size}") for order in "<>" for size in ("i2", "u2", "u4", "u8")},
    "Python's": np.array([0, 1, 2], object),
    "NumPy's in a list": [np.uint16(0), 1, np.int64(2)],
    "of one column": np.array([[0], [1], [2]]),
    "in a tensor": torch.tensor([0, 1, 2], dtype=torch.uint16),
    "in a column of a tensor": torch.tensor([[0], [1], [2]], dtype=torch.uint32),
}
OTHER = {
    "text": ["a", "b", "c"],
    "mixed": np.array([0, "b", 2], object),
    "truths": np.array([True, False, True]),
    "truths in a table": np.array([True, False, True], object),
    "halves": torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16),
    "one for each class": np.eye(3, dtype=int),
    "in a row": np.array([[0, 1, 2]]),
    "too large": np.array([0, 1, 2**70], object),
}


@pytest.mark.parametrize("labels", WHOLE.values(), ids=WHOLE)
def test_labels_may_be_whole_numbers_of_any_form(labels):
    found = given(np.zeros((3, 1, 2, 2), np.uint8), labels).labels
    assert found.dtype == torch.int64 and found.tolist() == [0, 1, 2]


@pytest.mark.parametrize("labels", OTHER.values(), ids=OTHER)
def test_other_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"^labels are .*, expected .*whole numbers .*$"):
        given(np.zeros((3, 1, 2, 2), np.uint8), labels)


@pytest.mark.parametrize("order", "<>")
def test_images_may_have_their_bytes_in_either_order(order):
    pixels = np.linspace(0, 1, 12).reshape(3, 1, 2, 2)
    for size in ("f2", "f4", "f8"):
        stored = pixels.astype(f"{order}{size}")
        assert given(stored, [0, 1, 2]).images.tolist() == stored.astype(np.float32).tolist()


@pytest.mark.parametrize("kind", [object, np.longdouble, np.uint16, np.int64])
def test_images_of_other_numbers_are_refused(kind):
    with pytest.raises(ValueError, match=r"^images are .*, expected .*$"):
        given(np.zeros((3, 1, 2, 2), kind), [0, 1, 2])


def test_svhn_files_are_read_as_they_lie(tmp_path, monkeypatch):
    """MATLAB's order of axes is (H, W, C, N), and its zeros are labelled 10."""
    pictures = np.random.RandomState(0).randint(0, 256, (32, 32, 3, 4)).astype(np.uint8)
    (tmp_path / "svhn").mkdir()
    scipy.io.savemat(tmp_path / "svhn" / "test_32x32.mat", {"X": pictures, "y": np.array([[1], [10], [9], [2]])})
    file = tmp_path / "svhn" / "test_32x32.mat"
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(SVHN.split_list, "test", ["", file.name, md5])
    data = named.load("svhn", tmp_path, train=False)
    assert data.images.tolist() == pictures.transpose(3, 2, 0, 1).tolist()
    assert data.labels.tolist() == [1, 0, 9, 2] and data.labels.dtype == torch.int64


def test_shipped_split_is_the_frozen_permutation():
    shipped = splits.read_indices(splits.SHIPPED_SPLIT, 10_000)
    assert shipped.tolist() == np.random.RandomState(0).permutation(10_000).tolist()


@pytest.mark.parametrize("count", [10_000, 101, 360])
def test_halves_are_disjoint_and_whole(count):
    validation, test = (splits.choose_half(dataset_of(count), half).indices for half in (False, True))
    assert len(validation) == count // 2
    assert torch.cat([validation, test]).sort().values.tolist() == list(range(count))


def test_split_files(tmp_path):
    text, permutation, saved = tmp_path / "half.txt", tmp_path / "all.txt", tmp_path / "half.pth"
    text.write_text("4\n0\n2\n")
    permutation.write_text("4\n0\n2\n1\n3\n5\n")
    torch.save(torch.tensor([4, 0, 2]), saved)
    for file in (text, permutation, saved):
        assert splits.choose_half(dataset_of(6), False, file).indices.tolist() == [0, 2, 4]
        assert splits.choose_half(dataset_of(6), True, file).indices.tolist() == [1, 3, 5]


@pytest.mark.parametrize("content", ["0\n0\n", "6\n", "-1\n", "1.5\n", "one\n", "nan\n", ""])
def test_wrong_split_files_are_refused(tmp_path, content):
    file = tmp_path / "split.txt"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"^split_file"):
        splits.choose_half(dataset_of(6), False, file)


def test_a_saved_mask_is_no_split_file(tmp_path):
    torch.save(torch.tensor([True, False, True]), tmp_path / "mask.pth")
    with pytest.raises(UsageError, match="expected distinct whole numbers from 0 to 2"):
        splits.choose_half(dataset_of(3), False, tmp_path / "mask.pth")


def test_missing_data_leaves_no_folders_and_damaged_files_are_said_to_be_so(tmp_path, generated_mnist):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="the download failed"):
            named.load("mnist", root, train=True)
    assert not list(tmp_path.iterdir())
    shutil.copytree(generated_mnist / "MNIST", tmp_path / "MNIST")
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        file = tmp_path / "MNIST" / "raw" / name
        for content in (file.read_bytes()[:-1], b""):
            file.write_bytes(content)
            with pytest.raises(UsageError, match="MNIST/raw are damaged or incomplete"):
                named.load("mnist", tmp_path, train=True)
        shutil.copy(generated_mnist / "MNIST" / "raw" / name, file)


def test_missing_split_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"^split_file"):
        splits.choose_half(dataset_of(6), False, tmp_path / "none.txt")


def test_random_crop_cuts_the_padded_image():
    images = torch.rand(200, 3, 5, 6)
    padded = torch.nn.functional.pad(images, [4] * 4)
    cropped = random_crop(images, torch.Generator().manual_seed(0))
    corners = set()
    for whole, crop in zip(padded, cropped, strict=True):
        fits = [(i, j) for i in range(9) for j in range(9) if torch.equal(whole[:, i : i + 5, j : j + 6], crop)]
        assert fits
        corners.add(fits[0])
    assert len(corners) > 60  # of 81


def test_random_flip_mirrors_about_half():
    images = torch.rand(400, 1, 2, 3)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all() and 150 < mirrored.sum() < 250


def test_random_colours_keep_what_hues_and_places_say():
    images = 0.4 + 0.2 * torch.rand(300, 3, 4, 5, dtype=torch.float64)
    changed = random_colours(images, torch.Generator().manual_seed(0))
    means, greys, opponents = [], [], []
    for before, after in zip(images, changed, strict=True):
        means.append(after.mean() / before.mean())
        before, after = before - before.mean(), after - after.mean()
        greys.append((after.mean(0) / before.mean(0)).flatten())  # one factor for all pixels
        opponents.append(((after[0] - after[1]) / (before[0] - before[1])).flatten())
    for factors in (torch.stack(greys), torch.stack(opponents)):
        assert factors.std(dim=1).max() < 1e-9
    brightness, contrast = torch.stack(means), torch.stack(greys)[:, 0]
    saturation = torch.stack(opponents)[:, 0] / contrast
    for factor in (brightness, contrast, saturation):
        assert 0.7 <= factor.min() < 0.72 and 1.28 < factor.max() <= 1.3 and abs(factor.mean() - 1) < 0.05


def test_random_colours_stay_colours():
    images = torch.rand(50, 3, 4, 5)
    changed = random_colours(images, torch.Generator().manual_seed(0), strength=1)
    assert changed.min() == 0 and changed.max() == 1


def test_random_erasing_blacks_out_a_square_and_nothing_else():
    images = torch.rand(200, 3, 9, 12) + 0.1
    erased = random_erasing(images, torch.Generator().manual_seed(0), size=4)
    corners, areas = set(), set()
    for before, after in zip(images, erased, strict=True):
        black = (after == 0).all(0)
        assert torch.equal(after, before * ~black)
        rows, columns = (black.any(side).nonzero().flatten() for side in (1, 0))
        assert black.sum() == len(rows) * len(columns) and max(len(rows), len(columns)) <= 4
        areas.add(int(black.sum()))
        corners.add((int(rows[0]), int(columns[0])))
    assert max(areas) == 16 and min(areas) < 12  # at the rim, less
    assert len(corners) > 60


def test_random_turns_move_half_of_the_images_within_their_limits():
    height, width = 40, 60
    down, right = (torch.arange(size) - (size - 1) / 2 for size in (height, width))  # pixels from the centre
    places = torch.stack([right.expand(height, width), down[:, None].expand(height, width)])
    turned = random_turn(places.repeat(400, 1, 1, 1), torch.Generator().manual_seed(0), degrees=10, strength=0.1)
    corners = turned[:, :, 12:28:15, 22:38:15].flatten(2)  # what is seen at four places, none over the border
    seen_from = places[:, 12:28:15, 22:38:15].flatten(1)
    maps = corners.double() @ torch.linalg.pinv(seen_from.double())  # (N, 2, 2): a linear map, no shift
    assert torch.allclose(maps.float() @ seen_from, corners, atol=1e-3)
    moved = (maps - torch.eye(2)).abs().amax((1, 2)) > 1e-4
    assert torch.equal(turned[~moved], places.expand(int((~moved).sum()), -1, -1, -1))
    assert 160 < moved.sum() < 240
    maps = maps[moved]
    stretches = maps.norm(dim=1)
    angles = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert 0.9 <= stretches.min() < 0.91 and 1.09 < stretches.max() <= 1.1
    assert -10 <= angles.min() < -9 and 9 < angles.max() <= 10
    assert torch.allclose(angles, torch.rad2deg(torch.atan2(-maps[:, 0, 1], maps[:, 1, 1])), atol=0.1)


def test_shuffled_batches_show_every_image_once():
    data = Dataset(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10), torch.arange(10))
    batches = list(data.shuffled_batches(4, torch.Generator().manual_seed(0)))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    seen = torch.cat([labels for _, labels in batches])
    assert seen.sort().values.tolist() == list(range(10)) and seen.tolist() != list(range(10))
    assert torch.equal(torch.cat([images for images, _ in batches]).flatten() * 255, seen.float())
