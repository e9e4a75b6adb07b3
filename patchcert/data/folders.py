"""Pictures in one folder per class: streamed from a disk, or decoded once and held."""

import copy
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as transforms

from patchcert import checkpoint, distributed
from patchcert.data.augmentation import Augmentation, augmented
from patchcert.data.dataset import Dataset, shares_of_shuffled
from patchcert.errors import UsageError
from patchcert.progress import progress_bar

DECODED_AT_ONCE = 500
"""Pictures that a worker process hands over together."""

MODES = {1: "L", 3: "RGB"}
"""What Pillow calls pictures of so many channels."""


class PictureFolder:
    """Pictures in one folder per class, decoded by worker processes each time that batches of them are asked for.

    Has the interface of `Dataset`, but holds file names instead of images.

    Args:
        option: the option that named the folder.
        image_size: height and width to which pictures are resized, pixels.
        normalise: applied to float images (N, C, H, W) in [0, 1].
        channels: C, 3 or 1: pictures are turned to colour or grey.

    Raises:
        UsageError: the folder is not laid out so.
    """

    def __init__(
        self,
        option: str,
        root: Path,
        image_size: int,
        normalise: Callable[[Tensor], Tensor] = lambda images: images,
        channels: int = 3,
    ):
        class_names(option, root)
        try:
            files = ImageFolder(root)
        except FileNotFoundError as error:
            raise UsageError(option, root, f"expected pictures in each class's folder: {error}") from error
        self.option, self.image_size, self.normalise, self.channels = option, image_size, normalise, channels
        self.paths = [path for path, _ in files.samples]
        self.indices = torch.arange(len(files))
        self.labels = torch.tensor(files.targets)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(3, H, W)."""
        return self.channels, self.image_size, self.image_size

    def take(self, chosen: Tensor | slice) -> "PictureFolder":
        taken = copy.copy(self)
        taken.indices, taken.labels = self.indices[chosen], self.labels[chosen]
        return taken

    def to(self, device: torch.device | str) -> "PictureFolder":
        moved = copy.copy(self)
        moved.labels = self.labels.to(device)
        return moved

    def fingerprint(self) -> str:
        """Tells data sets apart by the names of pictures and of their classes, and by the size they have here."""
        names = [self.paths[place].rsplit(os.sep, 2)[1:] for place in self.indices.tolist()]
        text = json.dumps([self.image_size, names])
        return checkpoint.fingerprint([torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)])

    def decoded(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 images (B, C, H, W) for each of `batches`, places (B,) in this data set."""
        wanted = [self.indices[batch.cpu()] for batch in batches]
        loader = DataLoader(
            _Decoding(self.paths, self.image_size, MODES[self.channels]),
            batch_size=None,
            sampler=wanted,
            num_workers=min(distributed.cores(), len(wanted)),
            pin_memory=self.labels.is_cuda,
            worker_init_fn=_leave_signals_to_parent,
        )
        for images in loader:
            if isinstance(images, str):
                raise UsageError(self.option, images, "a damaged picture; mend it or take it away")
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
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float images (B, C, H, W), normalised and augmented, and labels (B,), as `Dataset` does."""
        shares = list(shares_of_shuffled(len(self), batch_size, generator, done, reached))
        for chosen, decoded in zip(shares, self.decoded(shares), strict=True):
            yield augmented(self.normalise(decoded / 255), generator, augmentations), self.labels[chosen]


def _leave_signals_to_parent(_: int) -> None:
    """In a worker process: what is sent to the whole group must not look like a failure to the parent in its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


@dataclass(frozen=True)
class _Decoding(torch.utils.data.Dataset):
    """What the worker processes do; an exception of theirs would arrive as a traceback, so they return a name."""

    paths: list[str]
    image_size: int
    mode: str

    def __getitem__(self, places: Tensor) -> Tensor | str:
        """(B, C, H, W) uint8, or the path of a picture that cannot be decoded."""
        images = []
        for place in places.tolist():
            try:
                with Image.open(self.paths[place]) as file:
                    picture = transforms.pil_to_tensor(file.convert(self.mode))
            except (OSError, SyntaxError, ValueError):
                return self.paths[place]
            images.append(transforms.resize(picture, [self.image_size, self.image_size], antialias=True))
        return torch.stack(images)


Images = Dataset | PictureFolder


def load_folder(root: Path, train: bool, image_size: int, channels: int = 3) -> Dataset:
    """The pictures in `root`/train/CLASS/ or `root`/test/CLASS/, resized to `image_size` both ways, on the CPU.

    Args:
        channels: 3, or 1 for grey.

    Raises:
        UsageError: the folder is not laid out so, or a picture is damaged.
    """
    parts = [root / "train", root / "test"]
    if class_names("data", parts[0]) != class_names("data", parts[1]):
        raise UsageError("data", root, "train/ and test/ have different classes, expected the same folders in both")
    pictures = PictureFolder("data", parts[0] if train else parts[1], image_size, channels=channels)
    images = []
    with progress_bar(len(pictures), "decoding") as bar:
        for decoded in pictures.decoded(pictures.indices.split(DECODED_AT_ONCE)):
            images.append(decoded)
            bar.update(len(decoded))
    return Dataset(torch.cat(images), pictures.labels, pictures.indices)


def class_names(option: str, root: Path) -> list[str]:
    """The names of the folders in `root`, in order: the classes of an ImageFolder.

    Raises:
        UsageError: there are none.
    """
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    if not names:
        raise UsageError(option, root, "expected a folder with one folder of pictures for each class")
    return names


def normalise_imagenet(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean from images (N, 3, H, W) in [0, 1] and divide by its standard deviation."""
    mean, std = images.new_tensor([0.485, 0.456, 0.406]), images.new_tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]
