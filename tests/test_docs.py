"""What README and docs/ say is there: pages and headings that are linked, scripts, options, drawn examples."""

import re
from itertools import chain
from pathlib import Path

import pytest

from docs import draw_examples, make_pages
from patchcert.ablations.ablation import Band
from patchcert.patch import Patch
from tests.helpers import README, ROOT

PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
OF_OTHERS = {"--nproc_per_node", "--standalone", "--nnodes", "--rdzv_backend", "--rdzv_id", "--rdzv_endpoint"}
OF_OTHERS |= {"--version", "--require-hashes", "--disable-pip", "--signals-to-handle", "--signal"}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|^    .*?$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """What GitHub makes of headings: lower case, no punctuation, hyphens for spaces, numbers where one comes again."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found.append(anchor + (f"-{found.count(anchor)}" if anchor in found else ""))
    return set(found)


def links(text: str) -> list[str]:
    """Targets of the relative links and pictures."""
    targets = re.findall(r"\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"", without_code(text))
    return [target for target in map("".join, targets) if not re.match(r"\w+:", target)]


def target(page: Path, path: str) -> Path:
    file = (page.parent / path).resolve() if path else page
    return README if file == ROOT / "README.md" else file


def broken(page: Path, text: str) -> list[str]:
    """The links of a page to files that are not there, or headings."""
    found = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        file = target(page, path)
        there = file.exists() and file.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(text if file == page else file.read_text())):
            found.append(f"{page.relative_to(ROOT)}: {link}")
    return found


def test_every_link_leads_somewhere():
    pages = {*PAGES, *ROOT.glob("*.md")}
    assert list(chain.from_iterable(broken(page, page.read_text()) for page in pages)) == []


@pytest.mark.parametrize(
    "link", ["no.md", "docs/no.md", "docs/engine.md#no", "#no", "../outside.md", "docs/figures/no.svg"]
)
def test_a_broken_link_is_found(link):
    text = f"# One\n\n[there]({link}) and [here](#one), [too](docs/engine.md#what-limits-the-speed)"
    assert broken(README, text) == [f"{README.name}: {link}"]


def test_pages_are_reached_from_the_readme():
    reached, new = set(), {README}
    while new:
        reached |= new
        pages = {target(page, link.partition("#")[0]) for page in new for link in links(page.read_text())}
        new = {page for page in pages if page.suffix == ".md"} - reached
    assert [page.name for page in PAGES if page not in reached] == []


def test_scripts_and_options_that_pages_name_are_there():
    parsers = [make_pages.parser_of(script) for script in make_pages.scripts()]
    known = {option for parser in parsers for option in parser._option_string_actions} | OF_OTHERS
    known |= set(re.findall(r"--\w[\w-]*", "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))))
    missing = []
    for page in PAGES:
        text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
        options = set(re.findall(r"(?<![\w\"-])--[a-z][\w-]*", text)) - known - set(re.findall(r"\"(--\w+)\"", text))
        made_here = set(re.findall(r"^\+\+\+ b/(.*)|`(\w+_own\.py)`", text, re.MULTILINE))
        scripts = set(re.findall(r"python3 (\w[\w/]*\.py)", text)) - set(map("".join, made_here))
        scripts = {name for name in scripts if not (ROOT / name).exists()}
        missing += [f"{page.name}: {name}" for name in sorted(options | scripts)]
    assert missing == []


def test_examples_are_drawn_and_say_what_their_captions_say(tmp_path):
    captions = draw_examples.main(tmp_path)
    page = " ".join((ROOT / "docs" / "certificates.md").read_text().split())
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in draw_examples.FIGURES.glob("*.svg")} and len(drawn) == len(captions)
    for name, caption in captions.items():
        assert f"](figures/{name}.svg) *{caption}*" in page
        assert "prefers-color-scheme: dark" in (tmp_path / f"{name}.svg").read_text()


def test_each_way_in_which_networks_go_wrong_names_tests_that_are_there():
    page = (ROOT / "docs" / "pretrained.md").read_text().partition("## What goes wrong silently elsewhere")[2]
    _, _, *rows = re.findall(r"^\|.*\|$", page, re.MULTILINE)
    named = [re.findall(r"\[([^]]+)\]\(\.\./(tests/test_\w+\.py)\)", row.rpartition(" | ")[2]) for row in rows]
    assert len(rows) == 19 and all(named)
    for words, file in chain.from_iterable(named):
        assert f"\ndef test_{words.replace(' ', '_')}(" in (ROOT / file).read_text(), words


def test_the_limits_of_band_sizes_follow_from_the_geometry():
    page = (ROOT / "docs" / "choosing.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) × \3 \| (\d+) × \4 \|$", page, re.MULTILINE)
    assert len(rows) == 6
    for width, size, by_votes, by_masking in (map(int, row) for row in rows):
        ablation = Band(width, width, size)
        touched = [ablation.most_touched(Patch(1, m)) for m in range(1, width + 1)]
        assert by_votes == sum(2 * most <= width for most in touched)
        assert by_masking == sum(ablation.most_touched(Patch(1, m), patches=2) < width for m in range(1, width + 1))
