"""The networks of classifiers that ship, as checkpoints and settings say: for votes, for bands and hidden windows."""

from pathlib import Path

from torch import nn

from patchcert import checkpoint
from patchcert.ablations import kinds
from patchcert.ablations.ablation import Ablation, Band
from patchcert.ablations.windows import BandsAndWindows, WindowPairs
from patchcert.engines.columns import LinesNetwork
from patchcert.engines.joint import JointNetwork
from patchcert.errors import UsageError
from patchcert.networks import mnist_network
from patchcert.small_networks import MODELS_OF_COPIES, network_of_copies

Windows = tuple[int, int]
"""Side, in pixels, and how many along each side of an image."""


def voting_network(option: str, path: Path, image_channels: int, classes: int) -> tuple[nn.Module, Ablation]:
    """The network in a checkpoint of train_mnist_band.py, and the copies that it was trained on.

    Args:
        option: what names the file, for errors.
        image_channels: of the images whose copies it takes.

    Raises:
        UsageError: the file is of another kind.
    """
    content = checkpoint.read(option, path)
    said = checkpoint.about(content)
    network = mnist_network(2 * image_channels, classes)
    if not said or said["network"] != network.description or said["ablation"]["kind"] != Band.__name__:
        raise UsageError(option, path, "expected a checkpoint of train_mnist_band.py")
    checkpoint.fill(option, path, network, content)
    return network, kinds.described(said["ablation"])


def windows_network(option: str, path: Path, image_channels: int, classes: int) -> tuple[nn.Module, Windows]:
    """The network in a checkpoint of train_*_windows.py, and which windows the file names.

    Args:
        option: what names the file, for errors.
        image_channels: of the images whose copies it takes.

    Raises:
        UsageError: the file is of another kind.
    """
    content = checkpoint.read(option, path)
    said = checkpoint.about(content)
    sizes = said["ablation"] if said else {}
    if sizes.get("kind") != WindowPairs.__name__ or not sizes.keys() >= {"window_size", "per_side"}:
        raise UsageError(option, path, "expected a checkpoint of train_*_windows.py")
    name = said["network"]["name"]
    if name not in MODELS_OF_COPIES:
        raise UsageError(option, path, f"is of a network {name}, expected one of {', '.join(MODELS_OF_COPIES)}")
    network = network_of_copies(name, 2 * image_channels, classes)
    checkpoint.fill(option, path, network, content)
    return network, (sizes["window_size"], sizes["per_side"])


def joint(
    bands: LinesNetwork, windows: nn.Module, own: Windows, coarse: Windows | None, **how: float
) -> tuple[JointNetwork, BandsAndWindows]:
    """Both networks as one, and its copies.

    Args:
        own: which windows the file of the network for windows names: those that it was trained with, unless
            benchmarks/ship_weights.py named others.
        coarse: which are hidden first; by default, or where they are the same, its own alone.
        how: the weight of the windows' logits, and `sure` and `mirrored`, as of a `JointNetwork`.

    Raises:
        UsageError: there are no such windows.
    """
    shape = bands.shape
    sizes = own if coarse in (None, own) else (*coarse, *own)
    ablation = BandsAndWindows(shape.height, shape.width, shape.band_size, *sizes)
    return JointNetwork(bands, windows, ablation, **how), ablation
