"""A daemon whose metrics go to its log: what the lines add up to is what /metrics says."""

import contextlib
import urllib.error
import urllib.request

from kdaemon.observe.emf import OF_A_SUM
from kdaemon.observe.table import ACCOUNTS, DELIVERY, Kind
from tests.kit.emf import read_line, summed
from tests.kit.patience import wait_for
from tests.process.conftest import Run


def test_the_lines_of_a_life_add_up_to_the_metrics(run: Run) -> None:
    daemon = run({"metrics.emf_namespace": "team/kdaemon"})
    for stream, record_count in (("demo", 40), ("no-such", 3)):
        body = "".join(f'{{"data":"{number}"}}\n' for number in range(record_count))
        request = urllib.request.Request(
            f"{daemon.url}/v1/streams/{stream}/records", data=body.encode()
        )
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=60).close()
    daemon.wait_settled()
    refreshes = "kdaemon_shard_map_refreshes_total"  # the first may come after the records went
    wait_for(lambda: daemon.counted(refreshes, stream="demo") or None, "the shards of demo")
    metrics = daemon.metrics()
    assert daemon.stop() == 0
    told = [read_line(text) for text in daemon.lines if text.startswith('{"_aws"')]
    assert {line.members["_aws"]["CloudWatchMetrics"][0]["Namespace"] for line in told} == {
        "team/kdaemon"
    }
    assert any(not line.labels for line in told), "there is a line of the daemon"
    found = summed(told)
    for metric in (*ACCOUNTS, *DELIVERY):
        if metric.kind is Kind.COUNTER:
            told_apart = metric.label not in {"", *OF_A_SUM}
            names = [name for name in found if name.startswith(f"{metric.name}_")]
            total = sum(found[name] for name in (names if told_apart else [metric.name]))
            assert total == metrics.total(metric.name), metric.name
    delivered = summed(told, upstream="default", stream="demo")["kdaemon_records_delivered_total"]
    assert delivered == metrics.total("kdaemon_records_delivered_total", stream="demo") == 40
    assert found["kdaemon_delivery_seconds_count"] == 40
