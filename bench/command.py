"""The command line of a bench that is a table: --quick, --rounds, --write.

Knows flags and exit codes; measures nothing. Where it sits: a bench's `__main__` calls `run_alone`
or `run_beside_sink` and exits with what they return.
"""

import argparse
import os
import sys
from collections.abc import Callable

from bench.compare import Sink, started_sink
from bench.host import Cores, choose_cores, pinned
from bench.report import write_section

QUICK_SHARE = 10  # --quick carries a tenth, once

Measure = Callable[[int, int], str]
"""Rounds, and which part of a round's records is carried (1: all), to the table."""


def run_alone(name: str, description: str, measure: Measure, *, rounds: int = 3) -> int:
    """A bench that starts all it needs. RuntimeError: what went wrong, in words."""
    return _run(name, description, measure, rounds, lambda table: table + "\n")


def run_beside_sink(
    name: str,
    description: str,
    measure: Callable[[int, int, Sink, Cores], str],
    *,
    rounds: int = 3,
    heading: str | None = None,
) -> int:
    """A bench of daemons in front of one sink, on cores of their own: Linux only. `heading`: of its
    section in RESULTS.md; None: it is not written there.
    """
    if not hasattr(os, "sched_setaffinity"):
        print("bench needs Linux: it pins processes to cores and reads /proc", file=sys.stderr)
        return 2

    def pinned_measure(round_count: int, share: int) -> str:
        cores = choose_cores(os.sched_getaffinity(0))
        with pinned(cores.load), started_sink(cores.sink) as sink:
            return measure(round_count, share, sink, cores)

    section = None if heading is None else lambda table: f"{heading}\n\n{table}"
    return _run(name, description, pinned_measure, rounds, section)


def _run(
    name: str,
    description: str,
    measure: Measure,
    rounds: int,
    section: Callable[[str], str] | None,
) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument("--rounds", type=int, default=rounds)
    if section is not None:
        parser.add_argument("--write", action="store_true", help="into bench/RESULTS.md")
    asked = parser.parse_args()
    round_count, share = (1, QUICK_SHARE) if asked.quick else (asked.rounds, 1)
    try:
        table = measure(round_count, share)
    except RuntimeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(table)
    if section is not None and asked.write:
        write_section(section(table))
    return 0
