"""Files of the project that are written from its settings: `python -m tests.kit.documents`.

Where it sits: `kdaemon/config/document.py` has the texts; `make docs` runs this, and
tests/unit/config/test_document.py holds the files to it.
"""

from pathlib import Path

from kdaemon.config import document

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "make docs"
BEGIN, END = f"<!-- begin: {COMMAND} -->\n", f"<!-- end: {COMMAND} -->\n"


def between(text: str, written: str) -> str:
    """A page with what is written in it, between the two marks."""
    before, _, rest = text.partition(BEGIN)
    assert END in rest, "a page that is written to has both marks"
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{written}\n{END}{after}"


def documents() -> dict[Path, str]:
    """Each file as it should be."""
    pages = {"configure.md": document.tables(), "reload.md": document.marks()}
    found = {ROOT / "config.example.toml": document.example()}
    for name, written in pages.items():
        path = ROOT / "docs" / name
        found[path] = between(path.read_text(encoding="utf-8"), written)
    return found


def main() -> None:
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
