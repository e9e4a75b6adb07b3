"""Networks that ship, as classifiers."""

from torch import nn

from patchcert import checkpoint
from patchcert.ablations.ablation import Ablation
from patchcert.ablations.windows import WindowPairs
from patchcert.classifiers.masked import MaskedClassifier
from patchcert.data import named
from patchcert.engines.columns import LinesNetwork
from patchcert.errors import UsageError
from patchcert.patch import Patch
from patchcert.zoo import building, table
from patchcert.zoo.table import Model, Variant

AT_ONCE = 32
"""Images per call of a network that answers for all of their copies."""

COPIES_AT_ONCE = 512


class ShippedClassifier(MaskedClassifier):
    """A network that ships, against one patch.

    Attributes:
        model: what is known of it.
    """

    def __init__(self, model: Model, patch: Patch):
        variant = model.variant(patch)
        network, ablation = _network(model, variant)
        at_once = AT_ONCE if variant.bands else COPIES_AT_ONCE
        super().__init__(network, ablation, patch, batch_size=at_once)
        self.model = model
        self.eval().requires_grad_(False)

    def describe(self) -> str:
        """What it is, from which files it is made, and what was counted of it, in several lines."""
        return self.model.describe()


def load(name: str, patch: Patch | None = None) -> ShippedClassifier:
    """A classifier that ships, ready to predict and to be certified; on the CPU. Loading it executes no code.

    Args:
        name: such as cifar10-bands-and-windows; `patchcert models` lists them.
        patch: what its answers are certified against, anywhere in the image; by default 5 × 5 pixels, or the largest
            square that it holds.

    Raises:
        ValueError: there is no such network, or it does not hold such a patch.
    """
    model = table.named(name)
    patch = model.usual_patch if patch is None else patch
    if not isinstance(patch, Patch):
        raise UsageError("patch", patch, "expected a Patch(height, width)")
    return ShippedClassifier(model, patch)


def _network(model: Model, variant: Variant) -> tuple[nn.Module, Ablation]:
    """The networks of one classifier, filled and ready for evaluation, and their copies."""
    channels, height, width = named.IMAGE_SHAPES[model.dataset]
    bands = variant.bands and LinesNetwork.load(checkpoint.SHIPPED / variant.bands)
    if not variant.windows:
        assert bands
        return bands, bands.shape.ablation()
    path = checkpoint.SHIPPED / variant.windows
    windows, own = building.windows_network("name", path, channels, named.CLASSES)
    if not bands:
        return windows, WindowPairs(height, width, *own)
    how = {"weight": variant.weight, "sure": variant.sure, "mirrored": variant.mirrored}
    network, ablation = building.joint(bands, windows, own, variant.coarse_windows, **how)
    network.fold()
    return network, ablation
