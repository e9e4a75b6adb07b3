"""Data set, network and device: the options of every experiment, and what comes of them."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from patchcert import arithmetic, distributed, messages
from patchcert.cli import Parser
from patchcert.data import folders, listing, named
from patchcert.data.class_numbers import part_of
from patchcert.data.folders import Images, PictureFolder, normalise_imagenet
from patchcert.errors import UsageError
from patchcert.option_values import device, named_otherwise, nonnegative_float, pixels, positive_int, seed
from patchcert.steps import SAVE_EVERY

MNIST_LIKE = ("mnist", "fashion-mnist", "digits", "folder")
CIFAR_LIKE = ("cifar10", "folder")
IMAGENET = ("imagenet",)
ANY = ("cifar10", "svhn", "mnist", "fashion-mnist", "digits", "folder")
"""For networks that the user's own code makes."""

SIZES = (
    "patch sizes: 5, 1-10, 2,5 or 2x8 (rows × columns); 2%% is the smallest square of at least 2 %% of the image's "
    "pixels; area:25 is every rectangle of at most 25 pixels"
)

PICTURES = {MNIST_LIKE: {"image_channels": 1, "image_size": 28}, CIFAR_LIKE: {"image_channels": 3}}
"""What images of the data set `folder` are turned to where no option says it; image_size is both ways, pixels."""


def add_setting(parser: Parser, data_sets: tuple[str, ...]) -> None:
    """The options of data set, device and arithmetic; `data_sets` are the ones to choose from, the default first."""
    if data_sets == IMAGENET:
        parser.set_defaults(dataset="imagenet")
        parser.data.add_argument(
            "--valpath",
            type=Path,
            default=Path("imagenet-val/val"),
            metavar="DIR",
            help="folder with a subfolder of images for each class",
        )
    else:
        parser.data.add_argument(
            "--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data sets"
        )
        parser.data.add_argument("--dataset", choices=data_sets, default=data_sets[0], help=_data_set_help(data_sets))
        parser.set_defaults(**PICTURES.get(data_sets, {}))
    parser.engine.add_argument("--device", type=device, default="auto", help="auto, cpu or cuda")
    parser.engine.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="compute products and convolutions in bfloat16",
    )
    parser.engine.add_argument("--tf32", action="store_true", help="let GPUs round products and convolutions to TF32")
    parser.engine.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    parser.engine.add_argument("--deterministic", action="store_true", help=arithmetic.REPEATABLE)
    parser.engine.add_argument("--seed", type=seed, default=0, help="seed of all random numbers")


def _data_set_help(data_sets: tuple[str, ...]) -> str:
    turned = ", turned grey and resized to 28 × 28" if data_sets == MNIST_LIKE else ""
    of_folder = f"; folder takes the images in DIR/{{train,test}}/CLASS/{turned}"
    return "which data set" + (of_folder if "folder" in data_sets else "")


def add_network(parser: Parser, models: Iterable[str], model: str, image_size: int) -> None:
    """The options of a network for images and of their size, where the data set leaves it open."""
    add_model(parser, models, model)
    add_image_size(parser, image_size)


def add_model(parser: Parser, models: Iterable[str], model: str) -> None:
    """--model, of `models`, where there is a choice; column answers for all bands in one pass."""
    parser.add_argument("--model", choices=list(models), default=model, help="network")


def add_image_size(parser: Parser, image_size: int) -> None:
    """The option of the images' size, where the data set leaves it open."""
    parser.data.add_argument(
        "--image_size", type=pixels, default=image_size, help="width and height to which images are resized, in pixels"
    )


def add_windows(parser: Parser) -> None:
    """The options of the windows that copies hide."""
    parser.add_argument(
        "--window_size", type=positive_int, default=11, help="w, the side of a hidden window, in pixels"
    )
    parser.add_argument("--per_side", type=positive_int, default=4, help="k: there are k × k hidden windows")


def add_subset(parser: Parser) -> None:
    """--subset, which training has in place of the --limit of evaluations."""
    parser.data.add_argument(
        "--subset", type=positive_int, metavar="N", help="train and test on N images of each part, evenly spaced"
    )
    other = named_otherwise("training has --subset N instead, which takes N images of each part, evenly spaced")
    parser.data.add_argument("--limit", type=other, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_save_every(parser: Parser) -> None:
    """--save_every, of everything that trains."""
    parser.output.add_argument(
        "--save_every",
        type=nonnegative_float,
        default=SAVE_EVERY,
        metavar="MINUTES",
        help="save the run this often inside an epoch, too, so that it can be continued; 0: only after epochs",
    )


def data_name(options: argparse.Namespace) -> str:
    """What checkpoint names begin with: the data set, or the name of the folder it is in."""
    return {"cifar10": "cifar", "folder": options.data.resolve().name}.get(options.dataset, options.dataset)


def class_count(options: argparse.Namespace) -> int:
    """Classes of the images that the options name, and whether `--image_size` suits them."""
    if options.dataset == "folder":
        return _told_apart("data", part_of(options.data, train=False))
    if options.dataset == "imagenet":
        return _told_apart("valpath", options.valpath)
    if options.dataset == "cifar10" and options.image_size != 32:
        raise UsageError("image_size", options.image_size, "CIFAR-10 has 32 × 32 pixels; only --dataset folder resizes")
    return 10


def _told_apart(option: str, root: Path) -> int:
    found = len(listing.class_names(option, root))
    if found < 2:
        raise UsageError(option, root, "has one class alone, expected a folder of images for each of several")
    return found


def image_shape(options: argparse.Namespace) -> tuple[int, int, int]:
    """(C, H, W) of the images that the options name, where a script takes `ANY` of them."""
    if options.dataset == "folder":
        return options.image_channels, options.image_size, options.image_size
    return named.IMAGE_SHAPES[options.dataset]


def set_up(options: argparse.Namespace) -> None:
    """Join the other processes, if there are any, and set the arithmetic."""
    distributed.start(options.device)
    arithmetic.be_deterministic(options.deterministic, options.device)
    arithmetic.allow_tf32(options.tf32)
    if options.amp and arithmetic.emulates_bfloat16(options.device) and distributed.is_first():
        messages.print_emulated("--no-amp")


def precision(options: argparse.Namespace) -> str:
    """The coarsest arithmetic that products and convolutions are computed in: one of `NUMERICAL_MARGINS`.

    Only GPUs round to TF32.
    """
    return "bfloat16" if options.amp else "tf32" if options.tf32 and options.device.type == "cuda" else "float32"


def load_images(options: argparse.Namespace, train: bool) -> Images:
    """The training or the test part of the data set that the options name, on the CPU.

    The options get `pictures` where copies of a data set go around: what `named.cifar10_pictures` says.
    """
    if options.dataset == "imagenet":
        option = "trainpath" if train else "valpath"
        pictures = getattr(options, option)
        different = listing.difference(option, pictures, options.valpath) if train else None
        if different:
            raise UsageError(option, pictures, f"expected the same classes as in --valpath, {different}")
        if not train:
            say_how_numbered(option, pictures)
        return PictureFolder(option, pictures, options.image_size, normalise_imagenet)
    if options.dataset != "folder":
        images = named.load(options.dataset, options.data, train)
        if options.dataset == "cifar10":
            options.pictures = named.cifar10_pictures(images)
        return images
    pictures = folders.load_folder(options.data, train, options.image_size, options.image_channels)
    if not train:
        say_how_numbered("data", part_of(options.data, train))
        in_both = listing.count_in_both(options.data) if distributed.is_first() else 0
        if in_both:
            messages.print_in_both(options.data, in_both)
    return pictures


def say_how_numbered(option: str, root: Path) -> None:
    """Say which number each class has, where people would number the folders in `root` otherwise."""
    names = listing.class_names(option, root)
    if distributed.is_first() and listing.numbered_otherwise(names):
        messages.print_numbering(root, names)
