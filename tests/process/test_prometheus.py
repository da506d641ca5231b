"""A real Prometheus scrapes a real daemon: each query of the dashboard has an answer, and the rules
say of a stream on hold what they should. Skipped, visibly, where Prometheus is not here.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.kit.daemon import Daemon, running, sandbox
from tests.kit.endpoints import Endpoint
from tests.kit.patience import wait_for
from tests.kit.prometheus import Prometheus, scraping
from tests.unit.deploy.test_alerts import RULES, dashboard_queries, rules

pytestmark = pytest.mark.prometheus

VARIABLES = {"job": ".*", "instance": ".*", "upstream": ".*", "stream": ".*"}

# What a daemon that is well, without TLS and with keys that do not end, has no series for.
MAY_BE_EMPTY = re.compile(r"> 0\)?$|> 0 and|deriv\(|kdaemon_hot_|_tls_|credentials_expire")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that has delivered and stored, and has a stream on hold."""
    directory = tmp_path_factory.mktemp("prometheus")
    settings = {
        "spool.directory": str(directory / "spool"),
        "streams.missing.acknowledge": "accepted",
    }
    with sandbox() as service, running(directory, settings, service=service) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def prometheus(daemon: Daemon) -> Iterator[Prometheus]:
    target = daemon.address("admin").removeprefix("http://")
    with scraping([target], RULES) as prometheus:
        scrapes = 0
        while scrapes < 3:  # a rate needs two, and the time of a call comes between them
            for stream in ("demo", "missing"):
                lines = "".join(f'{{"data":"{number}"}}\n' for number in range(100))
                for promise in ("delivered", "stored") if stream == "demo" else ("accepted",):
                    front = Endpoint.of(daemon, promise)
                    assert front.put_lines(stream, lines.encode()).status == 200
            wait_for(partial(newer, prometheus, scrapes), "a scrape")
            scrapes = scrape_count(prometheus)
        yield prometheus


def scrape_count(prometheus: Prometheus) -> int:
    found = prometheus.query("count_over_time(kdaemon_build_info[1h])")
    return int(found[0]["value"][1]) if found else 0


def newer(prometheus: Prometheus, than: int) -> bool | None:
    return scrape_count(prometheus) > than or None


def filled_in(query: str) -> str:
    """As Grafana sends it."""
    for name, value in {**VARIABLES, "__rate_interval": "1m"}.items():
        query = query.replace(f"${name}", value)
    return query


@pytest.mark.parametrize("query", dashboard_queries())
def test_a_query_of_the_dashboard_has_an_answer(prometheus: Prometheus, query: str) -> None:
    found = prometheus.query(filled_in(query))
    assert found or MAY_BE_EMPTY.search(query), query
    for series in found:
        assert series["value"][1] != "+Inf", query


def test_every_label_that_the_dashboard_lists_has_values(prometheus: Prometheus) -> None:
    for name, value in (("job", "kdaemon"), ("upstream", "default"), ("stream", "demo")):
        assert value in prometheus.ask(f"label/{name}/values")


def test_the_rules_are_evaluated_and_one_tells_of_the_stream_on_hold(
    prometheus: Prometheus,
) -> None:
    def evaluated() -> dict[str, Any] | None:
        groups = prometheus.ask("rules")["groups"]
        told = {rule["name"]: rule for group in groups for rule in group["rules"]}
        return told if all(rule["health"] == "ok" for rule in told.values()) else None

    told = wait_for(evaluated, "the rules to be evaluated")
    assert told.keys() == {rule["alert"] for rule in rules()}

    def pending() -> dict[str, Any] | None:
        alerts = prometheus.ask("alerts")["alerts"]
        named = {each["labels"]["alertname"]: each for each in alerts}
        return named if "KdaemonStreamOnHold" in named else None

    alerts = wait_for(pending, "the alert of a stream on hold")
    labels = alerts["KdaemonStreamOnHold"]["labels"]
    assert (labels["upstream"], labels["stream"]) == ("default", "missing")
    wrong = {"KdaemonRecordsUnaccounted", "KdaemonRecordsDropped", "KdaemonDown"} & alerts.keys()
    assert not wrong
