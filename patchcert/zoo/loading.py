"""Networks that ship, as classifiers."""

from torch import nn

from patchcert import checkpoint
from patchcert.ablations.ablation import Ablation
from patchcert.ablations.windows import WindowPairs
from patchcert.classifiers.masked import MaskedClassifier
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.data import named
from patchcert.engines.columns import LinesNetwork
from patchcert.errors import UsageError
from patchcert.patch import Patch
from patchcert.patch_sizes import Area, Share, in_pixels
from patchcert.zoo import building, table
from patchcert.zoo.table import Model, Variant

AT_ONCE = 32
"""Images per call of a network that answers for all of their copies."""

COPIES_AT_ONCE = 512


class Shipped:
    """What all networks that ship have.

    Attributes:
        model: what is known of it.
        patch: that it was loaded for.
    """

    model: Model
    patch: Patch | Area

    def describe(self) -> str:
        """Several lines of text: what the classifier is, which files it is made from, and its measured accuracies."""
        return self.model.describe()


class ShippedClassifier(Shipped, MaskedClassifier):
    """A classifier that ships and uses double masking, against one patch."""

    def __init__(self, model: Model, patch: Patch):
        variant = model.variant(patch)
        network, ablation = _network(model, variant)
        at_once = AT_ONCE if variant.bands else COPIES_AT_ONCE
        super().__init__(network, ablation, patch, batch_size=at_once)
        self.model = model
        self.eval().requires_grad_(False)


class ShippedVotes(Shipped, SmoothedClassifier):
    """A classifier that ships and whose copies vote. `certify` asks about its patch if you name no others."""

    def __init__(self, model: Model, patch: Patch):
        variant = model.variant(patch)
        assert variant.votes
        path = checkpoint.SHIPPED / variant.votes
        network, ablation = building.voting_network("name", path, _image_channels(model), named.CLASSES)
        ablation.require_fits("patch", patch)
        super().__init__(network, ablation, variant.threshold, engine="windowed", batch_size=COPIES_AT_ONCE)
        self.model, self.patch, self.usual_patches = model, patch, (patch,)
        self.eval().requires_grad_(False)


def load(name: str, patch: Patch | Share | None = None) -> ShippedClassifier | ShippedVotes:
    """Load a classifier that ships. It is ready to predict and to be certified, on the CPU.

    Loading executes no code from the files.

    Args:
        name: such as "cifar10-bands-and-windows"; `patchcert models` lists all names.
        patch: the patch that answers are certified against, anywhere in the image. The default is 5 × 5 pixels, or the
            largest square that the classifier supports, if that is smaller. A `Share` becomes a `Patch` of so large a
            share of the images' pixels. Answers by votes do not depend on the patch, so these can also be certified
            against other patches.

    Raises:
        ValueError: there is no such classifier, or it does not support such a patch.
    """
    model = table.named(name)
    _, height, width = named.IMAGE_SHAPES[model.dataset]
    patch = model.usual_patch if patch is None else in_pixels(patch, height, width)
    if not isinstance(patch, Patch):
        raise UsageError("patch", patch, "expected a Patch(height, width) or a Share(percent)")
    return ShippedVotes(model, patch) if model.variant(patch).votes else ShippedClassifier(model, patch)


def _network(model: Model, variant: Variant) -> tuple[nn.Module, Ablation]:
    """The networks of one classifier by double masking, filled and ready for evaluation, and their copies."""
    _, height, width = named.IMAGE_SHAPES[model.dataset]
    bands = variant.bands and LinesNetwork.load(checkpoint.SHIPPED / variant.bands)
    if not variant.windows:
        assert bands
        return bands, bands.shape.ablation()
    path = checkpoint.SHIPPED / variant.windows
    windows, own = building.windows_network("name", path, _image_channels(model), named.CLASSES)
    if not bands:
        return windows, WindowPairs(height, width, *own)
    how = {"weight": variant.weight, "sure": variant.sure, "mirrored": variant.mirrored}
    network, ablation = building.joint(bands, windows, own, variant.coarse_windows, **how)
    network.fold()
    return network, ablation


def _image_channels(model: Model) -> int:
    return named.IMAGE_SHAPES[model.dataset][0]
