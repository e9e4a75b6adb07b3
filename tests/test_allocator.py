"""Scripts keep the memory that tensors give back, but not ever more of it."""

import platform
import subprocess
import sys

import pytest
import torch

from patchcert import allocator
from patchcert.journal import Journal
from patchcert.progress import progress_bar
from patchcert.steps import Steps
from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc returns memory and can be told not to"
)

COUNT = """
import resource
from patchcert import allocator
{first}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        bytearray(2**26)
        allocator.return_gaps()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""

HOLD = """
from pathlib import Path
from patchcert import allocator

allocator.keep_freed_memory()
for mebibytes in (16, 256, 16, 16):
    bytearray(mebibytes * 2**20)
    allocator.return_gaps()
    print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20)
"""


def printed(program: str) -> list[int]:
    """The numbers that a Python program prints."""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return list(map(int, found.stdout.split()))


def page_faults(first: str = "") -> int:
    """How often the kernel has to find a page while a process takes and frees 64 MiB ten times, `first` done."""
    (faults,) = printed(COUNT.format(first=first))
    return faults


def test_a_script_uses_freed_memory_again_without_the_kernel():
    assert page_faults() > 1000
    assert page_faults("from patchcert import cli; cli.run(lambda: None)") < 100


def test_what_is_not_used_any_more_is_not_kept_for_ever():
    first, *others = printed(HOLD)
    assert max(others) <= allocator.AS_MUCH_AGAIN * first
    first, *others = printed(HOLD.replace("    allocator.return_gaps()\n", ""))
    assert min(others) > 200


def test_gaps_are_returned_after_each_piece_of_work(monkeypatch):
    returned = []
    monkeypatch.setattr(allocator, "return_gaps", lambda: returned.append(True))
    Journal().recall("image 1", torch.arange(1), lambda: None)
    assert len(returned) == 1
    steps = Steps(2, seed=0, device=torch.device("cpu"))
    steps.begin(0, last=0, images=4)
    with progress_bar(4, "epoch") as steps.bar:
        steps.add(torch.tensor(1.0), torch.tensor(1), 2)
    assert len(returned) == 2
