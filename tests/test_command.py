"""The command `patchcert`: what it lists, what it refuses, and that it does what the scripts do."""

import contextlib
import json
import re
import subprocess
import sys
from unittest import mock

import pytest

import patchcert
from patchcert import __main__ as command
from patchcert.version import VERSION
from patchcert.zoo import table
from tests.helpers import ROOT, succeed, without_times


def run(*arguments, folder):
    """Run `patchcert` with these arguments in this process; returns its exit code."""
    with contextlib.chdir(folder), mock.patch.object(sys, "argv", ["patchcert", *map(str, arguments)]):
        try:
            command.main()
        except SystemExit as stopped:
            return stopped.code or 0
    return 0


def test_the_version_is_known_everywhere(tmp_path, capsys):
    assert run("--version", folder=tmp_path) == 0
    assert capsys.readouterr().out == f"patchcert {VERSION}\n" and patchcert.__version__ == VERSION


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["models"], ["certify", "--help"], ["attack"]])
def test_what_runs_no_network_imports_no_torch(arguments):
    code = (
        "import sys; sys.argv[:] = ['patchcert', *sys.argv[1:]]; from patchcert import __main__;"
        "__main__.main(); sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "") and run.stdout


def test_models_are_listed_and_described(tmp_path, capsys):
    assert run("models", folder=tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *table.models()]
    assert lines[4].split()[:8] == ["mnist-bands", "5", "×", "5", "98.62", "%", "72.64", "%"]
    assert run("models", "mnist-bands-and-windows", folder=tmp_path) == 0
    assert capsys.readouterr().out == table.named("mnist-bands-and-windows").describe() + "\n"


NAMES = ", ".join(table.models())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["certfy"], "certfy: did you mean certify?"),
        (["train"], "train: expected one of models, certify, attack, votes, report, figures"),
        (["certify", "mnist-band"], "mnist-band: did you mean mnist-bands?"),
        (["certify", "nothing"], f"nothing: expected one of votes, masking, windows, {NAMES}"),
        (["attack", "windows"], "the following arguments are required: --model"),
        (["models", "mnist-band"], "mnist-band: did you mean mnist-bands?"),
        (["models", "nothing"], f"nothing: expected one of {NAMES}"),
        (["models", "mnist-bands", "mnist-windows"], "mnist-bands mnist-windows: expected one name, or none"),
        (["certify", "mnist-bands", "--szie", "3"], "unrecognized --szie"),
        (["certify", "mnist-bands", "--size_to_certify", "x"], "argument --size_to_certify: x: expected sizes"),
        (["attack", "mnist-bands", "--size_of_attack"], "argument --size_of_attack: expected one argument"),
        (["certify", "--model", "nowhere:it", "--ablation", "band:4"], "--model nowhere:it: ModuleNotFoundError"),
        (["certify", "votes", "--ablation", "band:4"], "the following arguments are required: --model"),
        (["certify", "mnist-windows", "--size_to_certify", "3"], "--size_to_certify 3: expected at most 2 × 2 pixels"),
        (["certify", "mnist-bands-and-windows", "--size_to_certify", "2,6"], "--size_to_certify 6: expected at most 5"),
        (["certify", "mnist-bands", "--dataset", "cifar10"], "argument --dataset: invalid choice"),
    ],
)
def test_wrong_use_gets_one_line(arguments, said, tmp_path, capsys):
    assert run(*arguments, folder=tmp_path) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.startswith("patchcert") and printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    "arguments", [["certify", "votes"], ["attack", "masking"], ["votes"], ["certify", "mnist-bands"]]
)
def test_help_is_about_the_command(arguments, tmp_path, capsys):
    assert run(*arguments, "--help", folder=tmp_path) == 0
    shown = capsys.readouterr().out
    assert (
        shown.startswith(f"usage: patchcert {' '.join(arguments)} ") and "{" not in shown.partition("what:")[0][-200:]
    )
    assert f"    patchcert {' '.join(arguments)} --" in shown and "python3" not in shown


SHIPPED = {
    "mnist-bands": ("certify_mnist_band_masked.py", ["mnist_masked_band.pth"], "1-10"),
    "mnist-windows": ("certify_mnist_windows.py", ["mnist_windows.pth"], "2"),
    "mnist-bands-and-windows": ("certify_mnist_joint.py", ["mnist_masked_band.pth", "mnist_windows.pth"], "2,3"),
    "mnist-votes": ("certify_mnist_band.py", ["mnist_band.pth"], "1-10"),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_network_that_ships_is_certified_as_its_script_does(name, tmp_path, generated_mnist):
    script, files, sizes = SHIPPED[name]
    shared = ["--data", generated_mnist, "--all", "--limit", 1, "--size_to_certify", sizes, "--output"]
    named = [
        text for option, file in zip(("--checkpoint", "--windows"), files, strict=False) for text in (option, file)
    ]
    threshold = table.named(name).variants[0].threshold
    of_votes = ["--threshold", threshold, "--certificate", "exact"] if threshold else []
    succeed(script, *shared, "script.json", *named, *of_votes, folder=tmp_path)
    assert run("certify", name, *shared, "command.json", folder=tmp_path) == 0
    by_script, by_command = (json.loads((tmp_path / f"{who}.json").read_text()) for who in ("script", "command"))
    assert without_times(by_script) == without_times(by_command)
    settings = ("checkpoint", "parts", "about", "window_size")
    config, other = by_command["config"], by_script["config"]
    assert {key: config.get(key) for key in settings} == {key: other.get(key) for key in settings}
    assert config["script"] == f"patchcert certify {name}"


@pytest.mark.parametrize("name", table.models())
def test_settings_are_those_of_the_table(name, tmp_path, monkeypatch):
    """Of every network, against every patch that was counted: what certifying and attacking begin with."""
    from patchcert.experiments import commands

    caught = []
    for function in ("certify_masked", "certify_parts", "attack_masked", "certify_by_votes", "attack_with_patch"):
        monkeypatch.setattr(commands, function, lambda options, *_: caught.append(options))
    model = table.named(name)
    for variant in model.variants:
        for what, option in (("certify", "--size_to_certify"), ("attack", "--size_of_attack")):
            assert run(what, name, option, variant.holds, folder=tmp_path) == 0
            options = caught.pop()
            assert options.checkpoint == variant.files[0] and options.dataset == model.dataset
            assert getattr(options, "windows", None) == (variant.windows if variant.bands else None)
            for setting in ("weight", "coarse_windows", "sure", "mirrored"):
                assert not (variant.bands and variant.windows) or getattr(options, setting) == getattr(variant, setting)
            if variant.votes:
                assert options.threshold == ([variant.threshold] if what == "certify" else variant.threshold)


@pytest.mark.parametrize("name", ["mnist-bands", "mnist-votes"])
def test_a_network_that_ships_is_attacked(name, tmp_path, generated_mnist, capsys):
    effort = ["--limit", 2, "--skip", 1, "--steps", 1, "--randomizations", 1, "--size_of_attack", 2, "--all"]
    assert run("attack", name, "--data", generated_mnist, *effort, "--output", "a.json", folder=tmp_path) == 0
    assert "attacked correct" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["kind"] == "attack"


def test_votes_of_a_network_that_ships_answer_later_questions(tmp_path, generated_mnist):
    """With another θ and another patch than the network has: as if they had been asked of the network."""
    images = ["--data", generated_mnist, "--all", "--limit", 10]
    asked = ["--size_to_certify", "2x8", "--threshold", 0.3, "--certificate", "exact", "--output"]
    assert run("certify", "mnist-votes", *images, "--save_votes", "votes.npz", folder=tmp_path) == 0
    assert run("votes", "--votes", "votes.npz", *asked, "later.json", folder=tmp_path) == 0
    assert run("certify", "mnist-votes", *images, *asked, "asked.json", folder=tmp_path) == 0
    later, asked = (json.loads((tmp_path / f"{when}.json").read_text())["results"] for when in ("later", "asked"))
    assert later == asked and later[0]["total"] == 10


def test_own_networks_votes_reports_and_figures(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("from patchcert import mnist_network as network\n")
    own = ["--model", "mine:network", "--ablation", "band:4", "--dataset", "digits", "--limit", 3]
    assert run("certify", *own, "--output", "c.json", "--save_votes", "votes.npz", folder=tmp_path) == 0
    assert run("certify", "masking", *own, "--size_to_certify", "1,2", "--output", "m.json", folder=tmp_path) == 0
    assert run("votes", "--votes", "votes.npz", "--size_to_certify", "3", folder=tmp_path) == 0
    assert run("report", "c.json", "m.json", "--out", "page", folder=tmp_path) == 0
    assert run("figures", "m.json", "--out", "drawn", folder=tmp_path) == 0
    assert (tmp_path / "page" / "index.html").is_file() and (tmp_path / "drawn" / "patch_size.png").is_file()
    assert re.search(r"patch_size\.pdf", capsys.readouterr().out)
