"""What --help says of every script: options in groups, and a page in docs/scripts; and what --quiet leaves out."""

import io

import pytest

from docs import make_pages
from patchcert import messages, progress
from patchcert.experiments.about import ABLATION_SIZES
from tests.helpers import ROOT, run_here, succeed

NETWORKS = {"checkpoint", "weights", "ablation", "results", "resume", "overwrite", "votes", "model", "pretrained"}
NETWORKS |= {"lines", "channels", "blocks", "stem", "windows", "weight", "coarse_windows", "sure", "mirrored", "hidden"}
EXPERIMENTS = {"config", "model_subset", "path_prefix", "overrides"}


@pytest.fixture(scope="module")
def parsers():
    """The parser of each script, by its name."""
    return {script.name: make_pages.parser_of(script) for script in make_pages.scripts()}


@pytest.fixture(autouse=True)
def loud_afterwards():
    """A quiet run must not silence the tests that follow in this process."""
    yield
    progress.be_quiet(False)


def test_every_script_has_a_parser(parsers):
    begun = {path.name for start in ("train", "certify", "attack", "eval") for path in ROOT.glob(f"{start}*.py")}
    assert begun | {"quickstart.py"} <= set(parsers)


def test_every_option_is_in_a_group_and_the_first_says_what_is_run(parsers):
    for name, parser in parsers.items():
        groups = {group.title: {action.dest for action in group._group_actions} for group in parser._action_groups}
        assert not groups.pop("positional arguments"), name
        assert set(groups) == {"what", "data", "recipe", "attack", "certificate", "engine", "output"}
        assert groups["what"] <= NETWORKS | EXPERIMENTS | ABLATION_SIZES, name
        assert {"help", "quiet", "debug"} <= groups["output"], name


def test_help_shows_the_groups(tmp_path, capsys):
    assert run_here("attack_mnist_band.py", "--help", folder=tmp_path) == 0
    headings = [line[:-1] for line in capsys.readouterr().out.splitlines() if line and line[0] != " " and ":" in line]
    assert headings[-6:] == ["what", "data", "attack", "certificate", "engine", "output"]


def test_every_page_is_what_help_says_now():
    written = {path.name: path.read_text() for path in make_pages.PAGES.iterdir()}
    stale = [name for name, text in make_pages.pages().items() if written.pop(name, None) != text]
    assert (stale, list(written)) == ([], []), "make pages"


def test_a_quiet_run_prints_what_came_out_and_nothing_else(tmp_path, generated_mnist, capsys):
    (tmp_path / "data").symlink_to(generated_mnist)
    train = ["train_mnist_band.py", "--subset", 10, "--end_epoch", 1]
    succeed(*train, folder=tmp_path)
    loud = capsys.readouterr().out.splitlines()
    succeed(*train, "--overwrite", "--quiet", folder=tmp_path)
    assert [line[:8] for line in loud[:2]] == ["epoch 0/", "epoch 1/"] and len(loud) == 3
    assert capsys.readouterr().out.splitlines() == loud[2:]
    (network,) = (tmp_path / "checkpoints").glob("*.pth")
    certify = ["certify_mnist_band.py", "--limit", 1, "--batch_size", "auto", "--checkpoint", network.name]
    printed = []
    for quiet in ([], ["--quiet"]):
        succeed(*certify, *quiet, folder=tmp_path)
        printed.append([line for line in capsys.readouterr().out.splitlines() if not line.startswith("1 images in")])
    assert printed[0][0].startswith("--batch_size ") and printed[0][1:] == printed[1]


def test_a_quiet_run_has_no_bars_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    shown = []
    for quiet in (False, True):
        progress.be_quiet(quiet)
        with progress.progress_bar(1, "looking") as bar:
            shown.append(not bar.disable)
    progress.be_quiet(False)
    assert shown == [True, False]


def test_errors_are_not_kept_quiet(tmp_path, capsys):
    assert run_here("certify_mnist_band.py", "--quiet", "--checkpoint", "none.pth", folder=tmp_path) == 2
    assert "--checkpoint none.pth: no such checkpoint" in capsys.readouterr().err
    messages.print_other_kind("net.pth", "data set digits", "data set mnist")
    assert capsys.readouterr().err.startswith("note: ")
