"""A network that somebody pretrained, as it is, and the images that it is asked about: what options name."""

import argparse
from pathlib import Path

import torch
from torch import nn

from patchcert import checkpoint, distributed, messages
from patchcert.arithmetic import require_nearest
from patchcert.cli import Parser
from patchcert.data import class_numbers, listing, named
from patchcert.data.folders import Images, PictureFolder
from patchcert.data.splits import spread
from patchcert.engines.dropped_tokens import DROP
from patchcert.engines.plain import MEAN, PlainNetwork
from patchcert.errors import UsageError
from patchcert.experiments import about
from patchcert.experiments.setting import say_how_numbered
from patchcert.option_values import hidden_pixels
from patchcert.pretrained import sources
from patchcert.pretrained.found import Found
from patchcert.pretrained.preparation import MODES, Preparation


def add_pretrained(parser: Parser) -> None:
    """The options of a network that somebody pretrained, beside its --weights, and of the images in a folder."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="SOURCE:NAME",
        help="timm:NAME or torchvision:NAME, with or without a tag; hf:FOLDER, which transformers wrote; or "
        "MODULE:FACTORY, your own code, imported from the current folder or PYTHONPATH. Nothing is downloaded",
    )
    add_hidden_and_classes(parser)
    parser.data.add_argument(
        "--image_channels",
        type=int,
        choices=(1, 3),
        help="grey or colour (default: what the network's transform takes)",
    )


def add_hidden_and_classes(parser: Parser) -> None:
    """What hidden pixels show, and how class folders are numbered."""
    parser.add_argument(
        "--hidden",
        type=hidden_pixels,
        metavar="COLOUR",
        help="colour of hidden pixels: a number from 0 to 1; red,green,blue; or mean, the colour that the network's "
        "normalisation maps to 0. drop is like mean, but it also leaves out the tokens of squares that are wholly "
        "hidden; only for timm's VisionTransformer (default: mean; a PlainNetwork of your own has its own colour)",
    )
    parser.data.add_argument(
        "--classes",
        metavar="FILE",
        help="file with the names of all class folders in the order of their numbers, one on each line; needed if DIR "
        "has only some of them. imagenet stands for the 1,000 WordNet IDs of ImageNet (default: for hf:FOLDER "
        "the numbers that it gives these names; else the folders of DIR, sorted as text)",
    )


def refuse_compiling(options: argparse.Namespace) -> None:
    """Raise UsageError if the network is to be compiled."""
    if options.compile:
        raise UsageError("compile", True, "expected none: the network is certified as it is, and as it was tested")


def is_of_whole_images(network: nn.Module) -> bool:
    """Whether a network of the user's own is one for whole images, and not for encoded copies."""
    return isinstance(network, PlainNetwork) or getattr(network, "preparation", None) is not None


def pretrained(
    options: argparse.Namespace, made: nn.Module | None = None
) -> tuple[PlainNetwork, Images, dict[str, object]]:
    """The network of `--model`, filled; all test images at the size that it sees; and what both are, in JSON's types.

    Prints the last in a line. All is on the CPU.

    Args:
        made: what the user's own code made, if it was called already.

    Raises:
        UsageError: there is no such network, it is none that tells classes apart, or is one for other images.
    """
    network, preparation = network_of(options, made)
    require_nearest()  # whatever was imported to make the network
    said = network.description
    dataset = images_of(options, preparation, network, train=False)
    options.about = {"network": said, "sha256": about.digests(options)}
    if distributed.is_first():
        messages.print_network(said)
    return network, dataset, said


def network_of(options: argparse.Namespace, made: nn.Module | None = None) -> tuple[PlainNetwork, Preparation]:
    """The network of `--model`, filled and tried, whose `description` says all; and how its images are made.

    The options get what hidden pixels show.

    Args:
        made: as for `pretrained`.

    Raises:
        UsageError: there is no such network, or it is none that tells classes apart.
    """
    found = sources.find(options.model, options.weights and checkpoint.find("weights", options.weights), made)
    try:
        preparation = _preparation(options, found)
        network = _plain(options, found.network, preparation)
        random = torch.Generator().manual_seed(options.seed)
        noise = torch.rand(2, len(preparation.mean), *preparation.size, generator=random)
        count = network.classes(noise)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError("model", options.model, str(error)) from error
    said = found.about | preparation.about() | {"hidden": network.colour.flatten().tolist(), "classes": count}
    if network is found.network:  # and normalises by itself
        said |= {name: getattr(network, name).flatten().tolist() for name in ("mean", "std")}
    if network.drops_tokens:
        said["tokens"] = "dropped"
    network.description, network.labels = said, found.labels
    return network, preparation


def _plain(options: argparse.Namespace, network: nn.Module, preparation: Preparation) -> PlainNetwork:
    """The network on pixels in [0, 1], some of them hidden; as it is, if the user made a `PlainNetwork`."""
    if not isinstance(network, PlainNetwork):
        options.hidden = options.hidden or MEAN
        shown = {"mean": preparation.mean, "std": preparation.std, "hidden": options.hidden, "size": preparation.size}
        return PlainNetwork(preparation.shown(network), **shown)
    if options.hidden is not None:
        right = f"expected none, because {options.model} makes a PlainNetwork, which has its own colour"
        raise UsageError("hidden", options.hidden, right)
    if not preparation.keeps_colours:
        right = "its `preparation` changes colours, but a PlainNetwork normalises by itself; expected pixels in [0, 1]"
        raise UsageError("model", options.model, right)
    options.hidden = DROP if network.drops_tokens else tuple(network.colour.flatten().tolist())
    return network


def fold(options: argparse.Namespace, network: PlainNetwork, dataset: Images) -> str:
    """Fold the network, on the device of the images it is tried on. Returns what results call the engine that answers.

    It says so where the network is asked as it is.

    Raises:
        UsageError: its answers depend on what else is asked.
    """
    pictures = next(spread(dataset, 2).batches(2))[0]
    try:
        refused = network.fold(pictures if len(pictures) > 1 else torch.cat([pictures, 1 - pictures]))
    except ValueError as error:
        raise UsageError("model", options.model, str(error)) from error
    if refused and distributed.is_first():
        messages.print_not_folded(refused)
    return network.engine_name


def _preparation(options: argparse.Namespace, found: Found) -> Preparation:
    """How the images that the options name are made."""
    if options.dataset == "folder":
        if found.transform is None:
            right = (
                "expected an attribute `preparation` of the network, a transform from an image to a tensor (C, H, W)"
            )
            raise UsageError("model", options.model, right)
        return Preparation.of(found.transform, options.image_channels)
    shape = named.IMAGE_SHAPES[options.dataset]
    if found.transform is None:
        return Preparation.none(shape)
    try:
        return Preparation.of_pixels(found.transform, shape)
    except ValueError as error:
        right = f"{error}; --dataset folder takes images of any size"
        raise UsageError("model", options.model, right) from error


def images_of(options: argparse.Namespace, preparation: Preparation, network: PlainNetwork, train: bool) -> Images:
    """All training or test images, with labels among the classes that the network, as of `network_of`, tells apart.

    Raises:
        UsageError: there are none, or as many classes of another number.
    """
    count = network.description["classes"]
    if options.dataset != "folder":
        _require_classes(options, count, named.CLASSES)
        return named.load(options.dataset, options.data, train)
    root = class_numbers.part_of(options.data, train)
    names = class_numbers.read("classes", options.classes) if options.classes else _by_labels(root, network.labels)
    _require_classes(options, count, len(names))
    channels = {mode: channels for channels, mode in MODES.items()}[preparation.mode]
    return PictureFolder("data", root, preparation.size, channels=channels, pixels=preparation.pixels, classes=names)


def _by_labels(root: Path, labels: tuple[str, ...]) -> list[str]:
    """The class folders in `root` in the order of their numbers; says so where that is not what people would expect.

    If all are among the network's own `labels`, these have the numbers. Otherwise the folders are sorted as text.
    """
    names = listing.class_names("data", root)
    if len(set(labels)) < len(labels) or not set(names) <= set(labels):
        say_how_numbered("data", root)
        return names
    if distributed.is_first() and list(labels) != names:
        messages.print_labels(root, labels)
    return list(labels)


def _require_classes(options: argparse.Namespace, found: int, wanted: int) -> None:
    """Raise UsageError unless the network tells as many classes apart as the data set has."""
    if found == wanted:
        return
    hint = ""
    if found == wanted + 1:
        hint = "; the extra class may be a background, as networks from TensorFlow have first: --classes can name it"
    elif options.dataset == "folder" and not options.classes:
        hint = "; --classes gives the folders their numbers, --classes imagenet those of ImageNet's 1,000"
    raise UsageError("model", options.model, f"it has {found} classes, the data set has {wanted}{hint}")
