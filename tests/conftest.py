import logging
import os
import shutil
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers import write_idx_files

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads that share a core wait for each other

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # looking for fonts the first time, it warns

signal.signal(signal.SIGINT, signal.default_int_handler)  # what the shell starts in the background ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it

settings.register_profile(
    "patchcert",
    deadline=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow],  # which the machine may be, not the test
)
settings.load_profile("patchcert")


@pytest.fixture(autouse=True, scope="session")
def no_lines_on_the_way():
    """However slow the machine: they would come between what tests read."""
    from patchcert import progress

    progress.SILENCE = float("inf")


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """Only a power cut, which no test has, tells what has reached the disk from what the kernel still holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # raises like it for a file that is closed
        yield


@pytest.fixture(autouse=True, scope="session")
def pictures_are_decoded_here():
    """Starting processes takes far longer than decoding a few small pictures; gives what tells how many there are."""
    from patchcert import distributed

    with pytest.MonkeyPatch.context() as patch:
        cores = distributed.cores
        patch.setattr(distributed, "cores", lambda: 0)
        yield cores


@pytest.fixture
def workers(pictures_are_decoded_here, monkeypatch):
    """Pictures are decoded by worker processes, as scripts have it; those that tests start for themselves do, too."""
    monkeypatch.setattr("patchcert.distributed.cores", pictures_are_decoded_here)


@pytest.fixture
def let_import(monkeypatch):
    """Writes a module into a folder, from which this process then imports it, whatever module had its name before."""

    def write(folder, name, content):
        (folder / f"{name}.py").write_text(content)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        sys.modules.pop(name, None)

    return write


@pytest.fixture(scope="session")
def generated_mnist(tmp_path_factory):
    """A --data folder with MNIST's four files, filled with 300 training and 101 test pictures."""
    root = tmp_path_factory.mktemp("data")
    write_idx_files(root / "MNIST" / "raw")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generated_mnist):
    """A folder with MNIST's files in data/ and a network of random weights; modules that need more have their own."""
    from tests.networks import save_random_network

    folder = tmp_path_factory.mktemp("run")
    (folder / "data").symlink_to(generated_mnist)
    save_random_network(folder)
    return folder


@pytest.fixture(scope="session")
def small_windows(tmp_path_factory):
    """Gives each module a folder of its own with what `tests.small_windows` trains, which takes long."""
    from tests.small_windows import train

    trained = tmp_path_factory.mktemp("small_windows")
    train(trained)
    return lambda name: shutil.copytree(trained, tmp_path_factory.mktemp(name), dirs_exist_ok=True)
