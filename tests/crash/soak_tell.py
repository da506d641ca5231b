"""Figures of a soak as people read them, and which of them are a defect: memory that grows."""

import statistics
from collections.abc import Iterator, Sequence

from tests.crash.trend import HOUR_S, Trend, trend_of
from tests.crash.watch import MIB, YOUNG_S, Seen

WARM_S = 120.0  # of the long life before its trends count
JUDGED_S = 240.0  # that it lasts then, at least, for growth to be a defect
RSS_MIB_PER_HOUR = 4.0  # beyond it memory leaks, where a life is long enough to tell
RSS_MIB = 12.0  # of growth in all that a life may show: caches and arenas fill up
FILES = 4.0  # the same of descriptors that are no sockets
HEAD = (
    "| begun by, minutes, ended by | RSS at first, MiB | most | most above held | at its end"
    " | files | sockets | /livez p50 ms | p99 | worst | worst scrape ms |\n|---|" + "--:|" * 10
)


def row(seen: Seen) -> str:
    """One life."""
    rss = [each.rss / MIB for each in seen.samples]
    above = max((each.rss - each.held) / MIB for each in seen.samples)
    probes = sorted(each * 1000 for each in seen.probes_s) or [0.0]
    files, sockets = seen.samples[-1].files, max(each.sockets for each in seen.samples)
    return (
        f"| {seen.begun}, {seen.samples[-1].at_s / 60:.1f}, {seen.ended}"
        f" | {rss[0]:.0f} | {max(rss):.0f} | {above:.0f} | {rss[-1]:.0f} | {files} | {sockets}"
        f" | {probes[len(probes) // 2]:.1f} | {probes[len(probes) * 99 // 100]:.0f}"
        f" | {probes[-1]:.0f} | {max(seen.scrapes_s) * 1000:.0f} |"
    )


def _rss(seen: Seen) -> Trend | None:
    return trend_of(seen.floor(WARM_S, lambda each: each.rss / MIB))


def _above(seen: Seen) -> Trend | None:
    return trend_of(seen.floor(WARM_S, lambda each: (each.rss - each.held) / MIB))


def _files(seen: Seen) -> Trend | None:
    return trend_of(seen.floor(WARM_S, lambda each: float(each.files)))


def trends(seen: Seen, lives: Sequence[Seen]) -> dict[str, str]:
    """Of the long life, and of all lives at one age."""
    young = [mib for each in lives if (mib := each.young_mib()) is not None]
    half = len(young) // 2
    first, last = (
        f"{statistics.median(part):.0f}" if part else "-" for part in (young[:half], young[half:])
    )
    kinds = {
        "RSS of the long life": (_rss(seen), "MiB"),
        "the same above what was held": (_above(seen), "MiB"),
        "files of the long life, no sockets": (_files(seen), "files"),
    }
    return {
        **{
            name: "too short to tell" if trend is None else trend.text(unit)
            for name, (trend, unit) in kinds.items()
        },
        "lines of its log a minute": f"{seen.log_lines / max(1.0, seen.samples[-1].at_s) * 60:.0f}",
        f"RSS of lives {YOUNG_S:g} s old": (
            f"{len(young)} lives: median of the first half {first} MiB, of the second {last} MiB"
        ),
    }


def judge_growth(seen: Seen) -> Iterator[str]:
    """What grows for certain, and by more than it may."""
    rss, files = _rss(seen), _files(seen)
    if rss is not None and rss.span_s >= JUDGED_S:
        allowed = max(RSS_MIB, RSS_MIB_PER_HOUR * rss.span_s / HOUR_S)
        if rss.growth > allowed:
            yield f"memory grows: {rss.text('MiB')}; allowed are {allowed:.0f} MiB in all"
    if files is not None and files.span_s >= JUDGED_S and files.growth > FILES:
        yield f"open files grow: {files.text('files')}; allowed are {FILES:g} in all"
