#!/bin/bash
# torch 2.15.0, torchvision 0.29.2: torch's FlopCounterMode counts other operations of the same network when gradients
# are off. nn.MultiheadAttention then takes a faster way, which the counter does not know, and counts as nothing. For
# torchvision's ViT-B/16 in eval mode the counter finds 17.6 billion multiply-adds, but only 11.3 billion under
# torch.no_grad() or torch.inference_mode(), and none at all for an attention layer alone. We had expected the same
# number each time, or a warning: the outputs are the same. Whoever compares the cost of defences in this way gives
# transformers a third of their cost for free.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vit_b_16

torch.manual_seed(0)
torch.set_num_threads(1)


class Attention(nn.MultiheadAttention):
    """Of tokens to themselves."""

    def forward(self, tokens):
        return super().forward(tokens, tokens, tokens, need_weights=False)[0]


def counted(network, shown):
    """Multiply-adds, each of which the counter takes for two operations."""
    with FlopCounterMode(display=False) as counter:
        output = network(shown)
    return counter.get_total_flops() / 2, output.detach()


print(f"torch {torch.__version__}, torchvision {torchvision.__version__}")
shares, apart = [], 0.0
cases = {
    "MultiheadAttention(64, 4)": (Attention(64, 4, batch_first=True), torch.rand(1, 100, 64)),
    "vit_b_16": (vit_b_16(), torch.rand(1, 3, 224, 224)),
}
for name, (network, shown) in cases.items():
    network.eval()
    with_gradients, expected = counted(network, shown)
    for way in (torch.no_grad, torch.inference_mode):
        with way():
            without, output = counted(network, shown)
        shares.append(without / with_gradients)
        apart = max(apart, (output - expected).abs().max().item())
        print(f"{name}: {with_gradients:.3g} multiply-adds, under {way.__name__} {without:.3g}")
print(f"outputs differ by at most {apart:.1e}")
if not (shares[0] == shares[1] == 0 and 0.6 < shares[2] == shares[3] < 0.7 and apart < 1e-4):
    sys.exit("the behaviour has changed")
PYTHON
