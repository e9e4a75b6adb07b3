#!/bin/bash
# torch 2.15.0 on a CPU with AVX-512 but without instructions for bfloat16: torch.autocast(torch.bfloat16) makes
# convolutions and linear layers several times slower than float32. We had expected about the same speed, or a gain,
# because bfloat16 moves half the bytes. oneDNN emulates bfloat16 there: a training step of two convolutions took 4.4
# times as long, the forward pass alone 2.9 times. Nothing says so. A training that uses bfloat16 by default, because it
# is faster on newer CPUs, is therefore several times slower on older ones. Here oneDNN is limited to AVX512_CORE, so
# that newer CPUs show it, too.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check torch==2.15.0 numpy==2.4.6
ONEDNN_MAX_CPU_ISA=AVX512_CORE "$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
vectors = torch.backends.cpu.get_cpu_capability()
print("torch", torch.__version__, vectors, "oneDNN limited to AVX512_CORE")
if vectors != "AVX512":
    sys.exit("this needs a CPU with AVX-512")


def fastest(network, shown, half, trained):
    """Seconds of the fastest of five passes, with gradients if the network is `trained`."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half), torch.set_grad_enabled(trained):
            answers = network(shown)
        if trained:
            answers.float().square().mean().backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


convolutions = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1))
linear = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024))
cases = {
    "convolutions": (convolutions.to(memory_format=torch.channels_last), torch.rand(32, 64, 15, 15)),
    "linear layers": (linear, torch.rand(512, 1024)),
}
slower = []
for name, (network, shown) in cases.items():
    for trained in (False, True):
        single, half = (fastest(network, shown, half, trained) for half in (False, True))
        slower.append(half / single)
        what = "training step" if trained else "forward pass"
        print(f"{name}, {what}: {1000 * single:.0f} ms in float32, {1000 * half:.0f} ms in bfloat16, {slower[-1]:.1f} times")
if min(slower) < 1.5:
    sys.exit("bfloat16 is not much slower than float32: what the comment says has changed")
PYTHON
