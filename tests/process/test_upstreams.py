"""One daemon before three services: records reach their own, one that is down stops no other, and
what the disk, the metrics, the status page and the dead letters have says whose it is.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.daemon import Daemon, command, get, sandbox, send
from tests.kit.endpoints import AUTHORIZATION, Endpoint, entry
from tests.kit.patience import wait_for
from tests.process.conftest import Run

NAMES = ("default", "eu", "ya")
SPELLINGS = {"default": "orders", "eu": "orders-eu", "ya": "orders-ya"}


@pytest.fixture
def services() -> Iterator[dict[str, Endpoint]]:
    """A service for each upstream, each with a stream `orders`."""
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(
                sandbox("orders", 2, service="yandex" if name == "ya" else "aws")
            )
            for name in NAMES
        }
        found = {name: Endpoint(name, url=url, put_url=url) for name, url in urls.items()}
        of_yandex = AUTHORIZATION["Authorization"].replace("us-east-1", "ru-central1")
        found["ya"].headers["authorization"] = of_yandex
        yield found


def settings(services: dict[str, Endpoint], tmp_path: Path) -> dict[str, object]:
    return {
        "account_id": "000000000000",
        "spool.directory": str(tmp_path / "spool"),
        "default.deadline_ms": 2_000,
        "default.linger_ms": 5,
        "upstreams.eu.region": "eu-central-1",
        "upstreams.eu.account_id": "111111111111",
        "upstreams.eu.endpoint_url": services["eu"].url,
        "upstreams.ya.service": "yandex",
        "upstreams.ya.endpoint_url": services["ya"].url,
        "streams.orders-eu.upstream": "eu",
        "streams.orders-eu.upstream_name": "orders",
        "streams.orders-ya.upstream": "ya",
        "streams.orders-ya.upstream_name": "orders",
    }


def break_down(service: Endpoint, **fault: object) -> None:
    status, text = send("POST", service.url + "/sandbox/faults", json.dumps([fault]))
    assert status == 200, text


def mend(service: Endpoint) -> None:
    assert send("DELETE", service.url + "/sandbox/faults")[0] == 200


def put(daemon: Daemon, stream: str, data: list[bytes], acknowledge: str) -> Any:
    records = [entry(each, f"k{each!r}") for each in data]
    front = Endpoint.of(daemon, acknowledge)
    answer = front.put("PutRecords", StreamName=stream, Records=records)
    return answer.status, answer.members


def read(service: Endpoint) -> Counter[bytes]:
    return Counter(base64.b64decode(each["Data"]) for each in service.read_stream("orders"))


def texts(name: str, count: int) -> list[bytes]:
    return [f"{name}-{number}".encode() for number in range(count)]


def status_of(daemon: Daemon) -> dict[str, dict[str, Any]]:
    status, text = daemon.page("/statusz")
    assert status == 200
    return {each["name"]: each for each in json.loads(text)["upstreams"]}


@pytest.mark.parametrize("way", ["refuses", "hangs"])
def test_one_that_is_down_stops_no_other_and_loses_nothing_over_a_kill(
    run: Run, services: dict[str, Endpoint], tmp_path: Path, way: str
) -> None:
    broken = {"kind": "status", "status": 503} if way == "refuses" else {"kind": "hang"}
    break_down(services["eu"], calls=None, **broken)
    daemon = run(settings(services, tmp_path), service=services["default"].url)
    stored = texts("stored", 300)
    assert put(daemon, "orders-eu", stored, "stored")[0] == 200
    assert put(daemon, "orders-eu", texts("waited", 3), "delivered")[0] != 200
    for name in ("default", "ya"):
        for acknowledge in ("delivered", "stored"):
            code, members = put(daemon, SPELLINGS[name], texts(acknowledge, 100), acknowledge)
            assert (code, members["FailedRecordCount"]) == (200, 0)
    wait_for(
        lambda: daemon.counted("kdaemon_records_delivered_total") == 400 or None,
        "the others' records to be delivered",
    )
    upstreams = status_of(daemon)
    assert {name: each["health"] for name, each in upstreams.items()} == {
        "default": "well",
        "eu": "ill" if way == "refuses" else upstreams["eu"]["health"],
        "ya": "well",
    }
    assert upstreams["eu"]["delivered"] == 0
    metrics = daemon.metrics()
    for name in ("default", "ya"):
        assert metrics.total("kdaemon_records_delivered_total", upstream=name) == 200
    assert get(daemon.address("admin") + "/readyz")[0] == 200
    daemon.close()  # a kill

    again = run(settings(services, tmp_path), service=services["default"].url)
    assert again.counted("kdaemon_records_recovered_total", upstream="eu", stream="orders") == 300
    mend(services["eu"])
    wait_for(
        lambda: again.counted("kdaemon_records_delivered_total", upstream="eu") >= 300 or None,
        "what was stored for the one that was down",
    )
    found = read(services["eu"])
    assert set(stored) <= set(found)
    assert again.stop() == 0
    for name in ("default", "ya"):
        expected = Counter(texts("delivered", 100) + texts("stored", 100))
        assert read(services[name]) == expected


@pytest.mark.parametrize(
    ("upstream", "spelling", "stored_as"),
    [("eu", "orders-eu", "@eu/orders"), ("default", "orders-us", "orders")],
)
def test_a_dead_letter_says_whose_it_is_and_is_replayed_there(
    run: Run,
    services: dict[str, Endpoint],
    tmp_path: Path,
    upstream: str,
    spelling: str,
    stored_as: str,
) -> None:
    """Also where the configuration calls by its name a stream of another upstream."""
    others = [each for each in NAMES if each != upstream]
    break_down(services[upstream], kind="status", status=503, calls=None)
    given = settings(services, tmp_path) | {
        f"streams.{spelling}.max_age_ms": 500,
        "streams.orders-us.upstream_name": "orders",
        "streams.orders.upstream": "ya",
        "streams.orders-ya.upstream_name": "others",
    }
    daemon = run(given, service=services["default"].url)
    assert put(daemon, spelling, [b"late"], "stored")[0] == 200
    wait_for(
        lambda: daemon.counted("kdaemon_records_dead_total", upstream=upstream) or None,
        "the record to be too old",
    )
    daemon.wait_settled()
    directory = str(tmp_path / "spool")

    def letters(*arguments: str) -> str:
        done = command("dead-letters", *arguments, "--directory", directory)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (letter,) = [json.loads(line) for line in letters("list", "--json").splitlines()]
    assert (letter["upstream"], letter["stream"]) == (upstream, stored_as)
    assert stored_as in letters("list")
    mend(services[upstream])
    letters("replay", "--endpoint", daemon.url)
    assert read(services[upstream]) == Counter([b"late"])
    assert not any(read(services[each]) for each in others)
    assert letters("list", "--json") == ""
