"""The spool's figures to tables: medians, ratios, targets, a section of RESULTS.md.

Pure but for the date and the machine's description. Knows nothing of how a figure came about
(`spool.py`). Ratios are medians of the rounds' own, for neighbours saw the same machine.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import Any, TypeVar

from bench.disk import DiskAlone
from bench.host import Cores
from bench.table import MIB, Target, facts, table, verdicts

TITLE = "## The spool"

# What must be reached (issue "`stored`", sections Build and Prove).
TARGET_RATIO = 0.85  # stored / accepted, in throughput. Ours, 2026-11-29; 0.7 before
TARGET_READY_S = 3.0  # from spawn to ready with 1 GiB in the spool
TARGET_OUTAGE_CPU = 0.05  # CPU-seconds a second while the service is down
TARGET_RSS_MIB = 256 + 80  # memory_bytes_max's default, and what the process itself takes

Seen = TypeVar("Seen", "Carried", "Waited", "Filled", "Commits", DiskAlone)


@dataclass(frozen=True, slots=True)
class Commits:
    """Commits, the new frames in them, and the seconds that they took, together."""

    count: float
    frames: float
    seconds: float

    def cells(self, seconds: float) -> tuple[str, str, str]:
        """Within so many seconds: commits a second, frames of each, milliseconds of each."""
        if not self.count:
            return "-", "-", "-"
        frames, ms = self.frames / self.count, self.seconds / self.count * 1000
        return f"{self.count / seconds:,.0f}", f"{frames:,.2f}", f"{ms:,.2f}"


@dataclass(frozen=True, slots=True)
class Carried:
    """(a) One load under one promise. `acknowledged_s`: to the last answer; `delivered_s`: to the
    last record at the sink; `cpu_s`: of the daemon, until it was idle again. `alone`: the disk by
    itself with appends of a commit's size, beside `stored`.
    """

    records: int
    acknowledged_s: float
    delivered_s: float
    cpu_s: float
    made: Commits
    alone: DiskAlone | None = None

    @property
    def alone_records_per_s(self) -> float:
        """What the disk would take if nothing else had to be done."""
        if self.alone is None:
            return 0.0
        return self.alone.appends_per_s * self.records / self.made.count


@dataclass(frozen=True, slots=True)
class Waited:
    """(b) Time to `stored` in milliseconds, from when a record was due. `alone`: one record's
    append and fdatasync on the bare disk.
    """

    records: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_ms_p99: float
    made: Commits
    cpu_s: float
    alone: DiskAlone


@dataclass(frozen=True, slots=True)
class Filled:
    """(c) A spool that is filled, killed, started again, and emptied."""

    records: int
    data_bytes: int  # of all records, without keys
    file_bytes: int  # what the spool's files take when full
    fill_s: float
    rss_filled: int
    ready_s: float  # the files in the page cache
    ready_cold_s: float  # the files evicted from it
    rss_ready: int
    rss_later: int  # after OUTAGE_S more
    outage_cpu_first: float  # CPU-seconds a second in the first OUTAGE_S after ready: reads back
    outage_cpu: float  # the same afterwards
    first_back_s: float  # from the service's return to the first record
    drain_s: float  # from the service's return to the last record
    drain_cpu_s: float
    rss_peak: int  # of the process that drained, from its start


def middle(rounds: Sequence[Seen]) -> Seen:
    """Each figure's own median; what is no number is the first round's."""
    first = rounds[0]
    chosen: dict[str, Any] = {}
    for field in fields(first):
        values = [getattr(one, field.name) for one in rounds]
        if isinstance(values[0], int):
            chosen[field.name] = round(median(values))
        elif isinstance(values[0], float):
            chosen[field.name] = median(values)
        elif isinstance(values[0], DiskAlone | Commits):
            chosen[field.name] = middle(values)
    return replace(first, **chosen)


@dataclass(frozen=True, slots=True)
class SpoolReport:
    """A whole run. `carried[load][promise]`, `waited` and `filled` in order of the rounds; empty
    where a part was not asked for.
    """

    carried: dict[str, dict[str, list[Carried]]]
    waited: list[Waited]
    filled: list[Filled]
    cores: Cores
    disk: str
    load_before: tuple[float, float, float]
    rounds: int

    def ratios(self) -> dict[str, tuple[float, float, float]]:
        """stored / accepted by load: delivered rec/s, acknowledged rec/s, rec/CPU-s."""
        found = {}
        for load, by_promise in self.carried.items():
            pairs = list(zip(by_promise["stored"], by_promise["accepted"], strict=True))
            found[load] = (
                median(a.delivered_s / s.delivered_s for s, a in pairs),
                median(a.acknowledged_s / s.acknowledged_s for s, a in pairs),
                median(a.cpu_s / s.cpu_s for s, a in pairs),
            )
        return found

    def targets(self) -> list[Target]:
        found = [
            Target(f"stored / accepted, {load}", TARGET_RATIO, ratio, ".2f")
            for load, (ratio, _, _) in self.ratios().items()
        ]
        if self.filled:
            seen = middle(self.filled)
            rss_mib = max(seen.rss_filled, seen.rss_later, seen.rss_peak) / MIB
            size = _size(seen.data_bytes)
            for what, bound, value, form in (
                (f"ready with {size} stored, cold, s", TARGET_READY_S, seen.ready_cold_s, ".2f"),
                ("cores used in the outage", TARGET_OUTAGE_CPU, seen.outage_cpu, ".3f"),
                (f"highest RSS with {size} stored, MiB", TARGET_RSS_MIB, rss_mib, ".0f"),
            ):
                found.append(Target(what, bound, value, form, is_most=True))
        return found

    def lines(self) -> list[str]:
        """The tables, as Markdown."""
        lines = []
        if self.carried:
            lines += ["### `stored` against `accepted`", "", *self._carried_lines(), ""]
        if self.waited:
            lines += ["### Time to `stored`", "", *self._waited_lines(), ""]
        if self.filled:
            size = _size(self.filled[0].data_bytes)
            lines += [f"### {size} in the spool", "", *self._filled_lines(), ""]
        return [*lines[:-1], *(["", *rows] if (rows := verdicts(self.targets())) else [])]

    def section(self) -> str:
        """The section of RESULTS.md."""
        pinned = sorted(self.cores.under_test)
        rows = [
            ("SQLite", sqlite3.sqlite_version),
            ("Disk", self.disk),
            ("Pinned", f"daemon: core {pinned[0]}; the rest: the others"),
            ("Busy before the start", "load average " + ", ".join(map(_one, self.load_before))),
            ("Rounds", f"medians of {self.rounds}, interleaved"),
        ]
        written = (
            "Written by `python -m bench.spool --write`; how to read it: [README.md](README.md)."
        )
        return "\n".join([TITLE, "", written, "", *facts(rows), "", *self.lines()]) + "\n"

    def _carried_lines(self) -> list[str]:
        rows, notes = [], []
        for load, by_promise in self.carried.items():
            for promise, rounds in by_promise.items():
                seen = middle(rounds)
                rows.append(
                    (
                        f"{load}, {promise}",
                        f"{seen.records:,}",
                        f"{seen.records / seen.delivered_s:,.0f}",
                        f"{seen.records / seen.acknowledged_s:,.0f}",
                        f"{seen.records / seen.cpu_s:,.0f}",
                        *seen.made.cells(seen.delivered_s),
                    )
                )
            delivered, acknowledged, cpu = self.ratios()[load]
            note = (
                f"{load}: stored / accepted = {delivered:.2f} in records delivered a second, "
                f"{acknowledged:.2f} acknowledged a second, {cpu:.2f} a CPU-second."
            )
            stored = middle(by_promise["stored"])
            if stored.alone is not None:
                own = stored.records / stored.acknowledged_s
                note += (
                    f" {_alone(stored.alone)}, or {stored.alone_records_per_s:,.0f} records/s: "
                    f"`stored` takes {own / stored.alone_records_per_s:.0%} of that."
                )
            notes.append(f"- {note}")
        heading = (
            "load, promise",
            "records",
            "delivered/s",
            "acknowledged/s",
            "rec/CPU-s",
            "commits/s",
            "frames/commit",
            "commit ms",
        )
        return [*table(heading, rows), "", *notes]

    def _waited_lines(self) -> list[str]:
        seen = middle(self.waited)
        row = (
            f"{seen.records / seen.seconds:,.0f} records/s, 10 clients",
            f"{seen.p50_ms:.2f}",
            f"{seen.p99_ms:.2f}",
            f"{seen.max_ms:.1f}",
            *seen.made.cells(seen.seconds),
            f"{seen.cpu_s / seen.seconds:.2f}",
        )
        heading = (
            "",
            "p50 ms",
            "p99 ms",
            "max ms",
            "commits/s",
            "frames/commit",
            "commit ms",
            "cores",
        )
        late = f"The clients themselves were late by {seen.late_ms_p99:.2f} ms (p99), counted in."
        return [*table(heading, [row]), "", f"{_alone(seen.alone)}. {late}"]

    def _filled_lines(self) -> list[str]:
        seen = middle(self.filled)
        rate, sending_s = seen.data_bytes / MIB / seen.fill_s, seen.drain_s - seen.first_back_s
        rows = [
            ("filled through the daemon, s", f"{seen.fill_s:.1f} ({rate:.0f} MiB/s)"),
            ("files, MiB", f"{seen.file_bytes / MIB:,.0f}"),
            ("RSS when filled, MiB", f"{seen.rss_filled / MIB:.0f}"),
            ("kill -9, then spawn to ready, s", f"{seen.ready_s:.2f}"),
            ("the same, nothing in the page cache, s", f"{seen.ready_cold_s:.2f}"),
            ("RSS when ready, MiB", f"{seen.rss_ready / MIB:.0f}"),
            ("RSS 10 s later, service down, MiB", f"{seen.rss_later / MIB:.0f}"),
            ("cores used in those 10 s", f"{seen.outage_cpu_first:.3f}"),
            ("cores used in the outage after that", f"{seen.outage_cpu:.3f}"),
            ("service back to first record, s", f"{seen.first_back_s:.2f}"),
            ("first to last record, s", f"{sending_s:.1f} ({seen.records / sending_s:,.0f} rec/s)"),
            ("records a CPU-second while draining", f"{seen.records / seen.drain_cpu_s:,.0f}"),
            ("peak RSS, MiB", f"{seen.rss_peak / MIB:.0f}"),
        ]
        return table((f"{seen.records:,} records", ""), rows)


def _alone(alone: DiskAlone) -> str:
    size = (
        f"{alone.append_bytes / 1024:,.0f} KiB"
        if alone.append_bytes > 2048
        else (f"{alone.append_bytes:,} B")
    )
    return (
        f"The disk alone does {alone.appends_per_s:,.0f} appends of {size} a second with fdatasync "
        f"({alone.mib_per_s:,.1f} MiB/s; p50 {alone.p50_ms:.2f} ms, p99 {alone.p99_ms:.2f})"
    )


def _size(byte_count: int) -> str:
    mib = byte_count / MIB
    return f"{mib / 1024:.3g} GiB" if mib >= 1024 else f"{mib:.3g} MiB"


def _one(value: float) -> str:
    return f"{value:.1f}"
