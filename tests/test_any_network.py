"""Scripts that take any network: made by a factory in the current folder, against the scripts that know theirs."""

import json
import pickle
import sys
import time

import pytest
import torch

from patchcert.ablations.ablation import Band, BandAndRow, Block, Row, Whole
from patchcert.ablations.choices import MultiBand
from patchcert.ablations.windows import WindowPairs
from patchcert.experiments import certifying
from patchcert.experiments.any_network import ablation_of
from patchcert.networks import mnist_network
from tests.helpers import ROOT, UPWARD, needs_x86, rounding_mode, run_here, succeed
from tests.networks import save_random_network
from tests.test_pictures import write_pictures

FACTORIES = (ROOT / "tests" / "factories.py").read_text()

SIZES = "WIDTH = 196\n"

MNIST = ["--dataset", "mnist", "--ablation", "band:4"]
NO_MARGIN = ["--numerical_margin", 0]
COLOUR = ["--dataset", "folder", "--data", "pictures", "--image_size", 12, "--all"]


@pytest.fixture(autouse=True)
def fresh_imports(monkeypatch):
    """Scripts run in this process, whose imports must not learn of the user's module."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget_imports(monkeypatch)


def forget_imports(monkeypatch):
    for name in ("factories", "sizes_of_mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generated_mnist):
    """A folder with a user's module, weights in several forms, and pictures."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "data").symlink_to(generated_mnist)
    (folder / "factories.py").write_text(FACTORIES)
    (folder / "sizes_of_mine.py").write_text(SIZES)
    network = save_random_network(folder)
    torch.save(network.state_dict(), folder / "plain.pth")
    parallel = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 7, "state_dict": parallel}, folder / "parallel.pth")
    torch.save({"epoch": 7}, folder / "none.pth")
    torch.save(mnist_network(classes=5).state_dict(), folder / "five.pth")
    torch.save({"layer.weight": torch.randn(3, 3, 12, 4), "layer.bias": torch.zeros(3)}, folder / "wide.pth")
    (folder / "code.pth").write_bytes(pickle.dumps(print))
    for part in ("train", "test"):
        write_pictures(folder / "pictures" / part, ("cat", "dog", "eel"), 4, size=12)
    return folder


def results(folder, script, *options):
    succeed(script, *options, "--output", "run.json", folder=folder)
    return json.loads((folder / "run.json").read_text())["results"]


def test_certifying_gives_what_the_script_that_knows_the_network_gives(folder):
    asked = ["--limit", 12, "--size_to_certify", "1,2x3", "--threshold", "0.2,0.3", "--certificate", "exact,masking"]
    expected = results(folder, "certify_mnist_band.py", "--checkpoint", "net.pth", *asked)
    network = [*MNIST, "--model", "patchcert.networks:mnist_network", *asked]
    for weights in ("net.pth", "parallel.pth"):
        assert results(folder, "certify.py", *network, "--weights", weights) == expected
    own = ["--engine", "dense", "--save_votes", "votes.npz", "--per_image", "rows.csv"]
    assert results(folder, "certify.py", *network, "--weights", "plain.pth", *own) == expected
    assert len((folder / "rows.csv").read_text().splitlines()) == 1 + 8 * 12
    assert results(folder, "certify_votes.py", "--votes", "votes.npz", *asked) == expected


def test_attacking_gives_what_the_script_that_knows_the_network_gives(folder):
    effort = ["--size_of_attack", "24x12", "--steps", 4, "--randomizations", 2]
    asked = ["--all", "--limit", 20, "--skip", 1, *effort]
    expected = results(folder, "attack_mnist_band.py", "--checkpoint", "net.pth", *asked)
    network = [*MNIST, "--model", "patchcert.networks:mnist_network", "--weights", "plain.pth"]
    assert results(folder, "attack.py", *network, *asked) == expected
    assert expected[0]["attacked_correct"] < expected[0]["correct"]


@pytest.mark.parametrize("ablation", ["band:2", "row:3", "block:5", "multi_band:3x2"])
def test_pictures_of_a_folder(folder, ablation):
    network = [*COLOUR, "--model", "factories:of_colour", "--ablation", ablation]
    (found,) = results(folder, "certify.py", *network, "--top_one", "--size_to_certify", 2)
    assert found["total"] == 12 and found["threshold"] is None
    succeed("attack.py", *network, "--steps", 1, "--randomizations", 1, "--skip", 3, folder=folder)


def test_networks_of_limited_reach_are_masked(folder):
    network = [*COLOUR, "--model", "factories:Made.columns", "--ablation", "band:2"]
    scores = results(folder, "certify_masked.py", *network, "--size_to_certify", "1-3")
    certified = [entry["certified_correct"] + entry["certified_wrong"] for entry in scores]
    assert certified == sorted(certified, reverse=True) and certified[0] > 0
    assert results(folder, "certify.py", *network, "--certificate", "masking")[0]["total"] == 12
    effort = ["--steps", 2, "--randomizations", 2, "--skip", 1, "--size_of_attack", 2]
    (attacked,) = results(folder, "attack_masked.py", *network, *effort)
    assert attacked["certified_correct"] == scores[1]["certified_correct"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ablation", "band:4"], "--model"),
        (["--model", "factories"], "--model factories: expected package.module:factory"),
        (["--model", "nowhere:small"], "--model nowhere:small: ModuleNotFoundError: No module named 'nowhere'"),
        (["--model", "factories:large"], "AttributeError: module 'factories' has no attribute 'large'"),
        (["--model", "factories:broken"], "--model factories:broken: RuntimeError: out of order"),
        (["--model", "factories:number"], "expected a torch.nn.Module, it makes int"),
        (["--model", "factories:images_only"], "(B, 2, H, W), but it takes images (B, 1, H, W). To certify it as it"),
        (["--model", "factories:of_neither"], "fails on copies with channels (x, 1 − x), (16, 2, 28, 28): Runtime"),
        (["--model", "factories:of_five"], "it has 5 classes, the data set has 10"),
        (
            ["--model", "factories:noted"],
            "1._extra_state in its state_dict is a dict, expected plain tensors",
        ),
        (
            ["--model", "factories:lazy"],
            "1.weight in its state_dict is lazy and has no shape yet; call the",
        ),
        (
            ["--model", "factories:quantised"],
            "in its state_dict is a dtype, expected plain tensors: no get_extra",
        ),
        (["--model", "factories:of_a_kind"], "kept in its state_dict is a Kind, expected plain tensors"),
        (["--model", "factories:quantised_weight"], "weights in its state_dict is quantised or sparse, expected"),
        (["--model", "factories:without_memory"], "0.weight in its state_dict is on the device meta and has no"),
        (
            ["--model", "factories:exported"],
            "--model factories:exported: the network is a GraphModule that has no eval",
        ),
        (["--model", "factories:Columns"], "fails on images, (1, 1, 28, 28): RuntimeError"),
        (["--ablation", "bend:4"], "--ablation bend:4: expected band:4, row:4"),
        (["--ablation", "band:4x4"], "--ablation band:4x4: expected band:4, row:4"),
        (["--ablation", "band:29"], "--ablation band:29: expected a whole number from 1 to 28"),
        (["--weights", "nowhere.pth"], "--weights nowhere.pth: no such checkpoint"),
        (["--weights", "none.pth"], "--weights none.pth: expected a checkpoint with tensors by name, or net or"),
        (["--weights", "five.pth"], "--weights five.pth: is of another network: tensor 0.weight is"),
        (["--weights", "code.pth"], "--weights code.pth: not a checkpoint that can be loaded safely"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quanti")  # of torch, that it will go
def test_wrong_use_is_one_clear_line(folder, capsys, options, message):
    given = dict(zip(options[::2], options[1::2], strict=True))
    usual = {"--model": "factories:small", "--ablation": "band:4", "--dataset": "mnist"}
    if message == "--model":
        usual.pop("--model")
    arguments = [text for pair in (usual | given).items() for text in pair]
    assert run_here("certify.py", *arguments, folder=folder) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


@needs_x86
@pytest.mark.parametrize("script", ["certify.py", "certify_masked.py"])
def test_nothing_is_certified_unless_numbers_are_rounded_to_nearest(folder, capsys, script):
    with rounding_mode(UPWARD):
        code = run_here(script, *MNIST, "--model", "factories:small", "--limit", 2, folder=folder)
    assert code == 1 and "numbers are not rounded to nearest, so nothing can be certified" in capsys.readouterr().err


def test_probabilities_in_place_of_logits_get_one_line(folder, capsys):
    succeed("certify.py", *MNIST, "--model", "factories:of_probabilities", "--limit", 2, folder=folder)
    printed = capsys.readouterr()
    assert printed.err.startswith("note: the network gives probabilities,") and printed.err.count("\n") == 1
    assert "note:" not in printed.out


LIGHTLY = ["--all", "--steps", 2, "--randomizations", 1, "--size_of_attack", "28x14"]


@pytest.mark.parametrize("script", ["attack.py", "attack_masked.py"])
def test_one_image_alone_is_attacked(folder, script):
    (found,) = results(folder, script, *MNIST, "--model", "factories:small", *LIGHTLY, "--skip", 11, "--limit", 1)
    assert found["total"] == 1


@pytest.mark.parametrize("script", ["attack.py", "attack_masked.py"])
def test_that_a_gradient_is_zero_gets_one_line(folder, capsys, script):
    for model, notes in (("small", 0), ("rounding", 1)):
        (found,) = results(folder, script, *MNIST, "--model", f"factories:{model}", *LIGHTLY, "--skip", 5)
        printed = capsys.readouterr().err
        assert printed.count("\n") == printed.count("note: the gradient is exactly zero,") == notes
        assert found["correct"] > 0


@pytest.mark.parametrize("script", ["attack.py", "attack_masked.py"])
def test_networks_without_gradient_are_not_attacked(folder, capsys, script):
    assert run_here(script, *MNIST, "--model", "factories:without_gradient", *LIGHTLY, folder=folder) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"{script}: error: --model factories:without_gradient: the network passes no gradient on" in printed


def test_one_class_alone_is_nothing_to_tell_apart(folder, capsys):
    for part in ("train", "test"):
        write_pictures(folder / "cats" / part, ("cat",), 2, size=12)
    pictures = [*COLOUR, "--data", "cats", "--ablation", "band:2"]
    assert run_here("certify.py", *pictures, "--model", "factories:of_colour", folder=folder) == 2
    assert "--data cats/test: has one class alone, expected" in capsys.readouterr().err


@pytest.fixture
def interrupted(folder, monkeypatch):
    """The arguments of a run that was interrupted."""

    def stop(*_):
        raise KeyboardInterrupt

    arguments = ["certify.py", *MNIST, "--model", "factories:small", "--limit", 8, "--output", "stopped.json"]
    with monkeypatch.context() as patched:
        patched.setattr(certifying, "write_and_print", stop)
        assert run_here(*arguments, folder=folder) == 130
    forget_imports(monkeypatch)
    yield arguments
    (folder / "factories.py").write_text(FACTORIES)
    (folder / "sizes_of_mine.py").write_text(SIZES)
    (folder / "stopped.json.partial").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("name", "content"), [("factories", FACTORIES + "\n# mended\n"), ("sizes_of_mine", "WIDTH = 14*14\n")]
)
def test_an_interrupted_run_does_not_go_on_with_other_modules(folder, interrupted, capsys, name, content):
    (folder / f"{name}.py").write_text(content)
    assert run_here(*interrupted, folder=folder) == 2
    assert f"stopped.json.partial is of an interrupted run with module {name} " in capsys.readouterr().err


def test_a_run_that_goes_on_and_starts_slowly_took_no_negative_time(folder, interrupted, monkeypatch):
    find, clock, slowly = certifying.find_batch_size, time.perf_counter, []
    monkeypatch.setattr(certifying, "find_batch_size", lambda *of: slowly.append(3600) or find(*of))
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + sum(slowly))
    assert run_here(*interrupted, folder=folder) == 0 and slowly
    assert json.loads((folder / "stopped.json").read_text())["seconds"] > 0
    (folder / "stopped.json").unlink()


def test_an_interrupted_run_that_goes_on_says_what_it_cannot_know(folder, interrupted, capsys):
    assert run_here(*interrupted, folder=folder) == 0
    said = "note: factories:small continues with the same modules; whether they read the same files"
    assert capsys.readouterr().err.count(said) == 1
    assert run_here(*interrupted, folder=folder) == 0
    assert said not in capsys.readouterr().err


def test_any_network_is_masked_by_its_scores(folder):
    network = [*COLOUR, "--model", "factories:of_colour", "--ablation", "window_pairs:8x2"]
    (scores,) = results(folder, "certify_masked.py", *network, "--size_to_certify", 4)
    (of_votes,) = results(
        folder, "certify.py", *network, "--certificate", "masking", "--top_one", "--size_to_certify", 4
    )
    counts = ["certified_correct", "certified_wrong"]  # scores ask for every copy, votes add up those without a window
    assert all(scores[name] <= of_votes[name] for name in counts) and scores["certified_correct"] > 0
    effort = ["--steps", 2, "--randomizations", 2, "--skip", 1, "--size_of_attack", 4]
    (attacked,) = results(folder, "attack_masked.py", *network, *effort)
    assert attacked["certified_correct"] == scores["certified_correct"]


@pytest.mark.parametrize("engine", ["auto", "windowed"])
def test_the_engine_that_runs_is_the_one_that_is_tried(folder, capsys, engine):
    network = [*COLOUR, "--model", "factories:SeesTraces", "--ablation", "band:2", "--engine", engine]
    assert run_here("certify.py", *network, folder=folder) == 2
    assert "a network must give the same answer by either engine; here logits" in capsys.readouterr().err


@pytest.mark.parametrize("factory", ["negated", "normalised"])
def test_networks_with_hooks_are_certified_as_they_answer(folder, capsys, factory):
    network = [*COLOUR, "--model", f"factories:{factory}", "--ablation", "band:4", "--top_one"]
    asked = ["--size_to_certify", 1, "--certificate", "exact", "--per_image", "rows.csv"]
    found = results(folder, "certify.py", *network, *asked)
    said, rows = capsys.readouterr().err, (folder / "rows.csv").read_text()
    assert said.count("note: --engine dense, since the network uses a forward") == 1
    assert json.loads((folder / "run.json").read_text())["config"]["engine"] == "dense"
    assert results(folder, "certify.py", *network, *asked, "--engine", "dense") == found
    assert (folder / "rows.csv").read_text() == rows and "note" not in capsys.readouterr().err
    plain = [*COLOUR, "--model", "factories:of_colour", "--ablation", "band:4", "--top_one"]
    results(folder, "certify.py", *plain, *asked)
    assert json.loads((folder / "run.json").read_text())["config"]["engine"] == "windowed"
    assert (folder / "rows.csv").read_text() != rows  # what the engine would have said that knows nothing of hooks
    assert run_here("certify.py", *network, "--engine", "windowed", folder=folder) == 2
    assert "--engine windowed: the network uses a forward" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["certify_masked.py", "certify.py", "attack_masked.py", "attack.py"])
def test_noise_is_refused(folder, capsys, script):
    assert run_here(script, *COLOUR, "--model", "factories:noisy", "--ablation", "band:4", folder=folder) == 2
    assert "--model factories:noisy: a network must give the same answer each time" in capsys.readouterr().err


def test_the_margin_is_that_of_the_arithmetic_in_which_the_network_computes(folder, capsys):
    network = [*COLOUR, "--model", "factories:InHalf", "--ablation", "band:4", "--size_to_certify", 1]
    effort = ["--steps", 1, "--randomizations", 1, "--skip", 4]
    for script, options in (("certify_masked.py", network), ("attack_masked.py", [*network[:-2], *effort])):
        assert results(folder, script, *options)[0]["numerical_margin"] >= 1
        assert "note: the numerical margin is 1, since the network computes in bfloat16" in capsys.readouterr().err
    margins = [answer["numerical_margin"] for answer in results(folder, "certify.py", *network)]
    assert margins[0] == 0 and len(margins) == 2 and margins[1] >= 0.1
    assert "note: the numerical margin is 0.1, since the network computes in bfloat16" in capsys.readouterr().err
    assert [answer["numerical_margin"] for answer in results(folder, "certify.py", *network, *NO_MARGIN)] == [0]
    assert "numerical margin" not in capsys.readouterr().err


@pytest.mark.parametrize("script", ["certify_masked.py", "certify.py", "attack_masked.py"])
def test_the_reach_is_that_of_the_weights_in_the_file(folder, capsys, script):
    network = [*COLOUR, "--model", "factories:Wide", "--ablation", "band:2", "--weights", "wide.pth"]
    assert run_here(script, *network, folder=folder) == 2
    assert "a copy's answer must come from its own pixels alone" in capsys.readouterr().err


def test_ablations_by_their_names():
    expected = {
        "band:4": Band(8, 9, 4),
        "row:2": Row(8, 9, 2),
        "band_and_row:3": BandAndRow(8, 9, 3),
        "block:5": Block(8, 9, 5),
        "multi_band:3x2": MultiBand(8, 9, 3, 2),
        "window_pairs:5x3": WindowPairs(8, 9, 5, 3),
        "whole": Whole(8, 9),
    }
    found = {text: ablation_of(text, 8, 9).description() for text in expected}
    assert found == {text: ablation.description() for text, ablation in expected.items()}
