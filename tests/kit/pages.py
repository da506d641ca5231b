"""The pages of docs/ that are generated: `make docs` writes them, a test holds them to the code.

    python -m tests.kit.pages

What stands outside the two marks of a page is written by hand, and stays.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdaemon.observe import table
from kdaemon.observe.table import Kind, Metric
from tests.kit.markdown import DOCS

BEGIN, END = "<!-- begin: make docs -->", "<!-- end: make docs -->"

STREAM, SHARD = "`upstream`, `stream`", "`upstream`, `stream`, `shard_id`"
SECTIONS: tuple[tuple[str, str, tuple[Metric[Any], ...]], ...] = (
    ("Records", (f"Labels: {STREAM}; both are empty for records that were refused before their "
     "stream was known."), table.ACCOUNTS),
    ("Delivery", f"Labels: {STREAM}.", table.DELIVERY),
    ("Streams", f"Labels: {STREAM}.", table.STREAM),
    ("Hot shards", f"Labels: {SHARD}, of the hottest shards of each stream.", table.HOT),
    ("All shards", (f"Labels: {SHARD}. Only with `metrics.per_shard = true`. The shard with an "
     "empty name is the whole stream, where kdaemon has no map of it."), table.SHARD),
    ("Clients", "Label: `listener`.", table.LISTENER),
    ("Calls that are passed on", ("Labels: `upstream`, `operation`. `other` is what may not be "
     "passed on."), table.PASSED_ON),
    ("Credentials", "Label: `upstream`. Only of upstreams whose credentials end.",
     table.CREDENTIALS),
    ("Certificates", "Only where a listener has a certificate.", table.TLS),
    ("Configuration", "", table.CONFIG),
    ("Memory", "", table.MEMORY),
    ("Event loop", "", table.LOOP),
    ("Spool", "Only where there is a spool.", table.SPOOL),
    ("Log", "", table.LOG),
    ("Principals", "Only where clients show who they are.", table.AUTH),
    ("Workers", "Label: `worker`. Only where there are several.", table.WORKERS),
)  # fmt: skip


def metrics() -> str:
    """Of all metrics, in the order of the table."""
    return "\n".join(_section(*each) for each in SECTIONS)


def _section(title: str, labels: str, rows: tuple[Metric[Any], ...]) -> str:
    return "\n".join(
        [f"## {title}", "", *([labels, ""] if labels else []), *_head(), *_rows(rows), ""]
    )


def _head() -> tuple[str, str]:
    return "| metric | kind | meaning |", "|---|---|---|"


def _rows(rows: tuple[Metric[Any], ...]) -> Iterator[str]:
    for row in rows:
        name = f"`{row.name}`" + (f" by `{row.label}`" if row.label else "")
        text = row.text.replace("|", "\\|")
        yield f"| {name} | {_kind(row.kind)} | {text} |"


def _kind(kind: Kind) -> str:
    return kind.value


PAGES = {DOCS / "metrics.md": metrics}


def parts(page: Path) -> tuple[str, str, str]:
    """What stands before the mark, between the marks, and after."""
    before, _, rest = page.read_text().partition(BEGIN + "\n")
    between, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{page} needs the lines {BEGIN} and {END}")
    return before, between, after


def main() -> int:
    for page, made in PAGES.items():
        before, _, after = parts(page)
        page.write_text(f"{before}{BEGIN}\n{made()}{END}{after}")
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
