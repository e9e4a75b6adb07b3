"""Folders of pictures as people have them: what systems leave in them, how classes are numbered, which are missing."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchcert.data import folders, listing
from patchcert.data.folders import PictureFolder
from patchcert.errors import UsageError
from tests.helpers import succeed
from tests.test_pictures import write_pictures

LEFT = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trashes")
PETS = ("--dataset", "folder", "--data", "pets", "--image_size", 8, "--band_size", 3)


def leave_behind(root):
    """What Jupyter, macOS, Windows and a Synology leave in folders that they have shown."""
    for folder in (root, *(entry for entry in root.iterdir() if entry.is_dir())):
        write_pictures(folder, LEFT, 1)
        for name in ("._0000.png", ".hidden.jpg", "Thumbs.db", "desktop.ini", ".DS_Store"):
            (folder / name).write_bytes(b"nothing")


def test_what_systems_leave_is_neither_class_nor_picture(tmp_path):
    for part in ("train", "test"):
        write_pictures(tmp_path / part, ("cat", "dog"), 3)
        before = listing.pictures("data", tmp_path / part)
        leave_behind(tmp_path / part)
        assert listing.class_names("data", tmp_path / part) == ["cat", "dog"]
        assert listing.pictures("data", tmp_path / part) == before
    assert folders.load_folder(tmp_path, train=False, image_size=8).labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_class_missing_in_one_part_is_named(tmp_path):
    write_pictures(tmp_path / "train", "abcdefgh", 1)
    write_pictures(tmp_path / "test", ("a", "z"), 1)
    expected = "train/ and test/, .*test has no b, c, d, e, f and 2 more, which .*train has"
    with pytest.raises(UsageError, match=expected):
        folders.load_folder(tmp_path, train=True, image_size=8)
    for name in "bcdefgh":
        (tmp_path / "test" / name).mkdir()
    with pytest.raises(UsageError, match=r"train has no z, which .*test has"):
        folders.load_folder(tmp_path, train=False, image_size=8)


def test_a_class_without_pictures_is_named_with_what_is_there(tmp_path):
    write_pictures(tmp_path, ("cat", "dog"), 1)
    (tmp_path / "dog" / "0000.png").rename(tmp_path / "dog" / "0000.avif")
    with pytest.raises(UsageError, match=r"\.jpg.* in each class's folder, there are none in dog but 0000.avif"):
        listing.pictures("data", tmp_path)


@pytest.mark.parametrize(
    ("names", "otherwise"),
    [
        ([str(number) for number in range(10)], False),
        ([str(number) for number in range(12)], True),
        (["class1", "class10", "class2"], True),
        (["class01", "class02", "class10"], False),
        (["n01440764", "n01443537", "n15075141"], False),
        (["ant", "bee", "cat"], False),
        (["1", "a", "b2"], False),
        (["7", "٣"], True),
    ],
)
def test_where_people_would_number_classes_otherwise(names, otherwise):
    assert listing.numbered_otherwise(sorted(names)) is otherwise


@given(st.lists(st.text("019a. ", max_size=5), unique=True))
def test_any_names_can_be_put_in_order(names):
    listing.numbered_otherwise(sorted(names))


def test_a_run_says_how_it_numbers_the_classes(tmp_path, capsys):
    names = [str(number) for number in range(12)]
    for part in ("train", "test"):
        write_pictures(tmp_path / "pets" / part, names, 1)
    torch.manual_seed(0)
    succeed("train_cifar_band.py", *PETS, "--end_epoch", 0, folder=tmp_path)
    (network,) = (tmp_path / "checkpoints").glob("*.pth")
    said = "note: pets/test: classes are numbered in the order of their folders' names as text: 0 is 0, 1 is 1, 2 is 10"
    assert capsys.readouterr().err.count(f"{said}, 3 is 11, 4 is 2 …\n") == 1
    succeed("certify_cifar_band.py", *PETS, "--checkpoint", network.name, folder=tmp_path)
    assert capsys.readouterr().err.count(said) == 1


def test_pictures_changed_in_place_are_another_data_set(tmp_path):
    write_pictures(tmp_path, ("cat", "dog"), 2)
    whole = PictureFolder("valpath", tmp_path, 8)
    before, half = whole.fingerprint(), whole.take(slice(2)).fingerprint()
    picture = tmp_path / "dog" / "0001.png"
    times, content = os.stat(picture), bytearray(picture.read_bytes())
    content[-20] ^= 1
    picture.write_bytes(content)
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert whole.fingerprint() != before and whole.take(slice(2)).fingerprint() == half


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_find_the_same_fingerprint(tmp_path, monkeypatch, world):
    """Acted out: what each one reads, and what all have then."""
    write_pictures(tmp_path, ("cat", "dog"), 4)
    whole, parts = PictureFolder("valpath", tmp_path, 8), []
    expected = whole.fingerprint()
    monkeypatch.setattr(folders.distributed, "world", lambda: world)
    monkeypatch.setattr(folders.distributed, "merge", lambda part, count: parts.append(part) or part)
    for rank in range(world):
        monkeypatch.setattr(folders.distributed, "rank", lambda rank=rank: rank)
        whole.fingerprint()
    merged = torch.stack([parts[number % world][number // world] for number in range(8)])
    monkeypatch.setattr(folders.distributed, "merge", lambda part, count: merged)
    assert whole.fingerprint() == expected and sum(map(len, parts)) == 8


def test_a_picture_that_cannot_be_read_is_named_before_it_is_waited_for(tmp_path):
    write_pictures(tmp_path, ("cat", "dog"), 1)
    (tmp_path / "dog" / "0000.png").unlink()
    os.mkfifo(tmp_path / "dog" / "0000.png")
    with pytest.raises(UsageError, match=r"dog/0000\.png: is a device, a pipe or a socket"):
        PictureFolder("valpath", tmp_path, 8).fingerprint()
