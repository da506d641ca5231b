"""The files that are generated: `make docs` writes them, a test holds them to the code.

    python -m tests.kit.pages

What stands outside the two marks of a page is written by hand, and stays.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdaemon.config import document
from kdaemon.observe import table
from kdaemon.observe.table import Kind, Metric
from kdaemon.testing import Sandbox
from tests.kit.markdown import DOCS, ROOT, with_part

COMMAND = "make docs"

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
    ("Readiness", "", table.READINESS),
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


RESULTS = ROOT / "bench" / "RESULTS.md"
FIGURES = {
    "kdaemon: PutRecords of 500, 8 connections, Unix socket": (
        "kdaemon fed `PutRecords` of 500 over the Unix socket, full answers"
    ),
    "kdaemon: NDJSON, 4 connections, Unix socket": (
        "kdaemon fed NDJSON over the Unix socket, `delivered`"
    ),
    "kdaemon: PutRecord, 64 keep-alive connections, TCP": (
        "kdaemon fed one `PutRecord` a request, 64 connections"
    ),
    "aiobotocore put_records of 500, 8 in flight": (
        "aiobotocore `put_records` of 500, 8 in flight, no ingest"
    ),
    "boto3 put_records of 500, one thread": "boto3 `put_records` of 500, no ingest",
    "boto3 put_record, one after another": "boto3 `put_record` in a loop",
}
"""Rows of the bench's first table, and what they are called where users read them."""


def figures() -> dict[str, tuple[str, str]]:
    """Of each row: records a CPU-second, and microseconds a record."""
    found: dict[str, tuple[str, str]] = {}
    for line in RESULTS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in FIGURES and cells[0] not in found:
            found[cells[0]] = cells[2], cells[3]
    return found


def performance() -> str:
    head = ["| | records per CPU-second | µs a record |", "|---|--:|--:|"]
    measured = figures()
    rows = [
        f"| {title} | {measured[name][0]} | {measured[name][1]} |"
        for name, title in FIGURES.items()
    ]
    return "\n".join([*head, *rows, ""])


def sandbox_methods() -> str:
    """Of the fixture `kinesis_sandbox`, with what the docstring of each says."""
    found = [(name, each) for name, each in vars(Sandbox).items() if not name.startswith("_")]
    rows = [f"| `{name}{_arguments(each)}` | {inspect.getdoc(each)} |" for name, each in found]
    return "\n".join(
        ["| method | what it does |", "|---|---|", *(" ".join(row.split()) for row in rows), ""]
    )


def _arguments(member: object) -> str:
    """As a caller writes them, without types; "" of a property."""
    if not callable(member):
        return ""
    signature = inspect.signature(member)
    _, *given = signature.parameters.values()
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in given]
    return str(inspect.Signature(plain))


PAGES = {
    DOCS / "metrics.md": metrics,
    DOCS / "performance.md": performance,
    DOCS / "configure.md": document.tables,
    DOCS / "reload.md": document.marks,
    DOCS / "sandbox.md": sandbox_methods,
}


def files() -> dict[Path, str]:
    """Each file that is generated, or has a part that is, as it should be."""
    found = {ROOT / "config.example.toml": document.example()}
    return found | {page: with_part(page, COMMAND, made()) for page, made in PAGES.items()}


def main() -> None:
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
