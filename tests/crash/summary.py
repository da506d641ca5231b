"""A report as people read it: a table, and what is wrong."""

from collections import Counter

from tests.crash.report import Report
from tests.crash.verdict import SETTLE_WINDOW_S, SHORT_S


def summary(report: Report) -> str:
    verdict = report.verdict
    by_point = Counter(kill.point for kill in report.kills)
    widened_count = sum(kill.slack_s >= 1.0 for kill in report.kills)
    starts = sorted(report.starts_s)
    rows = {
        "seed": str(report.seed),
        "duration": f"{report.duration_s:,.0f} s",
        "kills": f"{len(report.kills) - report.loss_count:,}",
        "losses of power": f"{report.loss_count:,}",
        "- changes of files and names that were not synced then": f"{report.forgotten_count:,}",
        **{f"- {point}": f"{count:,}" for point, count in sorted(by_point.items())},
        "points not passed in time": ", ".join(report.missed) or "none",
        "records sent": f"{report.sent_count:,}",
        "acknowledged": f"{verdict.acknowledged_count:,}",
        "delivered": f"{verdict.taken_count:,}",
        "in calls to the service": f"{report.attempt_count:,}",
        "dead letters": f"{verdict.letter_count:,}",
        "refused": ", ".join(f"{code} {count:,}" for code, count in report.refused.most_common())
        or "none",
        "lost": f"{len(verdict.lost):,}",
        f"in flight at a kill, or answered up to {SETTLE_WINDOW_S} s before": (
            f"{verdict.exposed_count:,}"
        ),
        f"- sent twice: in flight, or answered up to {SHORT_S} s before": (
            f"{verdict.short_repeat_count:,}"
        ),
        "- sent twice: answered earlier": f"{verdict.long_repeat_count:,}",
        "sent twice: the service did not say that it took them": f"{verdict.untold_repeat_count:,}",
        "oldest answer that a kill hid": f"{verdict.oldest_repeat_s * 1000:.0f} ms"
        f" (allowed: {SETTLE_WINDOW_S * 1000:.0f}, and more where the machine paused)",
        "longest pause of the machine": f"{report.lag_s * 1000:.0f} ms",
        "kills whose window it widened by a second or more": f"{widened_count:,}",
        "start to ready": f"median {starts[len(starts) // 2]:.2f} s, most {starts[-1]:.2f} s"
        if starts
        else "-",
        "spool on disk, most": f"{report.spool_bytes_most / 2**20:.1f} MiB",
        "last start to last delivery": f"{report.drained_s:.1f} s",
    }
    lines = ["", "| | |", "|---|--:|", *(f"| {name} | {text} |" for name, text in rows.items())]
    lines += ["", *(f"PROBLEM: {problem}" for problem in report.problems)]
    return "\n".join(lines)
