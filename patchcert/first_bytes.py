"""What a file is that is not what its name says, from its first bytes: pointers, web pages, archives, images."""

import codecs
import re

LOOKED_AT = 512
"""Bytes."""

ZIP, SAFETENSORS = "a zip archive", "a safetensors file"

READABLE = {
    "a BMP image": rb"BM.{4}\x00{4}",
    "a JPEG image": rb"\xff\xd8\xff",
    "a PNG image": rb"\x89PNG\r\n",
    "a PPM image": rb"P[1-6]\s",
    "a TIFF image": rb"II\*\x00|MM\x00\*",
    "a WebP image": rb"RIFF.{4}WEBP",
}
"""Images that can be decoded."""

OTHERS = {
    "a GIF image": rb"GIF8[79]a",
    "an AVIF image": rb".{4}ftypavi[fs]",
    "a HEIF image": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "a JPEG XL image": rb"\xff\x0a|\x00\x00\x00\x0cJXL ",
    "a JPEG 2000 image": rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  ",
    "a pointer of Git LFS (`git lfs pull` puts the file in its place)": rb"version https://git-lfs",
    "a web page, as a failed download leaves it": rb"(?i)\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)",
    "an SVG or another XML file": rb"\s*<(\?xml|svg)",
    "a PDF file": rb"%PDF",
    "PostScript": rb"%!PS",
    "a video": rb".{4}ftyp|\x1a\x45\xdf\xa3",
    "packed by gzip": rb"\x1f\x8b",
    "packed by bzip2": rb"BZh[1-9]",
    "packed by xz": rb"\xfd7zXZ\x00",
    "packed by zstd": rb"\x28\xb5\x2f\xfd",
    "a 7z archive": rb"7z\xbc\xaf\x27\x1c",
    "a tar archive": rb".{257}ustar",
    ZIP: rb"PK\x03\x04",
    SAFETENSORS: rb".{4}\x00{4}\{",
    "an HDF5 file, such as Keras writes": rb"\x89HDF\r\n",
    "an array of NumPy": rb"\x93NUMPY",
    "a GGUF file": rb"GGUF",
    "an ONNX file": rb"\x08[\x01-\x1f]\x12.[a-z]",
}

_BEGINNINGS = {kind: re.compile(pattern, re.DOTALL) for kind, pattern in (READABLE | OTHERS).items()}


def kind(beginning: bytes) -> str | None:
    """What a file is whose first `LOOKED_AT` bytes are these, in words that follow `is`; None if nobody knows."""
    found = next((kind for kind, pattern in _BEGINNINGS.items() if pattern.match(beginning)), None)
    return found or ("a text file" if _is_text(beginning) else None)


def otherwise(beginning: bytes, wanted: str) -> str:
    """What there is in place of the file that is `wanted`, in words that follow its name."""
    found = kind(beginning)
    return f"is {found}, not {wanted}" if found else f"is not {wanted}"


def _is_text(beginning: bytes) -> bool:
    """Whether people could read it; the last character may be cut in two."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(character.isprintable() or character in "\t\n\r" for character in text)
