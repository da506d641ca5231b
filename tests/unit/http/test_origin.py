"""Web pages are kept out of TCP listeners, by the three headers that a browser sends for them."""

import pytest

from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.origin import Gate, gate_of
from kdaemon.http.server import UNIX_GATE
from tests.unit.http.harness import Harness, Make, statuses

LOOPBACK = gate_of("127.0.0.1")


def gated(harness: Make, gate: Gate) -> Harness:
    return harness(hub=Hub(ConnectionLimits(), gate=gate), echoes=True)


def post(*headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} / HTTP/1.1", *headers, "Content-Length: 2", "", "hi"]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[(host, 200) for host in ("localhost", "localhost:8990", "LOCALHOST:1", "a.localhost")],
        *[(host, 200) for host in ("127.0.0.1:8990", "[::1]:8990", "10.1.2.3", "0.0.0.0:1")],
        *[(host, 403) for host in ("x", "x.example", "x.example:8990", "localhost.x.example")],
        *[(host, 403) for host in ("127.0.0.1.x.example", "0x7f000001", "127.1", "")],
        *[
            (host, 400)
            for host in ("a b", "a/b", "localhost:x", "user@localhost", "[::1", "a,b:1:2")
        ],
    ],
)
async def test_on_loopback_a_host_is_an_address_or_localhost(
    harness: Make, host: str, status: int
) -> None:
    one = gated(harness, LOOPBACK)
    assert statuses(one.feed(post(f"Host: {host}"))) == [status]
    assert bool(one.requests) == (status == 200)
    assert one.hub.counters.refused["foreign"] == (status == 403)


async def test_names_can_be_configured(harness: Make) -> None:
    gate = gate_of("127.0.0.1", ("Kdaemon.internal",))
    assert statuses(gated(harness, gate).feed(post("Host: kdaemon.INTERNAL:80"))) == [200]
    assert statuses(gated(harness, gate).feed(post("Host: x.example"))) == [403]


async def test_beyond_loopback_names_are_checked_only_where_some_are_configured(
    harness: Make,
) -> None:
    foreign = post("Host: x.example")
    assert statuses(gated(harness, gate_of("0.0.0.0")).feed(foreign)) == [200]
    assert statuses(gated(harness, gate_of("10.0.0.1", ("k",))).feed(foreign)) == [403]
    assert statuses(gated(harness, gate_of("10.0.0.1", ("k",))).feed(post("Host: k"))) == [200]


@pytest.mark.parametrize("gate", [LOOPBACK, gate_of("0.0.0.0"), UNIX_GATE])
@pytest.mark.parametrize(
    "hosts", [(), ("Host: localhost", "Host: localhost"), ("Host: a", "host: b")]
)
async def test_there_is_one_host_on_every_listener(
    harness: Make, gate: Gate, hosts: tuple[str, ...]
) -> None:
    one = gated(harness, gate)
    assert statuses(one.feed(post(*hosts))) == [400]
    assert not one.requests


async def test_a_target_in_absolute_form_is_what_counts(harness: Make) -> None:
    line = b"POST http://%b/ HTTP/1.1\r\nHost: %b\r\nContent-Length: 0\r\n\r\n"
    assert statuses(gated(harness, LOOPBACK).feed(line % (b"x.example", b"localhost"))) == [403]
    assert statuses(gated(harness, LOOPBACK).feed(line % (b"localhost", b"x.example"))) == [200]


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("Origin: https://x.example",), 403),
        (("Origin: null",), 403),
        (("Origin: http://localhost:8991",), 403),  # another port is another origin
        (("Origin: http://127.0.0.1:8990",), 403),
        (("ORIGIN: file://",), 403),
        (("Origin: ",), 403),
        (("Origin: http://localhost:8990", "Content-Type: application/json"), 200),
        (("Origin: http://LOCALHOST:8990", "Content-Type: application/x-ndjson"), 200),
        (("Sec-Fetch-Site: cross-site",), 403),
        (("Sec-Fetch-Site: same-site",), 403),
        (("Sec-Fetch-Site: None",), 200),
        (("Sec-Fetch-Site: same-origin",), 200),
        (("Sec-Fetch-Site: same-origin", "Origin: https://x.example"), 403),
        (("Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"), 400),
        (("Origin: http://localhost:8990", "Origin: https://x.example"), 400),
        *[
            (("Origin: http://localhost:8990", f"Content-Type: {each}"), 415)
            for each in (
                "text/plain",
                "TEXT/plain;charset=UTF-8",
                "multipart/form-data; boundary=x",
                "application/x-www-form-urlencoded",
                "",
            )
        ],
        (("Origin: http://localhost:8990",), 415),
        (("Content-Type: text/plain",), 200),  # no page: curl, for one
    ],
)
async def test_a_page_of_another_site_is_not_served(
    harness: Make, headers: tuple[str, ...], status: int, step: int
) -> None:
    one = gated(harness, LOOPBACK)
    sent = post("Host: localhost:8990") + post("Host: localhost:8990", *headers)
    answers = b"".join(one.feed(sent[at : at + step]) for at in range(0, len(sent), step))
    assert statuses(answers) == [200, status]
    assert len(one.requests) == (2 if status == 200 else 1)


async def test_no_page_can_reach_a_unix_socket(harness: Make) -> None:
    headers = ("Host: any.name", "Origin: https://x.example", "Sec-Fetch-Site: cross-site")
    assert statuses(gated(harness, UNIX_GATE).feed(post(*headers))) == [200]


async def test_a_get_of_a_page_is_refused_as_well(harness: Make) -> None:
    one = gated(harness, LOOPBACK)
    sent = post("Host: localhost", "Origin: https://x.example", method="GET")
    assert statuses(one.feed(sent)) == [403]


async def test_a_host_that_was_good_does_not_make_the_next_one_good(harness: Make) -> None:
    one = gated(harness, LOOPBACK)
    good, bad = post("Host: localhost"), post("Host: x.example")
    assert statuses(one.feed(good)) == [200]
    assert statuses(one.feed(good)) == [200]
    assert statuses(one.feed(bad)) == [403]
    other = gated(harness, LOOPBACK)
    assert statuses(other.feed(good)) == [200]
    assert statuses(other.feed(post("A: b"))) == [400], "the Host is missing"
