#!/bin/bash
# torch 2.15.0: nn.TransformerEncoder's outputs for hidden tokens (src_key_padding_mask) depend on where the tokens are,
# and on the mode. In train(), without dropout, they are numbers like those of the other tokens. In eval() they are
# exactly 0 if they are the last ones, and as in train() if they are the first. A vision transformer that averages over
# tokens (image copies that show one band of patches) then computes another function in eval() than the one that was
# trained, for some places of the band but not for others. nn.TransformerEncoder(enable_nested_tensor=False) treats all
# hidden tokens in the same way.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import torch
from torch import nn

warnings.filterwarnings("ignore", message=".*nested tensor.*")
torch.manual_seed(0)
tokens = torch.rand(1, 6, 16)  # images, tokens, features
layer = nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=32, dropout=0.0, batch_first=True)
print(f"torch {torch.__version__}: mean over 6 tokens, of which 3 are hidden, first feature")
differences = {}
for nested in (True, False):
    encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=nested)
    for name, hidden in (("last", [0, 0, 0, 1, 1, 1]), ("first", [1, 1, 1, 0, 0, 0])):
        mask = torch.tensor([hidden], dtype=torch.bool)
        with torch.no_grad():
            trained = encoder.train()(tokens, src_key_padding_mask=mask)
            evaluated = encoder.eval()(tokens, src_key_padding_mask=mask)
        zero = bool((evaluated[mask] == 0).all())
        difference = (trained.mean(1) - evaluated.mean(1)).abs().max().item()
        differences[nested, name] = difference
        print(
            f"  enable_nested_tensor={nested}, the {name} tokens hidden: train {trained.mean(1)[0, 0]:.4f}, "
            f"eval {evaluated.mean(1)[0, 0]:.4f}, all zero there in eval: {zero}"
        )
if not (differences.pop((True, "last")) > 0.1 and max(differences.values()) < 1e-5):
    sys.exit("the behaviour has changed")
PYTHON
