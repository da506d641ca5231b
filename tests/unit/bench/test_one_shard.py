"""The figures of workers on one shard, from what the daemons count."""

from bench.one_shard import Case, Counted, Seen, counted
from tests.kit.daemon import Metrics

NAMES = ("delivered", "attempts", "throttled")


def scrape(*values: tuple[int, int, int], label: str = "worker") -> Metrics:
    lines = []
    for at, name in enumerate(NAMES):
        lines.append(f"# TYPE kdaemon_records_{name}_total counter")
        for number, counts in enumerate(values, 1):
            labels = f'{{stream="bench",{label}="{number}"}}'
            lines.append(f"kdaemon_records_{name}_total{labels} {counts[at]}")
    return Metrics("\n".join(lines) + "\n")


def test_each_worker_is_counted_and_a_lone_daemon_as_a_whole() -> None:
    metrics = scrape((300, 310, 10), (500, 500, 0))
    assert counted(metrics, Case(1, 2)) == [Counted(300, 310, 10), Counted(500, 500, 0)]
    assert counted(metrics, Case(1, 1)) == [Counted(800, 810, 10)]


def test_a_row_tells_the_use_of_the_quota_and_each_part() -> None:
    seen = Seen((Counted(6_000, 6_100, 100), Counted(2_000, 2_100, 100)), seconds=10.0)
    assert seen.row(Case(1, 2)) == ("2 of 2 workers", "80.0%", "2.44%", "75%, 25%", "0.800")
    assert seen.row(Case(2, 1))[0] == "2 daemons"


def test_who_is_busy_alone_is_told_so() -> None:
    assert str(Case(1, 4, is_one_client=True)) == "1 of 4 workers"
    assert str(Case(1, 1)) == "1 daemon"
