"""docs/architecture.md says who may import whom; here the imports are held against it.

Imports are read from the syntax tree, so that those inside functions and for type checking count too. That a module's
package runs before it does not count.
"""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import patchcert
from tests.helpers import ROOT

ROOMS = (
    "data",
    "pretrained",
    "small_networks",
    "ablations",
    "engines",
    "masking",
    "votes",
    "classifiers",
    "training",
    "attacks",
    "intervals",
    "reports",
    "zoo",
    "experiments",
    "interface",
)
NETWORKS = ("resnet_imgnt",)


def sources() -> dict[str, Path]:
    """The file of each module, by its dotted name: package, networks, scripts, benchmarks, examples and docs."""
    folders = (ROOT / folder for folder in ("patchcert", "benchmarks", "examples", "docs"))
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    dotted = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    return dict(sorted(dotted.items()))


def imports(source: str, module: str, known: set[str]) -> set[str]:
    """The modules out of `known` that the `source` of `module` imports; a name of a package counts as the package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports hide where they lead"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return (found & known) - {module}


def graph() -> dict[str, set[str]]:
    """What each module imports."""
    files = sources()
    return {module: imports(file.read_text(), module, set(files)) for module, file in files.items()}


def room(module: str) -> str:
    """The room of docs/architecture.md that `module` is in."""
    package, _, rest = module.partition(".")
    if package in NETWORKS:
        return "networks"
    if package != "patchcert" or rest == "__main__":
        return "scripts"
    if not rest:
        return "what is public"
    folder = rest.split(".")[0]
    return folder if folder in ROOMS else "ground floor"


def drawing() -> dict[str, set[str]]:
    """The rooms that each room may import from, besides itself."""
    table = re.findall(r"^\| ([a-z_ ]+) \| .* \| ?([a-z_, ]*) ?\|$", (ROOT / "docs/architecture.md").read_text(), re.M)
    rooms = {name: {other.strip() for other in others.split(",") if other.strip()} for name, others in table[1:]}
    rooms["scripts"] |= {"what is public"}
    return rooms


def against(found: dict[str, set[str]]) -> list[str]:
    """The imports that go against the drawing, as `module imports module`."""
    allowed = drawing() | {"what is public": set()}
    return [
        f"{module} imports {other}"
        for module, others in found.items()
        for other in sorted(others)
        if room(other) not in allowed[room(module)] | {room(module)}
    ]


def circle(found: dict[str, set[str]]) -> list[str] | None:
    """Modules each of which is imported by the next, the first by the last; None if there are none such."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_every_room_is_drawn():
    assert set(drawing()) == {"scripts", "networks", "ground floor", *ROOMS}
    folders = {path.parent.name for path in (ROOT / "patchcert").glob("*/__init__.py")}
    assert folders == set(ROOMS)


def test_every_import_goes_the_way_of_the_drawing():
    assert against(graph()) == []


def test_no_imports_run_in_a_circle():
    assert circle(graph()) is None


@pytest.mark.parametrize(
    "module, source",
    [
        ("patchcert.data.named", "from patchcert.votes import rules"),
        ("patchcert.data.named", "from patchcert.engines.asking import softmax"),
        ("patchcert.results", "def rows():\n    import patchcert.data.dataset"),
        ("patchcert.results", "if TYPE_CHECKING:\n    from patchcert.data.dataset import Dataset"),
        ("patchcert.votes.rules", "from patchcert.intervals.bounds import Box"),
        ("patchcert.ablations.windows", "from patchcert.engines.asking import softmax"),
        ("patchcert.engines.pairs", "from patchcert.masking.linked import LinkedMasking"),
        ("patchcert.masking.linked", "from patchcert.votes.rules import Ballot"),
        ("patchcert.votes.rules", "from patchcert.classifiers import probing"),
        ("patchcert.pretrained.sources", "from patchcert.engines.plain import PlainNetwork"),
        ("patchcert.engines.plain", "from patchcert.pretrained import sources"),
        ("patchcert.engines.columns", "from patchcert.training.recipes import Recipe"),
        ("patchcert.intervals.bounds", "from patchcert.ablations.ablation import Band"),
        ("patchcert.votes.rules", "from patchcert.attacks import ascent"),
        ("patchcert.attacks.ascent", "from patchcert.experiments.attacking import CERTIFIED"),
        ("patchcert.reports.page", "from patchcert.ablations.ablation import Band"),
        ("patchcert.results", "from patchcert.reports.page import write"),
        ("patchcert.votes.rules", "from patchcert import Band"),
        ("patchcert.experiments.training", "import train_mnist_band"),
        ("patchcert.networks", "from patchcert.small_networks import MODELS"),
        ("patchcert.interface.certifying", "from patchcert.experiments.evaluation import prepare"),
        ("resnet_imgnt", "from patchcert.ablations.ablation import encode"),
    ],
)
def test_an_import_against_the_drawing_is_caught(module, source):
    (broken,) = against({module: imports(source, module, set(sources()))})
    assert broken.startswith(f"{module} imports ")


@pytest.mark.parametrize(
    "module, source",
    [
        ("patchcert.votes.rules", "from patchcert import distributed\nfrom patchcert.data import named"),
        ("patchcert.intervals.evaluation", "from patchcert.attacks.ascent import Attack"),
        ("certify_mnist_band", "from patchcert import Band\nfrom patchcert.votes import saved_votes"),
        ("patchcert.results", "import json\nfrom pathlib import Path"),
    ],
)
def test_an_import_along_the_drawing_is_not(module, source):
    assert against({module: imports(source, module, set(sources()))}) == []


def test_a_circle_is_caught():
    found = graph()
    found["patchcert.errors"] = {"patchcert.checkpoint"}
    assert {"patchcert.errors", "patchcert.checkpoint"} <= set(circle(found))


def test_what_is_public_is_there_once():
    parts = (patchcert.INTERFACE, patchcert.FOR_SCRIPTS)
    listed = [name for part in parts for names in part.values() for name in names]
    assert len(listed) == len(set(listed)) and set(patchcert.__all__) < set(listed)
    for name in listed:
        assert getattr(patchcert, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Bend'"):
        _ = patchcert.Bend


def test_what_is_for_scripts_is_what_scripts_import():
    asked = set()
    for script in ROOT.glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.ImportFrom)]
        asked |= {alias.name for node in nodes if node.module == "patchcert" for alias in node.names}
    assert {name for names in patchcert.FOR_SCRIPTS.values() for name in names} <= asked


def test_importing_the_package_costs_nothing():
    code = "import sys, patchcert; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_run_without_files_of_images_loads_no_library_that_is_for_them_or_for_figures(generated_mnist):
    """Starting would take more than twice as long: torchvision loads all of torch's compiler."""
    heavy = {"torchvision", "torch._dynamo", "matplotlib"}
    script = "certify_mnist_band.py"
    arguments = [script, "--checkpoint", "mnist_band", "--limit", "1", "--data", str(generated_mnist)]
    code = f"import runpy, sys; sys.argv = {arguments}; runpy.run_path({script!r}, run_name='__main__')"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}; print(sorted({heavy} & set(sys.modules)))"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout.splitlines()[-1] == "[]"
