#!/bin/bash
# adversarial-robustness-toolbox 1.20.1 (with torch 2.15.0): PyTorchIBPClassifier (interval bounds) and PytorchDeepZ
# (zonotopes) certify another network than they are given. They rebuild it from the modules that are its direct
# children. They refuse modules that they do not know, such as max pooling. But they do not see what forward() itself
# does: if a network calls relu() as a function, a linear network is left. And they copy the weights of a convolution,
# but not its padding_mode: a convolution that reflects the image at its border pads with zeros afterwards. There is no
# error and no warning. Accuracy, bounds and certificates are those of the other network.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    adversarial-robustness-toolbox==1.20.1 torch==2.15.0 numpy==2.4.6 setuptools==84.2.1 packaging==26.4
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import art
import numpy as np
import torch
from art.estimators.certification.deep_z import PytorchDeepZ
from art.estimators.certification.interval import PyTorchIBPClassifier
from torch import nn

warnings.filterwarnings("ignore", message="\nThis estimator does not support")


class Network(nn.Module):
    def __init__(self, relu, padding_mode):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1, padding_mode=padding_mode)
        self.relu = relu
        self.linear = nn.Linear(4 * 8 * 8, 3)

    def forward(self, images):
        return self.linear(self.relu(self.convolution(images)).flatten(1))


def difference(estimator, relu, padding_mode):
    """The largest difference between the logits of the network and those of what the estimator made of it."""
    torch.manual_seed(0)
    network = Network(relu, padding_mode).eval()
    images = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)  # images, channels, height, width
    rebuilt = estimator(
        model=network, loss=nn.CrossEntropyLoss(), input_shape=(1, 8, 8), nb_classes=3, device_type="cpu"
    )
    rebuilt.model.set_forward_mode("concrete")
    return np.abs(rebuilt.predict(images) - network(torch.from_numpy(images)).detach().numpy()).max()


print(f"adversarial-robustness-toolbox {art.__version__}, torch {torch.__version__}")
same = True
for estimator in (PyTorchIBPClassifier, PytorchDeepZ):
    modules = difference(estimator, nn.ReLU(), "zeros")
    function = difference(estimator, torch.relu, "zeros")
    reflected = difference(estimator, nn.ReLU(), "reflect")
    print(f"{estimator.__name__}: logits of the network and of what it certifies differ by up to {modules:.1e} with")
    print(f"  nn.ReLU() and zero padding, {function:.1e} with torch.relu, {reflected:.1e} with padding_mode='reflect'")
    same &= bool(modules < 1e-5 and function > 0.01 and reflected > 0.01)
if not same:
    sys.exit("the behaviour has changed")
PYTHON
