"""The bench's tables: medians, targets, and a configuration that the daemon takes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.host import choose_cores
from bench.report import LoneClient, Outcome, Report, median_of
from bench.table import growth
from bench.targets import ORDINARY, UNPACED, check
from kdaemon.config import StreamConfig
from kdaemon.config.load import load_config
from tests.kit.daemon import LISTENERS, Metrics, environment, write_config


def outcome(cpu_s: float, *, idle_mib: int | None = None, ready_s: float | None = None) -> Outcome:
    return Outcome(
        records=1_000_000,
        seconds=cpu_s * 2,
        cpu_s=cpu_s,
        records_per_call=500.0,
        peak_rss_bytes=100 * 2**20,
        idle_rss_bytes=None if idle_mib is None else idle_mib * 2**20,
        ready_s=ready_s,
    )


def report(bulk_cpu_s: float, peer_cpu_s: float, *, idle_mib: int = 60) -> Report:
    return Report(
        titles={"a": "the daemon", "aiobotocore-500": "the peer"},
        outcomes={
            "a": [outcome(bulk_cpu_s, idle_mib=idle_mib, ready_s=1.0)] * 3,
            "aiobotocore-500": [outcome(peer_cpu_s)] * 3,
        },
        lone=LoneClient((0.1, 0.2), (1.1, 2.0)),
        cores=choose_cores({0, 1}),
        rounds=3,
        map_mode="static",
        load_before=0.0,
    )


def test_each_figure_is_its_own_median() -> None:
    middle = median_of([outcome(9.0), outcome(4.0), outcome(5.0)])
    assert middle.cpu_s == 5.0
    assert middle.records_per_cpu_s == 200_000
    assert middle.records_per_s == 100_000
    assert middle.idle_rss_bytes is None


def test_targets_that_are_reached_say_so() -> None:
    assert all(each.is_met for each in report(4.0, 20.0).targets())


@pytest.mark.parametrize(
    ("measured", "missed"),
    [
        (report(6.0, 30.0), ["(a) records per CPU-second"]),
        (report(4.0, 8.0), ["(a) fewer CPU-seconds than aiobotocore, times"]),
        (report(4.0, 20.0, idle_mib=81), ["idle RSS, MiB"]),
    ],
)
def test_a_missed_target_is_named(measured: Report, missed: list[str]) -> None:
    assert [each.what for each in measured.targets() if not each.is_met] == missed


def squeezed(table: str) -> str:
    """Without what makes its columns stand straight."""
    return re.sub(" +", " ", table)


def test_the_page_holds_every_scenario_and_target() -> None:
    page = squeezed(report(4.0, 20.0).markdown())
    assert "| the daemon | 1,000,000 | 250,000 |" in page
    assert "| the peer |" in page
    assert page.count("| reached |") == 5
    assert "1.00 ms added" in page


def test_the_process_under_test_has_a_core_of_its_own_where_there_are_two() -> None:
    assert choose_cores({2, 3}).is_separated
    assert not choose_cores({0}).is_separated
    many = choose_cores({0, 1, 2, 3})
    assert len({many.under_test, many.sink, many.load}) == 3


def test_the_daemon_of_the_bench_sees_nobodys_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("KDAEMON_LISTEN_HTTP", "0.0.0.0:1")
    env = environment(AWS_REGION="eu-north-1")
    assert "AWS_PROFILE" not in env
    assert "KDAEMON_LISTEN_HTTP" not in env
    assert env["AWS_ACCESS_KEY_ID"] == ORDINARY["AWS_ACCESS_KEY_ID"] == "test"
    assert env["AWS_REGION"] == "eu-north-1"


def test_metrics_are_read_with_and_without_labels() -> None:
    text = "# TYPE a gauge\na 1.5\n# TYPE b counter\n"
    text += 'b_total{outcome="ok",x="y"} 2e3\nb_total{outcome="bad",x="y"} 1\n'
    metrics = Metrics(text)
    assert metrics.sum("a") == 1.5
    assert metrics.total("b_total") == 2001
    assert metrics.total("b_total", outcome="ok") == 2000
    with pytest.raises(AssertionError, match="no metric c"):
        metrics.total("c_total")


def test_the_configuration_of_the_bench_is_one_the_daemon_takes(tmp_path: Path) -> None:
    config = load_config(text=write_config(tmp_path, UNPACED, LISTENERS).read_text())
    assert config.default.shard_records_per_second == config.default.shard_bytes_per_second == 10**9
    assert replace(config.default, shard_records_per_second=1000, shard_bytes_per_second=2**20) == (
        StreamConfig()
    )


def test_a_load_that_lost_a_record_has_no_figure() -> None:
    check("all", {"records": 3, "failed": 0}, 3, 3)
    for failed, arrived in ((1, 3), (0, 2)):
        with pytest.raises(RuntimeError, match="no figure is given"):
            check("some", {"records": 3, "failed": failed}, 3, arrived)


def test_growth_says_how_flat_it_is() -> None:
    table = growth("instructions a record, by shards", (1, 1_000), {"PutRecords": (16_000, 20_000)})
    heading, _, row = squeezed(table).splitlines()
    assert heading == "| instructions a record, by shards | 1 | 1,000 | largest / smallest |"
    assert row == "| PutRecords | 16,000 | 20,000 | 1.25 |"


def test_growth_from_nothing_has_no_ratio() -> None:
    table = growth("idle", (0, 1), {"daemon": (0.0, 0.5)})
    assert squeezed(table).endswith("| daemon | 0.00 | 0.50 | - |")
