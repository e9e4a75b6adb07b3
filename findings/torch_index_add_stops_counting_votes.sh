#!/bin/bash
# torch 2.15.0: in float16 and bfloat16, on the CPU, sum() and scatter_add() add up in more bits and round once. We
# expected the same of index_add(), index_put(accumulate=True), put(accumulate=True) and segment_reduce("sum"). These
# round after every term: once a count is 256 in bfloat16, or 2048 in float16, one more vote changes nothing, and it
# stays there. Below, 784 copies of an image vote, 300 for class 0 and 484 for class 1. scatter_add() says class 1,
# index_add() sees a tie at 256, and argmax answers class 0. There is no error and no warning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

CLASSES, COPIES = 2, 784
chosen = torch.tensor([0] * 300 + [1] * 484)  # copies: the class that each votes for
lengths = chosen.bincount()


def counts(dtype):
    """The votes of each class, counted in several ways."""
    zeros, ones = torch.zeros(CLASSES, dtype=dtype), torch.ones(COPIES, dtype=dtype)
    return {
        "sum": torch.nn.functional.one_hot(chosen).to(dtype).sum(0),
        "scatter_add": zeros.scatter_add(0, chosen, ones),
        "index_add": zeros.index_add(0, chosen, ones),
        "index_put": zeros.index_put((chosen,), ones, accumulate=True),
        "put": zeros.put(chosen, ones, accumulate=True),
        "segment_reduce": torch.segment_reduce(ones, "sum", lengths=lengths),
    }


print(f"torch {torch.__version__}: {COPIES} votes, {lengths.tolist()} for the classes")
found = {}
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    for way, votes in counts(dtype).items():
        found[dtype, way] = votes.tolist(), votes.argmax().item()
        print(f"  {str(dtype).removeprefix('torch.')}, {way}: {votes.tolist()}, argmax says class {votes.argmax()}")
stopped = {way for (dtype, way), (votes, _) in found.items() if dtype == torch.bfloat16 and votes == [256, 256]}
others = {answer for (dtype, way), (_, answer) in found.items() if dtype != torch.bfloat16 or way not in stopped}
if not (stopped == {"index_add", "index_put", "put", "segment_reduce"} and others == {1}):
    sys.exit("the behaviour has changed")
PYTHON
