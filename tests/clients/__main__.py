"""`python -m tests.clients`: every client that is built, in every case; --write: docs/clients.md.

A row that was not tried keeps what the page says of it. Exit code 1 if any outcome is one that must
not be.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.clients.cases import CASES, RECORDS, Case, Outcome, try_case
from tests.clients.program import CLIENTS, Client
from tests.kit.daemon import ROOT
from tests.kit.markdown import part, with_part

PAGE = ROOT / "docs" / "clients.md"
COMMAND = "make clients"  # that writes its table

Row = dict[str, tuple[str, bool]]  # of a client: case to words, and whether they are good


def row_of(client: Client, cases: list[Case]) -> Row:
    row: Row = {}
    for case in cases:
        with tempfile.TemporaryDirectory() as directory:
            try:
                outcome = try_case(Path(directory), client, case)
            except Exception as error:  # noqa: BLE001 - the others are to be tried, too
                row[case.name] = f"FAILS: {type(error).__name__}", False
                print(f"{client.name} {case.name}: {error}", file=sys.stderr)
                continue
        is_good = not outcome.problem and not (case.all_go_well and outcome.failed)
        row[case.name] = outcome.words, is_good
        print(f"{client.name:15} {case.name:12} {outcome.words} {_why(outcome)}", flush=True)
    return row


def _why(outcome: Outcome) -> str:
    return f"({outcome.errors[0][:150]})" if outcome.errors else ""


def table(rows: dict[str, Row], cases: list[Case], said: dict[str, str]) -> str:
    """`said`: what stands of a client that was not tried, by the beginning of its line."""
    lines = ["| client | " + " | ".join(case.title for case in cases) + " |"]
    lines.append("|---" * (len(cases) + 1) + "|")
    for client in CLIENTS:
        row, start = rows.get(client.name), f"| {client.title} | "
        if row is None:
            lines.append(said.get(start, start + " | ".join(["not here"] * len(cases)) + " |"))
        else:
            lines.append(start + " | ".join(row[case.name][0] for case in cases) + " |")
    return "\n".join(lines) + "\n"


def _said() -> dict[str, str]:
    """The lines of the page's table, by their beginnings."""
    text = part(PAGE, COMMAND)
    return {line[: line.find(" | ") + 3]: line for line in text.splitlines()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("--client", action="append", choices=[each.name for each in CLIENTS])
    parser.add_argument("--case", action="append", choices=[each.name for each in CASES])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    asked = parser.parse_args()
    if asked.write and asked.case:
        parser.error("--write is for all cases: a row of the page has each of them")
    clients = [each for each in CLIENTS if not asked.client or each.name in asked.client]
    cases = [each for each in CASES if not asked.case or each.name in asked.case]
    rows: dict[str, Row] = {}
    for client in clients:
        if client.is_built:
            rows[client.name] = row_of(client, cases)
        else:
            print(f"{client.name:15} is not built")
    text = table(rows, cases, {} if asked.case else _said())
    print(f"\n{text}\n{RECORDS} records a call of PutRecords.")
    if asked.write:
        PAGE.write_text(with_part(PAGE, COMMAND, text), encoding="utf-8")
    return 0 if all(good for row in rows.values() for _, good in row.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
