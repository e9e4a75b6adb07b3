"""Images in one folder per class: streamed from a disk, or decoded once and held."""

import copy
import hashlib
import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from patchcert import checkpoint, distributed, stopping
from patchcert.data import listing
from patchcert.data.augmentation import Augmentation, augmented
from patchcert.data.class_numbers import part_of
from patchcert.data.dataset import Dataset, shares_of_shuffled, turns_of
from patchcert.data.decoding import decode, require_whole
from patchcert.errors import UsageError
from patchcert.inputs import InputError
from patchcert.progress import progress_bar

DECODED_AT_ONCE = 500
"""Images that a worker process hands over together."""

MODES = {1: "L", 3: "RGB"}
"""What Pillow calls images of so many channels."""


class PictureFolder:
    """Images in one folder per class, decoded by worker processes each time that batches of them are asked for.

    Has the interface of `Dataset`, but holds file names instead of images.

    Args:
        option: the option that named the folder.
        image_size: height and width to which images are resized, pixels.
        normalise: applied to float images (N, C, H, W) in [0, 1].
        channels: C, 3 or 1: images are turned to colour or grey.
        pixels: makes (C, H, W) uint8 of an image of Pillow's, in place of resizing it to `image_size` both ways.
        classes: the names of the folders by their numbers, of which some may be missing here; by default the folders
            that there are, sorted as text.

    Raises:
        UsageError: the folder is not laid out so, or a folder is none of the `classes`.
    """

    def __init__(
        self,
        option: str,
        root: Path,
        image_size: int | tuple[int, int],
        normalise: Callable[[Tensor], Tensor] = lambda images: images,
        channels: int = 3,
        pixels: Callable[[Image.Image], Tensor] | None = None,
        classes: Sequence[str] | None = None,
    ):
        self.option, self.normalise, self.channels = option, normalise, channels
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.pixels = pixels or partial(_resized, self.image_size)
        of_classes = listing.pictures(option, root)
        numbers = _numbers(option, root, classes)
        self.paths = [path for paths in of_classes for path in paths]
        self.indices = torch.arange(len(self.paths))
        self.labels = torch.tensor(numbers).repeat_interleave(torch.tensor(list(map(len, of_classes))))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, *self.image_size

    def take(self, chosen: Tensor | slice) -> "PictureFolder":
        taken = copy.copy(self)
        taken.indices, taken.labels = self.indices[chosen], self.labels[chosen]
        return taken

    def to(self, device: torch.device | str) -> "PictureFolder":
        moved = copy.copy(self)
        moved.labels = self.labels.to(device)
        return moved

    def fingerprint(self) -> str:
        """Tells data sets apart by the names of images and classes, the bytes of their files, and the pixels here.

        How these are made is seen from one image. Several processes share the files out.

        Raises:
            UsageError: a file cannot be read, or holds no whole image, as far as that is seen without decoding it.
        """
        paths = [self.paths[place] for place in self.indices.tolist()]
        digests = bytearray()
        with progress_bar(len(paths), "reading") as bar:
            for path in paths[distributed.share()]:
                try:
                    require_whole(path, MODES[self.channels])
                except InputError as error:
                    raise UsageError(self.option, path, str(error)) from error
                digests += listing.digest(path)
                bar.update(distributed.world())
        of_share = _as_bytes(digests).view(-1, hashlib.sha256().digest_size)
        files = distributed.merge(of_share.to(self.labels.device), len(paths))
        names = json.dumps([self.image_size, self.labels.tolist(), [path.rsplit(os.sep, 2)[1:] for path in paths]])
        tried = Image.radial_gradient("L").crop((0, 30, 256, 220)).convert(MODES[self.channels])
        return checkpoint.fingerprint([_as_bytes(bytearray(names.encode())), files, self.pixels(tried)])

    def decoded(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 images (B, C, H, W) for each of `batches`, places (B,) in this data set."""
        wanted = [self.indices[batch.cpu()] for batch in batches]
        loader = DataLoader(
            _Decoding(self.paths, self.pixels, MODES[self.channels]),
            batch_size=None,
            sampler=wanted,
            num_workers=min(distributed.cores(), len(wanted)),
            pin_memory=self.labels.is_cuda,
            worker_init_fn=_leave_signals_to_parent,
        )
        for images in loader:
            if isinstance(images, _Refused):
                raise UsageError(self.option, images.path, images.why)
            yield images.to(self.labels.device, non_blocking=True)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W), normalised, and labels (B,), in order."""
        images = self.decoded(torch.arange(len(self)).split(batch_size))
        for decoded, labels in zip(images, self.labels.split(batch_size), strict=True):
            yield self.normalise(decoded / 255), labels

    def shuffled_batches(
        self,
        batch_size: int,
        generator: torch.Generator,
        augmentations: tuple[Augmentation, ...] = (),
        done: int = 0,
        reached: Tensor | None = None,
        turn: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W), normalised and augmented, and labels (B,), as `Dataset` does."""
        shares = list(shares_of_shuffled(len(self), batch_size, generator, done, reached))
        for chosen, decoded in zip(shares, self.decoded(shares), strict=True):
            images = augmented(self.normalise(decoded / 255), generator, augmentations, turns_of(chosen, turn))
            yield images, self.labels[chosen]


def _as_bytes(content: bytearray) -> Tensor:
    return torch.frombuffer(content, dtype=torch.uint8)


def _leave_signals_to_parent(_: int) -> None:
    """In a worker process: what is sent to the whole group must not look like a failure to the parent in its step."""
    for number in stopping.ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # by which the parent ends it


@dataclass(frozen=True)
class _Refused:
    path: str
    why: str


@dataclass(frozen=True)
class _Decoding(torch.utils.data.Dataset):
    """What the worker processes do; their exceptions would arrive as tracebacks, so they return what is wrong."""

    paths: list[str]
    pixels: Callable[[Image.Image], Tensor]
    mode: str

    def __getitem__(self, places: Tensor) -> Tensor | _Refused:
        """(B, C, H, W) uint8, or the first image that there is none of."""
        images = []
        for place in places.tolist():
            try:
                images.append(self.pixels(decode(self.paths[place], self.mode)))
            except ValueError as error:
                return _Refused(self.paths[place], str(error))
        return torch.stack(images)


def _resized(size: tuple[int, int], picture: Image.Image) -> Tensor:
    """(C, H, W) uint8: the image at this size, of whatever shape it was."""
    from torchvision.transforms.v2 import functional as transforms

    return transforms.resize(transforms.pil_to_tensor(picture), list(size), antialias=True)


Images = Dataset | PictureFolder


def load_folder(root: Path, train: bool, image_size: int, channels: int = 3) -> Dataset:
    """The images in a part of a folder (see `part_of`), resized to `image_size` both ways, on the CPU.

    Args:
        channels: 3, or 1 for grey.

    Raises:
        UsageError: the folder is not laid out so, or an image is damaged.
    """
    parts = [root / "train", root / "test"]
    different = listing.difference("data", *parts) if train or parts[0].is_dir() else None
    if different:
        raise UsageError("data", root, f"expected the same classes in train/ and test/, {different}")
    pictures = PictureFolder("data", part_of(root, train), image_size, channels=channels)
    return held(pictures, "image_size", image_size)


def held(pictures: PictureFolder, option: str, value: object) -> Dataset:
    """The images, decoded once and kept as pixels, on the CPU.

    Raises:
        UsageError: an image is damaged; or they do not fit into this machine's memory, which is about the option.
    """
    _require_room(pictures, option, value)
    images = []
    with progress_bar(len(pictures), "decoding") as bar:
        places = torch.arange(len(pictures))
        for decoded in pictures.decoded(places.split(DECODED_AT_ONCE)):
            images.append(decoded)
            bar.update(len(decoded))
    return Dataset(torch.cat(images), pictures.labels, pictures.indices)


def _require_room(pictures: PictureFolder, option: str, value: object) -> None:
    """Raise UsageError about the option unless this machine's memory takes the images, twice while they join."""
    needed = 2 * len(pictures) * math.prod(pictures.image_shape)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        right = f"{len(pictures)} such images take {needed / 1e9:.0f} GB, this machine has {memory / 1e9:.0f}"
        raise UsageError(option, value, right)


def _numbers(option: str, root: Path, classes: Sequence[str] | None) -> list[int]:
    """The number of each folder in `root`; UsageError if one is none of the `classes`."""
    names = listing.class_names(option, root)
    numbers = {name: number for number, name in enumerate(classes or names)}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise UsageError(option, root, f"has a folder {unknown[0]}, which is none of the {len(numbers)} of --classes")
    return [numbers[name] for name in names]


def normalise_imagenet(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean from images (N, 3, H, W) in [0, 1] and divide by its standard deviation."""
    mean, std = images.new_tensor([0.485, 0.456, 0.406]), images.new_tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]
