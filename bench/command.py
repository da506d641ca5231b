"""The command line of a bench: --quick, --rounds, --write, and what it exits with.

Knows flags and exit codes; measures nothing. Where it sits: a bench's `__main__` adds flags of its
own to `arguments`, and exits with what `run` returns.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from bench.table import write

CaseT = TypeVar("CaseT")
SeenT = TypeVar("SeenT")


def arguments(
    name: str, description: str, *, rounds: int | None = 3, is_written: bool = False
) -> argparse.ArgumentParser:
    """The flags that benches share. `rounds`: of a whole run; None: it has none. `is_written`: it
    has a part of RESULTS.md.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    if is_written:
        parser.add_argument("--write", action="store_true", help="write it into bench/RESULTS.md")
    return parser


def run(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], str],
    *,
    quick_share: int = 10,
) -> int:
    """Prints what is measured, and writes it if that is asked for. To the options come `share`,
    which part of a round's records is carried (1: all; --quick: one of `quick_share`), and `rounds`
    (--quick: 1). RuntimeError: what went wrong, in words; AssertionError: the same of the daemon's.
    """
    options = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        print("bench needs Linux: it pins processes to cores and reads /proc", file=sys.stderr)
        return 2
    partly = [each for each in ("quick", "only", "half_core") if getattr(options, each, None)]
    if partly and getattr(options, "write", False):
        print(f"--write needs a whole run: not with {partly}", file=sys.stderr)
        return 2
    options.share = quick_share if options.quick else 1
    options.rounds = 1 if options.quick else getattr(options, "rounds", 1)
    try:
        text = measure(options)
    except (RuntimeError, AssertionError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(text)
    if getattr(options, "write", False):
        write(text)
    return 0


def interleaved(
    rounds: int,
    cases: Iterable[CaseT],
    measure: Callable[[CaseT], SeenT],
    say: Callable[[CaseT, SeenT], str],
) -> dict[CaseT, list[SeenT]]:
    """What each case gave in each round: all cases, then all again, so that neighbours see the same
    machine. `say`: of one figure as it comes.
    """
    seen: dict[CaseT, list[SeenT]] = {case: [] for case in cases}
    for number in range(1, rounds + 1):
        for case, figures in seen.items():
            figures.append(measure(case))
            tell(f"[{number}/{rounds}] {say(case, figures[-1])}")
    return seen


def tell(text: str) -> None:
    """Of what goes on; the figures themselves go to the standard output."""
    print(text, file=sys.stderr, flush=True)
