"""What a line costs, by its form: `python -m bench.lines [--quick] [--write]`.

The real daemon, pinned, in front of the sink without a quota; lines of 200 B over the Unix socket,
4 connections: as envelopes, as raw text, and as raw JSON whose field `user.id` is the key. Rounds
are interleaved, a new daemon each; medians.
"""

import argparse
import sys
from statistics import median

from bench import command
from bench.records import DATA_BYTES
from bench.table import table
from bench.targets import Scenario, measure_daemon, started_sink

_RECORDS = 600_000  # carried in one round
_LOAD = "ndjson --unix {unix} --connections 4 --window 8000 --lines"
FORMS = [
    Scenario(lines, title, f"{_LOAD} {lines}", _RECORDS)
    for lines, title in (
        ("envelope", "envelopes with a key"),
        ("envelope_keyless", "envelopes without a key"),
        ("raw", "raw"),
        ("raw_key", 'raw JSON, `partition_key_field = "user.id"`'),
    )
]


def measure(options: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    with started_sink() as sink:
        seen = command.interleaved(
            options.rounds,
            FORMS,
            lambda form: measure_daemon(form, _RECORDS // options.share, sink).us_per_record,
            lambda form, us: f"{form.title}: {us:.2f} us a line",
        )
    us = {form.title: median(figures) for form, figures in seen.items()}
    rows = ((title, f"{1e6 / each:,.0f}", f"{each:.2f}") for title, each in us.items())
    lines = [
        "## Lines",
        "",
        f"Lines with {DATA_BYTES} B of data over the Unix socket, 4 connections, `delivered`; the",
        f"real daemon in front of a sink without a quota, medians of {options.rounds}:",
        "",
        *table(("form", "lines per CPU-second", "us a line"), rows),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = command.arguments("lines", "What a line costs, by its form.", is_written=True)
    sys.exit(command.run(parser, measure))
