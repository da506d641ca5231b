"""What a line costs, by its form: `python -m bench.lines [--quick] [--write]`.

The real daemon, pinned, in front of the sink without a quota; lines of 200 B over the Unix socket,
4 connections: as envelopes, as raw text, and as raw JSON whose field `user.id` is the key. Rounds
are interleaved, a new daemon each; medians.
Invariant: a figure is given only if the daemon counts every line that was sent as delivered.
"""

import os
import sys
from dataclasses import dataclass
from statistics import median

from bench.carried import cpu_us
from bench.command import run_alone
from bench.compare import daemon_config, started_sink
from bench.host import choose_cores, pinned
from bench.records import DATA_BYTES
from bench.table import table

_TITLE = "## Lines"
_RECORDS = 600_000  # carried in one round
_LOAD = ("ndjson", "--unix", "{unix}", "--connections", "4", "--window", "8000")


@dataclass(frozen=True, slots=True)
class Form:
    """`lines`: as bench.load names it."""

    title: str
    lines: str


FORMS = (
    Form("envelopes with a key", "envelope"),
    Form("envelopes without a key", "envelope_keyless"),
    Form("raw", "raw"),
    Form('raw JSON, `partition_key_field = "user.id"`', "raw_key"),
)


def measure(rounds: int, share: int) -> str:
    """The section of RESULTS.md; prints each round as it comes."""
    cores = choose_cores(os.sched_getaffinity(0))
    seen: dict[Form, list[float]] = {form: [] for form in FORMS}
    with pinned(cores.load), started_sink(cores.sink) as sink:
        for _ in range(rounds):
            for form, figures in seen.items():
                config, arguments = daemon_config(sink.port), (*_LOAD, "--lines", form.lines)
                figures.append(cpu_us(form.title, config, arguments, _RECORDS // share, cores))
                print(f"{form.title}: {figures[-1]:.2f} us a line", flush=True)
    lines = [
        _TITLE,
        "",
        f"Lines with {DATA_BYTES} B of data over the Unix socket, 4 connections, `delivered`; the",
        f"real daemon in front of a sink without a quota, medians of {rounds}:",
        "",
    ]
    us = {form.title: median(figures) for form, figures in seen.items()}
    rows = ((title, f"{1e6 / each:,.0f}", f"{each:.2f}") for title, each in us.items())
    return "\n".join([*lines, *table(("form", "lines per CPU-second", "us a line"), rows)])


if __name__ == "__main__":
    sys.exit(run_alone("lines", "What a line costs, by its form.", measure))
