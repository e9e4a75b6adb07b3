"""Networks for tests of scripts, which take no training."""

from pathlib import Path

import torch
from torch import nn

from patchcert import checkpoint
from patchcert.networks import mnist_network


def save_random_network(folder: Path, name: str = "net.pth", seed: int = 0) -> nn.Module:
    """A checkpoint of a network without training whose votes differ between images and between ablations."""
    torch.manual_seed(seed)
    network = mnist_network()
    for layer in (0, 2, 5, 7):
        network[layer].weight.data *= 1.7
        network[layer].bias.data *= 0.3
    network[9].weight.data *= 60
    network[9].bias.data[3] += 1
    checkpoint.save({"net": network.state_dict(), "acc": 0.0, "epoch": 0}, folder / "checkpoints" / name)
    return network.eval()
