"""Of every document: links lead somewhere, blocks say what they are, configurations are right."""

import os
import re
from pathlib import Path

import pytest

from kdaemon.config.load import load_config
from kdaemon.observe.table import TABLE
from kdaemon.sandbox.faults import FaultKind
from tests.kit.markdown import DOCS, DOCUMENTS, ROOT, RUN, Block, anchors, blocks, links, part
from tests.kit.pages import COMMAND, SECTIONS, figures, files

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
PLAIN = frozenset({"text", "mermaid", "json", "yaml", "toml", "ini", "syslog-ng"})
REASON_WORDS_MIN = 4


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_somewhere(document: Path) -> None:
    for link in links(document):
        if link.startswith("http"):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(document.parent / path)) if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), f"{link}: it has {sorted(anchors(target))}"


PLACE = re.compile(r"`((?:tests|bench|deploy|kdaemon|docs)/[\w./-]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_file_that_is_named_is_there(document: Path) -> None:
    named = set(PLACE.findall(document.read_text()))
    assert [each for each in sorted(named) if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_each_block_says_what_it_is_and_why_it_is_not_run(block: Block) -> None:
    assert block.reason or block.language in RUN | PLAIN, f"{block.place}: in which language?"
    if block.reason:
        assert len(block.reason.split()) >= REASON_WORDS_MIN
    if block.tester:
        assert block.document.name in (ROOT / block.tester).read_text()


CONFIGURATIONS = [
    block for block in BLOCKS if block.language == "toml" and not block.reason and not block.tester
]


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=lambda block: block.place)
def test_each_configuration_is_one(block: Block) -> None:
    """What is wrong in it is raised."""
    load_config(text=block.text, environ={})


def test_each_page_is_in_the_index() -> None:
    listed = {link.partition("#")[0] for link in links(DOCS / "README.md")}
    assert {path.name for path in DOCS.glob("*.md")} - {"README.md"} <= listed


def test_the_first_page_is_short() -> None:
    """Two screens, and the links below them."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


PAGES = [*DOCS.glob("*.md"), *(ROOT / "deploy").glob("**/*.md")]
GENERATED = re.compile(r"<!-- begin: make docs -->.*?<!-- end: make docs -->", re.DOTALL)


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_is_about_one_topic_and_has_a_few_screens(page: Path) -> None:
    """What is longer is two topics, and is split."""
    assert len(GENERATED.sub("", page.read_text()).splitlines()) <= 160


@pytest.mark.parametrize("file", files(), ids=lambda path: path.name)
def test_a_generated_file_is_what_the_code_says(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == files()[file], f"run `{COMMAND}`"


def test_each_metric_is_on_its_page_once() -> None:
    said = [row.name for _, _, rows in SECTIONS for row in rows]
    assert sorted(said) == sorted(row.name for row in TABLE)


def test_each_fault_of_the_sandbox_is_on_its_page() -> None:
    page = (DOCS / "sandbox.md").read_text()
    assert [kind.value for kind in FaultKind if f"`{kind.value}`" not in page] == []


def test_each_cell_of_the_comparison_has_its_source() -> None:
    """Ours is a test, and the page names none that is not there."""
    page = (DOCS / "compare.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("|") and "---" not in row]
    for row in rows:
        tool, *_, source = [cell.strip() for cell in row.strip("|").split("|")]
        if tool == "tool":
            continue
        wanted = "`test_" if tool == "kdaemon" else "]["
        assert wanted in source or "not documented" in row, row
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*/test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_what_the_first_page_counts_and_measures_is_so() -> None:
    page = (ROOT / "README.md").read_text()
    clients = part(DOCS / "clients.md", "make clients").strip().splitlines()[2:]
    assert f"[{len(clients)} of them were tried]" in page
    costs = [float(each) for name, (_, each) in figures().items() if name.startswith("kdaemon")]
    said = f"{min(costs):.1f} to {max(costs):.0f} µs"
    assert said in page.replace("\n", " ")
    assert said in (DOCS / "sizing.md").read_text()
