"""Scripts keep the memory that tensors give back."""

import platform
import subprocess
import sys

import pytest

from tests.helpers import ROOT

COUNT = """
import resource
{first}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        bytearray(2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def page_faults(first: str = "") -> int:
    """How often the kernel has to find a page while a process takes and frees 64 MiB ten times, `first` done."""
    command = [sys.executable, "-c", COUNT.format(first=first)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory and can be told not to")
def test_a_script_uses_freed_memory_again_without_the_kernel():
    assert page_faults() > 1000
    assert page_faults("from patchcert import cli; cli.run(lambda: None)") < 100
