"""Why the records of a command do not go out: who is asked, and what is told."""

from typing import Any

import pytest

from kdaemon.cli.common import SYSTEM_SOCKET
from kdaemon.cli.screen import why_waits
from kdaemon.cli.way import Way, is_of
from kdaemon.config.load import load_config

FAILING = {"code": "EndpointConnectionError", "message": "nobody listens"}


def page(**stream: Any) -> dict[str, Any]:
    return {"streams": [{"name": "orders", "upstream": "default", "buffered": 3, **stream}]}


@pytest.mark.parametrize(
    "stream", ["orders", "arn:aws:kinesis:eu-central-1:123812389012:stream/orders"]
)
@pytest.mark.parametrize("kind", ["hold", "failing", "unavailable"])
def test_what_is_wrong_with_the_stream_is_told_in_one_line(stream: str, kind: str) -> None:
    told = why_waits(page(**{kind: FAILING}), stream)
    assert told is not None
    assert told.startswith("orders ")
    assert "EndpointConnectionError: nobody listens" in told
    assert "\n" not in told


def test_a_stream_of_another_upstream_is_another_one() -> None:
    of_eu = page(upstream="eu", failing=FAILING)
    assert why_waits(of_eu, "@eu/orders") is not None
    assert why_waits(page(failing=FAILING), "@eu/orders") is None
    assert why_waits(page(failing=FAILING), "other") is None


def test_where_nothing_is_wrong_the_line_says_so() -> None:
    assert why_waits(page(), "orders") == (
        "orders has no trouble, and 3 records of it are on their way"
    )
    full = {**page(), "memory": {"is_full": True}, "spool": {"trouble": "disk is full"}}
    told = why_waits(full, "orders")
    assert told is not None
    assert told.startswith("the spool takes nothing: disk is full (")
    assert "; memory is full" in told


def test_where_each_line_names_its_stream_the_troubles_of_all_are_told() -> None:
    two = {"streams": [*page()["streams"], *page(name="clicks", failing=FAILING)["streams"]]}
    told = why_waits(two, None)
    assert told is not None
    assert told.startswith("clicks ")
    assert "orders" not in told
    assert why_waits(page(), None) == "no stream has trouble, and 3 records are on their way"


@pytest.mark.parametrize(
    ("text", "socket", "endpoint", "is_own"),
    [
        ("listen.unix = '/run/a.sock'", "/run/../run/a.sock", None, True),
        ("listen.unix = '/run/a.sock'", "/run/b.sock", None, False),
        ("listen.unix = 'auto'", SYSTEM_SOCKET, None, True),
        ("listen.unix = ''", "/run/a.sock", None, False),
        ("listen.http = '127.0.0.1:8123'", None, "127.0.0.1:8123", True),
        ("listen.http = '127.0.0.1:8123'", None, "http://127.0.0.1:8123/", True),
        ("listen.http = '127.0.0.1:8123'", None, "127.0.0.1:8124", False),
        ("listen.http = '127.0.0.1:8123'", None, "10.0.0.5:8123", False),
        ("listen.http = '127.0.0.1:8123'", None, "localhost:8123", True),
        ("listen.http = 'localhost:8123'", None, "http://[::1]:8123", True),
        ("listen.http = '127.0.0.2:8123'", None, "127.0.0.1:8123", False),
        ("listen.http = '127.0.0.1:8123'", None, "http://me:x@127.0.0.1:8123", True),
        ("listen.http = '127.0.0.1:80'", None, "http://127.0.0.1", True),
        ("listen.http = '127.0.0.1:8123'", None, "127.0.0.1:port", False),
        ("listen = {http = '0.0.0.0:8123', insecure = true}", None, "localhost:8123", True),
        ("listen = {http = '0.0.0.0:8123', insecure = true}", None, "10.0.0.5:8123", False),
        ("listen.http = '[::1]:8123'", None, "http://[::1]:8123", True),
        ("listen.http = ''", None, "127.0.0.1:8123", False),
    ],
)
def test_only_the_daemon_that_got_the_records_is_asked(
    text: str, socket: str | None, endpoint: str | None, is_own: bool
) -> None:
    assert is_of(load_config(text=text), socket, endpoint) is is_own


async def test_a_configuration_that_is_wrong_or_names_another_daemon_tells_nothing(
    tmp_path: Any,
) -> None:
    file = tmp_path / "k.toml"
    for text in ("no TOML", "listen.http = '127.0.0.1:1'"):
        file.write_text(text)
        assert await Way(None, "127.0.0.1:2", str(file)).look("s") is None
