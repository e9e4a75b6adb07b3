"""Files that are not what their names say: what they are is told from how they begin."""

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, features
from torch import nn

from patchcert import checkpoint, first_bytes
from patchcert.data.decoding import DAMAGED, FORMATS, decode
from patchcert.errors import UsageError
from patchcert.inputs import InputError


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), "teal").save(file, format=kind)
    return file.getvalue()


def torchscript() -> bytes:
    """What torch.jit.save, which warns that it will go, gives a program in the file net.pt."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in ("data.pkl", "code/__torch__.py", "code/__torch__.py.debug_pkl", "constants.pkl", "version"):
            packed.writestr(f"net/{name}", "")
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        packed.addfile(tarfile.TarInfo("net.pth"), io.BytesIO())
    return file.getvalue()


def written(write, *content) -> bytes:
    file = io.BytesIO()
    write(*content, file)
    return file.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


WEIGHTS = {"0.weight": torch.ones(3)}
FILES = {
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    "a web page": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
    "an SVG": b'<?xml version="1.0"?>\n<svg/>',
    "packed by gzip": gzip.compress(b"weights"),
    "packed by bzip2": bz2.compress(b"weights"),
    "packed by xz": lzma.compress(b"weights"),
    "a tar archive": archive(),
    "a safetensors file": safetensors(),
    "an array of NumPy": written(lambda array, file: np.save(file, array), np.ones(3)),
    "a text file": "0.5 — half\n".encode(),
    "a GIF image": picture("GIF"),
}
ZIPPED = {
    "arrays of NumPy": written(lambda array, file: np.savez(file, array), np.ones(3)),
    "a TorchScript program": torchscript(),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures_that_can_be_decoded_are_known(kind):
    found = first_bytes.kind(picture(kind))
    assert found in first_bytes.READABLE and found.upper() == f"A {kind} IMAGE"


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != first_bytes.SAFETENSORS])
def test_weights_that_are_something_else_are_said_to_be_it(tmp_path, kind):
    (tmp_path / "net.pth").write_bytes(FILES[kind])
    with pytest.raises(UsageError, match=f"loaded safely .*: is {kind}.*, expected what torch.save"):
        checkpoint.read("weights", tmp_path / "net.pth")


@pytest.mark.parametrize("kind", ZIPPED)
def test_zip_archives_of_something_else_are_said_to_be_it(tmp_path, kind):
    (tmp_path / "net.pth").write_bytes(ZIPPED[kind])
    with pytest.raises(UsageError, match=f"loaded safely .*: is {kind}, expected what torch.save"):
        checkpoint.read("weights", tmp_path / "net.pth")


def test_an_exported_program_is_said_to_be_one(tmp_path):
    torch.export.save(torch.export.export(nn.Linear(2, 1), (torch.ones(1, 2),)), tmp_path / "net.pt2")
    with pytest.raises(UsageError, match="is an exported program, expected what"):
        checkpoint.read("weights", tmp_path / "net.pt2")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["net.pth", "net.npy", "code.pkl"])
def test_what_torch_saves_is_taken_under_any_name(tmp_path, old, name):
    torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=not old)
    assert torch.equal(checkpoint.read("weights", tmp_path / name)["0.weight"], WEIGHTS["0.weight"])


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "packed by xz"])
def test_pictures_that_are_something_else_are_said_to_be_it(tmp_path, kind):
    (tmp_path / "cat.jpg").write_bytes(FILES[kind])
    with pytest.raises(InputError, match=f"is {kind}.*, expected an image in BMP, JPEG, PNG, PPM, TIFF or WEBP"):
        decode(str(tmp_path / "cat.jpg"), "RGB")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_avif_is_said_to_be_avif(tmp_path):
    (tmp_path / "cat.jpg").write_bytes(picture("AVIF"))
    with pytest.raises(InputError, match="is an AVIF image, expected an image in BMP"):
        decode(str(tmp_path / "cat.jpg"), "RGB")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_taken_as_they_are_stored_whatever_exif_data_say(tmp_path, kind):
    stored = Image.new("L", (16, 16))
    stored.paste(255, (0, 0, 16, 8))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    stored.save(tmp_path / "cat", kind, exif=turned)
    assert decode(str(tmp_path / "cat"), "L").resize((1, 2), Image.Resampling.BOX).tobytes() == b"\xff\x00"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_cut_off_are_damaged(tmp_path, kind):
    (tmp_path / "cat.jpg").write_bytes(picture(kind)[:40])
    with pytest.raises(InputError, match=DAMAGED):
        decode(str(tmp_path / "cat.jpg"), "RGB")


@given(st.binary(max_size=600) | st.text(max_size=300).map(str.encode))
def test_every_beginning_has_words_or_none(beginning):
    found = first_bytes.kind(beginning[: first_bytes.LOOKED_AT])
    assert found is None or found.split()[0] in ("a", "an", "packed", "PostScript")


def test_text_whose_last_character_is_cut_in_two_is_text():
    assert first_bytes.kind(("—" * 300).encode()[: first_bytes.LOOKED_AT]) == "a text file"
    assert first_bytes.kind(b"text\xff and more") is None and first_bytes.kind(b"text\x00") is None
