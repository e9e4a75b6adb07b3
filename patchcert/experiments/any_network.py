"""A network that the user's own code makes, on copies that one option describes."""

import argparse
import re

import torch
from torch import Tensor, nn

from patchcert import distributed
from patchcert.ablations.ablation import Ablation, parameters
from patchcert.ablations.kinds import KINDS
from patchcert.arithmetic import coarser
from patchcert.classifiers import probing
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.classifiers.probing import Manner, note_numerical_margin
from patchcert.cli import Parser
from patchcert.data import splits
from patchcert.data.folders import Images
from patchcert.engines.asking import Engine
from patchcert.engines.plain import PlainNetwork
from patchcert.engines.plain_copies import PlainCopies
from patchcert.errors import UsageError
from patchcert.experiments.pretrained import (
    add_hidden_and_classes,
    is_of_whole_images,
    pretrained,
    refuse_compiling,
)
from patchcert.experiments.setting import add_image_size, class_count, image_shape, precision
from patchcert.option_values import MEASURED
from patchcert.pretrained import from_code, sources

ABLATIONS = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(): kind for name, kind in KINDS.items()}
"""The kinds of ablations by the names that --ablation takes."""

BATCH_SIZE = 64
"""Of what is tried where --batch_size is auto."""

WITHOUT_PREPARATION = "a network without `preparation`, which is shown encoded copies"

FORMS = (
    "band:4, row:4, band_and_row:4, block:8, multi_band:2x3 or multi_block:4x3 (size × number shown), "
    "window_pairs:11x4 (two of 4 × 4 windows are hidden), or whole"
)


def add_any_network(parser: Parser) -> None:
    """The options of a network that the user's own code makes, of its copies and of the images in a folder."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODULE:FACTORY",
        help="MODULE:FACTORY is a function of your own that returns a network. It is imported from the current folder "
        "or PYTHONPATH, and called without arguments. A network with an attribute `preparation` and a PlainNetwork are "
        "for whole images; every other network is shown encoded copies. timm:NAME, torchvision:NAME or hf:FOLDER is "
        "for whole images, too. Such a network stays unchanged: its own transform prepares the images, and hidden "
        "pixels have one colour",
    )
    parser.add_argument("--ablation", required=True, metavar="KIND:SIZE", help=f"what each copy shows: {FORMS}")
    add_hidden_and_classes(parser)
    add_image_size(parser, 32)
    parser.data.add_argument(
        "--image_channels",
        type=int,
        choices=(1, 3),
        help="1: read the images of a folder in grey; 3: in colour (default: 3, or what the network's own transform "
        "takes)",
    )


class Pretrained(PlainCopies):
    """A network of whole images, filled, that is shown copies.

    Attributes:
        pictures: all test images, as they are prepared for it.
    """

    def __init__(self, plain: PlainNetwork, ablation: Ablation, pictures: Images):
        super().__init__(plain, ablation)
        self.pictures, self.description = pictures, plain.description


def any_network(options: argparse.Namespace) -> tuple[nn.Module, Ablation]:
    """The network of `--model` and the copies of `--ablation`, on the CPU; one for whole images is a `Pretrained`.

    Raises:
        UsageError: there is no such network, or there are no such copies.
    """
    made = None if sources.is_of_library(options.model) else from_code.made_by(options.model)
    if made is not None and not is_of_whole_images(made):
        _refuse_hidden_and_classes(options)
        options.image_channels = options.image_channels or 3
        _, height, width = image_shape(options)
        return made, ablation_of(options.ablation, height, width)
    refuse_compiling(options)
    plain, pictures, _ = pretrained(options, made)
    _, height, width = pictures.image_shape
    options.image_size = height
    ablation = ablation_of(options.ablation, height, width)
    return Pretrained(plain, ablation, pictures), ablation


def _refuse_hidden_and_classes(options: argparse.Namespace) -> None:
    """Raise UsageError if options are given that mean something for networks for whole images alone."""
    for name in ("hidden", "classes"):
        if getattr(options, name) is not None:
            right = f"expected with a network for whole images alone; {options.model} makes {WITHOUT_PREPARATION}"
            raise UsageError(name, getattr(options, name), right)


def require_answers(options: argparse.Namespace, network: nn.Module, ablation: Ablation, image: Tensor) -> None:
    """Raise UsageError unless the network, filled, tells classes apart by copies of the `image` (1, C, H, W)."""
    try:
        found = probing.class_count(SmoothedClassifier(network, ablation), image)
    except ValueError as error:
        if _takes_whole(network, image):
            channels = image.shape[1]
            right = (
                f"it is {WITHOUT_PREPARATION} (B, {2 * channels}, H, W), but it takes images (B, {channels}, H, W). "
                "To certify it as it is, give it the attribute `preparation` or return a PlainNetwork; else return a "
                f"network of {2 * channels} channels that was trained on copies"
            )
            raise UsageError("model", options.model, right) from error
        raise _wrong(options, error) from error
    wanted = class_count(options)
    if found != wanted:
        raise UsageError("model", options.model, f"it has {found} classes, the data set has {wanted}")


@torch.no_grad()
def _takes_whole(network: nn.Module, image: Tensor) -> bool:
    """Whether the network, in eval mode, tells classes apart by the `image` (1, C, H, W) itself."""
    try:
        PlainNetwork(network).to(image.device)(image)
    except (ValueError, FloatingPointError):
        return False
    return True


def manner_of(
    options: argparse.Namespace,
    classifier: SmoothedClassifier,
    dataset: Images,
    engine: Engine | None = None,
    in_order: bool = False,
) -> Manner | None:
    """How the network of `--model`, filled, answers; None of networks that scripts know, of which nothing is tried.

    Args:
        engine: the one that will run, by default the classifier's own.
        in_order: whether the copies will be asked about in order, by no engine.

    Raises:
        UsageError: it does not answer as certificates presume.
    """
    if "weights" not in options:
        return None
    size = options.batch_size or BATCH_SIZE
    images = next(splits.spread(dataset, size).batches(size))[0]
    try:
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
            if in_order:
                manner = probing.manner_in_order(classifier, images, size)
            else:
                manner = probing.manner_of(classifier, engine or classifier.engine(images), images, size)
    except ValueError as error:
        raise _wrong(options, error) from error
    return distributed.from_first(manner)


def is_the_same_in_order(options: argparse.Namespace, classifier: SmoothedClassifier, dataset: Images) -> bool:
    """Whether no answer about a copy depended on its batch, as far as `manner_in_order` tried; else why is said.

    All processes try it, and all get the same.

    Raises:
        UsageError: answers depend on more than the copy.
    """
    size = options.batch_size
    images = next(splits.spread(dataset, size).batches(size))[0]
    try:
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
            apart = probing.manner_in_order(classifier, images, size, rounded=True).apart
    except ValueError as error:
        raise UsageError("numerical_margin", MEASURED, getattr(error, "right", str(error))) from error
    (differing,) = distributed.largest([apart != 0], options.device)
    if differing and distributed.is_first():
        probing.note_differing(apart)
    return not differing


def _wrong(options: argparse.Namespace, error: ValueError) -> UsageError:
    return UsageError("model", options.model, getattr(error, "right", str(error)))


def arithmetic_of(options: argparse.Namespace, manner: Manner | None) -> str:
    """The coarsest arithmetic that the options ask for, or in which a network of the user's own was seen to compute."""
    return coarser(precision(options), manner.arithmetic if manner else "float32")


def margin_of_votes(manner: Manner | None) -> float:
    """ν that nobody named: 0, but where a network of the user's own computes in less than float32, which is said."""
    if manner is None or manner.arithmetic == "float32":
        return 0.0
    margin = manner.margin(of_scores=False)
    note_numerical_margin(margin, manner)
    return margin


def ablation_of(text: str, height: int, width: int) -> Ablation:
    """The copies of height × width images that `--ablation text` describes: band:4.

    Raises:
        UsageError: it describes none.
    """
    name, _, numbers = text.partition(":")
    sizes = re.fullmatch(r"(?:\d+(?:x\d+)*)?", numbers) and [int(size) for size in numbers.split("x") if size]
    kind = ABLATIONS.get(name)
    if kind is None or sizes is None or len(sizes) != len(parameters(kind)) - 2:
        raise UsageError("ablation", text, f"expected {FORMS}")
    try:
        return kind(height, width, *sizes)
    except UsageError as error:
        raise UsageError("ablation", text, error.right) from error
