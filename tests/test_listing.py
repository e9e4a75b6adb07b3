"""Folders of pictures as people have them: what systems leave in them, which are missing or damaged, class numbers."""

import io
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchcert.ablations.ablation import Band
from patchcert.data import decoding, folders, listing
from patchcert.data.dataset import Dataset
from patchcert.data.decoding import DAMAGED, decode
from patchcert.data.folders import PictureFolder
from patchcert.errors import UsageError
from patchcert.small_networks import cifar_resnet
from patchcert.training import loop
from patchcert.training.objectives import OneCopy
from patchcert.training.recipes import Recipe
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
    write_pictures(tmp_path, ("cat", "dog"), 2, suffix="bmp")
    whole = PictureFolder("valpath", tmp_path, 8)
    before, half = whole.fingerprint(), whole.take(slice(2)).fingerprint()
    picture = tmp_path / "dog" / "0001.bmp"
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


def noise(kind, mode="RGB"):
    """The bytes of an image of noise in that format of Pillow's."""
    file, noisy = io.BytesIO(), Image.effect_noise((40, 30), 80)
    noisy.convert(mode).save(file, format=kind)
    return file.getvalue()


def changed(content, place):
    content = bytearray(content)
    content[place] ^= 1
    return bytes(content)


NOT_WHOLE = {
    "JPEG without its end": ("a.jpg", noise("JPEG")[:-2], DAMAGED),
    "half a JPEG": ("a.jpg", noise("JPEG")[:700], DAMAGED),
    "JPEG without pixels": ("a.jpg", noise("JPEG")[:100], DAMAGED),
    "PNG without its end": ("a.png", noise("PNG")[:-100], DAMAGED),
    "PNG with a wrong bit": ("a.png", changed(noise("PNG"), 500), DAMAGED),
    "WebP without its end": ("a.webp", noise("WEBP")[:-10], DAMAGED),
    "BMP without its end": ("a.bmp", noise("BMP")[:-10], DAMAGED),
    "half a TIFF": ("a.tiff", noise("TIFF")[:-1000], DAMAGED),
    "TIFF of floats": ("a.tiff", noise("TIFF", "F"), "an image of mode F, expected 8 or 16 bits for each value"),
    "text": ("a.jpg", b"see https://example.org/a.jpg", "is a text file, expected an image in BMP, JPEG"),
    "GIF": ("a.png", noise("GIF", "L"), "is a GIF image, expected an image in BMP, JPEG"),
}


@pytest.mark.parametrize("what", NOT_WHOLE)
def test_what_is_no_whole_picture_is_named_before_anything_is_computed(tmp_path, what):
    name, content, right = NOT_WHOLE[what]
    write_pictures(tmp_path, ("cat", "dog"), 1)
    (tmp_path / "dog" / name).write_bytes(content)
    with pytest.raises(UsageError) as refused:
        PictureFolder("valpath", tmp_path, 8).fingerprint()
    assert str(refused.value).startswith(f"valpath {tmp_path}/dog/{name}: {right}") and "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_whole_pictures_are_seen_to_be_so_without_decoding_them(tmp_path, monkeypatch, kind):
    (tmp_path / "a").write_bytes(noise(kind))
    monkeypatch.setattr(decoding, "decode", lambda path, mode: pytest.fail("was decoded"))
    decoding.require_whole(str(tmp_path / "a"), "RGB")


ODD = {
    "JPEG and something behind it": noise("JPEG") + bytes(9),
    "PNG without the mark of its end": noise("PNG")[:-12],
    "BMP": noise("BMP"),
    "TIFF of 16 bits": noise("TIFF", "I;16"),
}


@pytest.mark.parametrize("what", ODD)
def test_pictures_that_seem_odd_are_taken_where_they_can_be_decoded(tmp_path, what):
    (tmp_path / "a").write_bytes(ODD[what])
    decode(str(tmp_path / "a"), "RGB")
    decoding.require_whole(str(tmp_path / "a"), "RGB")


def test_a_damaged_test_picture_is_named_before_training(tmp_path, monkeypatch):
    write_pictures(tmp_path / "test", ("cat", "dog"), 2)
    (tmp_path / "test" / "dog" / "0001.png").write_bytes(noise("PNG")[:-100])
    train_set = Dataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2, torch.arange(4))
    monkeypatch.setattr(loop, "train_epoch", lambda *_: pytest.fail("was trained"))
    network, objective = cifar_resnet("resnet14_half", classes=2), OneCopy(Band(8, 8, 3), "sample")
    recipe = Recipe(lr=0.1, regularization=0.0, end_epoch=1, batch_size=2, ablation_per="sample")
    with pytest.raises(UsageError, match=f"valpath .*/dog/0001.png: {DAMAGED}"):
        test_set = PictureFolder("valpath", tmp_path / "test", 8)
        loop.train(network, objective, train_set, test_set, recipe, tmp_path / "net.pth")
    assert not list(tmp_path.glob("net*"))
