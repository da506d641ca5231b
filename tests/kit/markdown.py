"""The documents as tests read them: links, headings, and fenced blocks with what is said of each.

A block of commands or of code (`RUN`) is run by tests/process/test_documents.py, unless a comment
of HTML stands above it, which readers do not see:

    <!-- not run: the reason -->
    <!-- run by: tests/process/test_commands_page.py -->
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = tuple(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "kdaemon/*.md",
        "deploy/**/*.md",
        "bench/*.md",
        "tests/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
)
RUN = frozenset({"sh", "console", "python", "js", "java", "go"})

_FENCE = re.compile(r"^(\s*)```(\S*)\s*$")
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_RUN_BY = re.compile(r"<!-- run by: (\S+) -->")
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
_DEFINED = re.compile(r"^\[([^]]+)\]: (\S+)$", re.MULTILINE)
_REFERRED = re.compile(r"\]\[([^]]+)\]")
_CODE = re.compile(r"(`+).+?\1")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `line`: of its fence, from 1. `reason`: why it is not run. `tester`: the
    test that runs it, where the general one does not. Both are "" where nothing is said.
    """

    document: Path
    line: int
    language: str
    text: str
    reason: str
    tester: str

    @property
    def place(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language in RUN and not self.reason and not self.tester


def blocks(document: Path) -> Iterator[Block]:
    """In order."""
    lines = document.read_text().splitlines()
    at = 0
    while at < len(lines):
        opened = _FENCE.match(lines[at])
        if opened is None:
            at += 1
            continue
        indent, language = opened.groups()
        end = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
        text = "\n".join(line.removeprefix(indent) for line in lines[at + 1 : end]) + "\n"
        above = lines[at - 1] if at else ""
        reason, tester = (match[1] if match else "" for match in _marks(above))
        yield Block(document, at + 1, language, text, reason, tester)
        at = end + 1


def _marks(line: str) -> tuple[re.Match[str] | None, re.Match[str] | None]:
    return _NOT_RUN.search(line), _RUN_BY.search(line)


def prose(document: Path) -> str:
    """Without fenced blocks."""
    kept: list[str] = []
    is_fenced = False
    for line in document.read_text().splitlines():
        if line.strip().startswith("```"):
            is_fenced = not is_fenced
        elif not is_fenced:
            kept.append(line)
    return "\n".join(kept)


def links(document: Path) -> list[str]:
    """Where each leads, also by a name that is defined below. KeyError: it is not."""
    text = _CODE.sub("", prose(document))
    named = dict(_DEFINED.findall(text))
    direct = [first or second for first, second in _LINK.findall(text)]
    return direct + [named[each] for each in _REFERRED.findall(text)]


def anchors(document: Path) -> frozenset[str]:
    """Of its headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return frozenset(
        f"{slug}-{n}" if n else slug for slug, count in found.items() for n in range(count + 1)
    )


def part(page: Path, command: str) -> str:
    """The part of a page that `command` writes, without the two lines that mark it. ValueError: the
    page has no such lines.
    """
    return _parts(page, command)[1]


def with_part(page: Path, command: str, text: str) -> str:
    """The page with `text` as the part that `command` writes. ValueError, as for `part`."""
    before, _, after = _parts(page, command)
    begin, end = _lines(command)
    return before + begin + text + end + after


def _parts(page: Path, command: str) -> tuple[str, str, str]:
    begin, end = _lines(command)
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    between, mark, after = rest.partition(end)
    if not mark:
        raise ValueError(f"{page} needs the lines {begin}{end}")
    return before, between, after


def _lines(command: str) -> tuple[str, str]:
    return f"<!-- begin: {command} -->\n", f"<!-- end: {command} -->\n"
