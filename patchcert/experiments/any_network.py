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
from patchcert.engines.plain import MEAN, PlainNetwork
from patchcert.engines.plain_copies import PlainCopies
from patchcert.errors import UsageError
from patchcert.experiments.pretrained import add_hidden_and_classes, pretrained, refuse_compiling
from patchcert.experiments.setting import add_image_size, class_count, image_shape, precision
from patchcert.pretrained import from_code, sources

ABLATIONS = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(): kind for name, kind in KINDS.items()}
"""The kinds of ablations by the names that --ablation takes."""

BATCH_SIZE = 64
"""Of what is tried where --batch_size is auto."""

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
        help="MODULE:FACTORY is a function of your own that returns a network for encoded copies. It is imported from "
        "the current folder or PYTHONPATH, and called without arguments. timm:NAME, torchvision:NAME or hf:FOLDER is a "
        "network for whole images, which stays unchanged. Its own transform prepares the images, and hidden pixels "
        "have one colour",
    )
    parser.add_argument("--ablation", required=True, metavar="KIND:SIZE", help=f"what each copy shows: {FORMS}")
    add_hidden_and_classes(parser)
    add_image_size(parser, 32)
    parser.data.add_argument(
        "--image_channels",
        type=int,
        choices=(1, 3),
        default=3,
        help="1: read the images of a folder in grey; 3: in colour",
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
    """The network of `--model` and the copies of `--ablation`, on the CPU; that of a library is a `Pretrained`.

    Raises:
        UsageError: there is no such network, or there are no such copies.
    """
    if not sources.is_of_library(options.model):
        _require_own(options)
        _, height, width = image_shape(options)
        ablation = ablation_of(options.ablation, height, width)
        return from_code.made_by(options.model), ablation
    refuse_compiling(options)
    plain, pictures, _ = pretrained(options)
    _, height, width = pictures.image_shape
    options.image_size = height
    ablation = ablation_of(options.ablation, height, width)
    return Pretrained(plain, ablation, pictures), ablation


def _require_own(options: argparse.Namespace) -> None:
    """Raise UsageError if options are given that mean something for networks of libraries alone."""
    for name, default in (("hidden", MEAN), ("classes", None)):
        if getattr(options, name) != default:
            right = (
                "expected with timm:NAME, torchvision:NAME or hf:FOLDER alone; your own network is shown encoded copies"
            )
            raise UsageError(name, getattr(options, name), right)


def require_answers(options: argparse.Namespace, network: nn.Module, ablation: Ablation, image: Tensor) -> None:
    """Raise UsageError unless the network, filled, tells classes apart by copies of the `image` (1, C, H, W)."""
    try:
        found = probing.class_count(SmoothedClassifier(network, ablation), image)
    except ValueError as error:
        raise _wrong(options, error) from error
    wanted = class_count(options)
    if found != wanted:
        raise UsageError("model", options.model, f"it has {found} classes, the data set has {wanted}")


def manner_of(
    options: argparse.Namespace, classifier: SmoothedClassifier, dataset: Images, engine: Engine | None = None
) -> Manner | None:
    """How the network of `--model`, filled, answers; None of networks that scripts know, of which nothing is tried.

    Args:
        engine: the one that will run, by default the classifier's own.

    Raises:
        UsageError: it does not answer as certificates presume.
    """
    if "weights" not in options:
        return None
    size = options.batch_size or BATCH_SIZE
    images = next(splits.spread(dataset, size).batches(size))[0]
    try:
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp):
            manner = probing.manner_of(classifier, engine or classifier.engine(images), images, size)
    except ValueError as error:
        raise _wrong(options, error) from error
    return distributed.from_first(manner)


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
