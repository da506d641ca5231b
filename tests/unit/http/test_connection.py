"""The HTTP listener against a transport in memory, and over real sockets on both loops."""

import asyncio
import gc
import itertools
import json
import re
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.memory import ByteBudget
from kdaemon.base.steps import Steps
from kdaemon.http.arrivals import Arrivals
from kdaemon.http.connection import HttpProtocol
from kdaemon.http.counters import TIME_OUTS
from kdaemon.http.hub import ConnectionLimits, Hub
from kdaemon.http.request import CBOR_ALONE, HttpRequest, speaks_cbor
from kdaemon.http.server import ConnectionServer
from kdaemon.http.turns import PIECES_MAX, soon, work_in_turns
from kdaemon.wire import cbor
from tests.kit.both_loops import on_both_loops
from tests.kit.depth import examples
from tests.kit.doors import FakeTransport
from tests.kit.listening import serve_http
from tests.kit.patience import PATIENCE_S, until
from tests.unit.http.harness import GET, HEAD, Harness, Make, statuses

POST = (
    b"POST /a/b?c=d HTTP/1.1\r\nHost: localhost\r\n"
    b"X-Amz-Target: T\r\nContent-Length: 5\r\n\r\nhello"
)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"


async def test_a_request_reaches_the_handler_whole(harness: Make) -> None:
    one = harness()
    one.feed(POST)
    (request,) = one.requests
    assert (request.method, request.path, request.query) == ("POST", "/a/b", "c=d")
    assert request.headers == {
        b"host": b"localhost",
        b"x-amz-target": b"T",
        b"content-length": b"5",
    }
    assert request.body == b"hello"


async def test_the_answer_has_its_length_type_and_headers(harness: Make) -> None:
    one = harness()
    one.feed(POST)
    one.requests[0].respond(400, b"{}", content_type=b"text/x", headers=((b"A", b"1"),))
    assert one.transport.take() == (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/x\r\nContent-Length: 2\r\nA: 1\r\n\r\n{}"
    )


@pytest.mark.parametrize("request_bytes", [POST, GET, CHUNKED], ids=["post", "get", "chunked"])
async def test_bytes_one_at_a_time_are_the_same_request(
    harness: Make, request_bytes: bytes
) -> None:
    whole, split = harness(echoes=True), harness(echoes=True)
    expected = whole.feed(request_bytes)
    got = b"".join(split.feed(request_bytes[i : i + 1]) for i in range(len(request_bytes)))
    assert got == expected
    assert split.headers == whole.headers
    assert split.bodies == whole.bodies
    assert split.hub.bodies.bytes_taken == 0


async def test_headers_of_one_request_are_not_headers_of_the_next(harness: Make) -> None:
    one = harness(echoes=True)
    assert statuses(one.feed(CHUNKED + GET)) == [200, 200]
    assert one.bodies[0] == b"abcdefg"
    assert one.headers[1] == {b"host": b"localhost"}


async def test_pipelined_answers_leave_in_request_order_whatever_the_order_they_come(
    harness: Make,
) -> None:
    one = harness()
    one.feed(GET * 4)
    for i in (2, 1, 3):
        one.requests[i].respond(200, b"answer %d" % i)
        assert not one.transport.written
    one.requests[0].respond(200, b"answer 0")
    assert re.findall(rb"answer \d", one.transport.take()) == [b"answer %d" % i for i in range(4)]


async def test_a_burst_of_pipelined_requests_is_answered_in_one_write(harness: Make) -> None:
    one = harness(echoes=True)
    assert statuses(one.feed(GET * 50)) == [200] * 50
    assert one.transport.write_count == 1


@pytest.mark.parametrize("harness", ["plain"], indirect=True)  # of TLS: test_tls.py
async def test_a_page_that_many_ask_for_is_not_copied_for_each(
    harness: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty clients that do not read their 1.6 MB kept 200 MB."""
    page = bytes(1_000_000)
    for _ in range(2):
        one = harness()
        written: list[bytes] = []
        monkeypatch.setattr(one.transport, "write", written.append)
        one.feed(GET + b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for request in one.requests:
            request.respond(200, page)
        assert any(piece is page for piece in written)
        assert sum(map(len, written)) < len(page) + 500
        assert b"".join(written).count(b"Content-Length: 1000000\r\n") == 2


async def test_a_full_pipeline_stops_reading_and_goes_on_when_answers_leave(harness: Make) -> None:
    one = harness(ConnectionLimits(pipeline_max=4))
    one.feed(GET * 10)
    assert len(one.requests) == 4
    assert not one.transport.reads()
    for i in range(10):
        one.requests[i].respond(200, b"%d" % i)
    assert statuses(one.transport.take()) == [200] * 10
    assert one.transport.reads()


async def test_a_huge_burst_is_handed_over_no_faster_than_the_client_reads_answers(
    harness: Make,
) -> None:
    one = harness()
    one.transport.pauses_when_written = 100_000
    answer = b"x" * 10_000

    def answer_at_once(request: HttpRequest) -> None:
        request.respond(200, answer)

    one.on_request = answer_at_once
    one.protocol.data_received(GET * 10_000)
    assert len(one.transport.written) < 300_000
    assert not one.transport.reads()
    one.protocol.resume_writing()
    while len(one.requests) < 10_000:
        assert not one.transport.reads()
        before = len(one.requests)
        await asyncio.sleep(0)
        assert before < len(one.requests) <= before + PIECES_MAX
    assert one.transport.reads()


async def test_a_second_answer_raises_and_sends_nothing(harness: Make) -> None:
    one = harness(echoes=True)
    one.feed(GET)
    with pytest.raises(RuntimeError, match="answered twice"):
        one.requests[0].respond(200, b"")
    assert not one.transport.written


async def test_an_answer_to_a_client_that_is_gone_is_nothing(harness: Make) -> None:
    one = harness()
    one.feed(GET * 2)
    one.lose()
    assert one.requests[0].is_gone
    one.requests[0].respond(200, b"x")
    assert not one.transport.written
    assert one.hub.counters.open == 0


async def test_head_is_answered_with_the_length_and_without_the_body(harness: Make) -> None:
    one = harness()
    one.feed(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    one.requests[0].respond(200, b"12345")
    answer = one.transport.take()
    assert b"Content-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "connection"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"close"),
        (b"GET / HTTP/1.0\r\n\r\n", b"close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"keep-alive"),
    ],
)
async def test_the_connection_lives_as_long_as_the_client_asks(
    harness: Make, head: bytes, connection: bytes | None
) -> None:
    one = harness(echoes=True)
    found = re.search(rb"Connection: ([\w-]+)", one.feed(head))
    assert (found and found[1]) == connection
    assert one.transport.has_ended() == (connection == b"close")


async def test_requests_after_the_last_one_are_ignored(harness: Make) -> None:
    one = harness()
    one.feed(GET[:-2] + b"Connection: close\r\n\r\n" + GET)
    one.feed(b"\x00junk")
    one.requests[0].respond(200, b"")
    assert len(one.requests) == 1
    assert statuses(one.transport.take()) == [200]


async def test_an_upgrade_is_declined_and_the_connection_goes_on(harness: Make) -> None:
    one = harness(echoes=True)
    offer = b"GET /1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert statuses(one.feed(offer + GET + offer + GET)) == [200] * 4


# --- 100-continue


EXPECT = HEAD + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"


async def test_a_client_that_waits_for_continue_gets_it(harness: Make) -> None:
    one = harness(echoes=True)
    assert one.feed(EXPECT) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert statuses(one.feed(b"abc")) == [200]


async def test_continue_comes_after_the_answers_that_are_owed(harness: Make) -> None:
    one = harness()
    assert not one.feed(GET + EXPECT)
    one.requests[0].respond(200, b"")
    assert statuses(one.transport.take()) == [200, 100]


async def test_a_client_that_does_not_wait_for_continue_gets_none(harness: Make) -> None:
    one = harness(echoes=True)
    assert statuses(one.feed(EXPECT + b"abc")) == [200]


async def test_a_body_too_large_is_refused_before_it_is_asked_for(harness: Make) -> None:
    one = harness(ConnectionLimits(body_bytes_max=2))
    assert statuses(one.feed(EXPECT)) == [413]


async def test_another_expectation_is_refused(harness: Make) -> None:
    one = harness()
    assert statuses(one.feed(EXPECT.replace(b"100-continue", b"pizza"))) == [417]
    assert one.hub.counters.refused["expectation"] == 1


# --- refusals


SMALL = ConnectionLimits(body_bytes_max=1000, head_bytes_max=1000, bodies_bytes_max=1500)


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (
            HEAD + b"Content-Length: 1001\r\n\r\n",
            413,
            "body_too_large",
        ),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
            413,
            "body_too_large",
        ),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n%b\r\n0\r\n\r\n" % (b"x" * 1001),
            413,
            "body_too_large",
        ),
        (
            HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
            400,
            "malformed",
        ),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400, "malformed"),
        (
            HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            "malformed",
        ),
        (
            HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "malformed",
        ),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
            "malformed",
        ),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "malformed"),
        (b"FETCH / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "tls_unexpected"),
        (b"\x00\xff" * 40, 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 1001, 431, "head_too_large"),
        (b"GET /" + b"x" * 1001, 431, "head_too_large"),
    ],
)
async def test_a_bad_request_gets_an_error_that_sdks_can_read_and_the_connection_ends(
    harness: Make, sent: bytes, status: int, reason: str
) -> None:
    one = harness(SMALL)
    answer = one.feed(sent)
    assert statuses(answer) == [status]
    assert re.search(rb'\{"__type":"\w+Exception","message":"[^"]+\."\}$', answer)
    assert b"Connection: close" in answer
    assert one.transport.has_ended()
    assert {name for name, count in one.hub.counters.refused.items() if count} == {reason}
    assert not one.requests
    assert not one.feed(GET)


@pytest.mark.parametrize("digit_count", [21, 4_301, 9_000])  # Python reads 4,300 of them at most
@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_length_of_many_digits_is_refused(
    harness: Make, digit_count: int, is_cut: bool
) -> None:
    one = harness()
    sent = HEAD + b"Content-Length: " + b"2".zfill(digit_count) + b"\r\n\r\n{}"
    cut_at = len(HEAD) + 100 if is_cut else len(sent)
    answer = one.feed(sent[:cut_at]) + one.feed(sent[cut_at:])
    assert statuses(answer) == [400]
    assert b"digits" in answer
    assert not one.requests


async def test_an_error_goes_after_the_answers_that_are_owed(harness: Make) -> None:
    one = harness(ConnectionLimits(pipeline_max=2))
    assert not one.feed(GET * 3 + b"\x00\x01")
    one.requests[1].respond(200, b"")
    one.requests[0].respond(200, b"")
    one.requests[2].respond(200, b"")
    assert statuses(one.transport.take()) == [200, 200, 200, 400]


async def test_a_tls_client_is_told_to_use_http(harness: Make) -> None:
    assert b"http://, not https://" in harness().feed(b"\x16\x03\x01\x02\x00\x01\x00")


@pytest.mark.parametrize("before", [b"", GET])
async def test_http_2_begins_a_connection_or_is_refused(harness: Make, before: bytes) -> None:
    """`Opening` has seen the preface of whoever begins with it (test_http2.py)."""
    one = harness(echoes=True)
    answer = one.feed(before + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert statuses(answer)[-1] == 400
    assert b"from the first byte of a connection" in answer
    assert one.transport.has_ended()
    assert one.hub.counters.refused["malformed"] == 1


async def test_an_end_that_comes_too_late_raises_nothing(harness: Make) -> None:
    """The client's kernel has told ours that it is gone, and ours not yet the loop."""

    def fail() -> None:
        raise OSError(107, "Transport endpoint is not connected")

    one = harness()
    one.transport.write_eof = fail  # type: ignore[method-assign]
    one.feed(b"\x00\x01")
    assert one.transport.is_closed


async def test_a_content_length_that_lies_short_makes_the_rest_a_bad_request(harness: Make) -> None:
    one = harness(echoes=True)
    assert statuses(one.feed(POST.replace(b": 5", b": 3"))) == [200, 400]


async def test_an_end_in_the_middle_of_a_request_is_refused(harness: Make) -> None:
    one = harness()
    one.feed(POST[:-1])
    one.protocol.eof_received()
    assert statuses(one.transport.take()) == [400]
    assert one.hub.counters.refused["truncated"] == 1


async def test_a_client_that_half_closes_still_gets_its_answers(harness: Make) -> None:
    one = harness(ConnectionLimits(pipeline_max=2))
    one.feed(GET * 5)
    assert one.protocol.eof_received()
    for i in range(5):
        assert not one.transport.is_closed
        one.requests[i].respond(200, b"")
    assert statuses(one.transport.take()) == [200] * 5
    assert one.transport.is_closed


CBOR_HEAD = HEAD + b"Content-Type: application/x-amz-cbor-1.1\r\n"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"Content-Length: 1001\r\n\r\n", "RequestEntityTooLargeException"),
        (
            b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
            "RequestEntityTooLargeException",
        ),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "BadRequestException"),
        (b"Expect: pizza\r\nContent-Length: 3\r\n\r\n", "ExpectationFailedException"),
        (b"Origin: https://elsewhere\r\nContent-Length: 3\r\n\r\n", "AccessDeniedException"),
        (b"X: " + b"y" * 2000, "RequestHeaderFieldsTooLargeException"),
        (b"X: " + b"y" * 2000 + b"\r\n\r\n", "RequestHeaderFieldsTooLargeException"),
        (b"A:\r\n" * 101 + b"\r\n", "RequestHeaderFieldsTooLargeException"),
        (b"X Y: \r\n\r\n", "BadRequestException"),
        (b"X Y: ", "BadRequestException"),
        (b"Host: b\r\n\r\n", "BadRequestException"),
        (b"Content-Length: 3x\r\n\r\n", "BadRequestException"),
        (b"Content-Length: 000000000000000000003\r\n\r\n", "BadRequestException"),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "BadRequestException"),
        (b"Transfer-Encoding: gzip\r\n\r\n", "BadRequestException"),
    ],
)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte by byte"])
async def test_a_client_that_speaks_cbor_is_told_in_cbor(
    harness: Make, sent: bytes, code: str, cut: bool
) -> None:
    one = harness(SMALL)
    whole = CBOR_HEAD + sent
    pieces = [whole[at : at + 1] for at in range(len(whole))] if cut else [whole]
    answer = b"".join(map(one.feed, pieces))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nContent-Type: application/x-amz-cbor-1.1\r\n" in head
    told = cbor2.loads(body)
    assert told["__type"] == code
    assert told["message"].endswith(".")
    assert one.transport.has_ended()
    two = harness(SMALL)
    assert b"x-amz-json-1.1" in two.feed(HEAD + sent)


async def test_a_client_that_speaks_cbor_is_told_in_cbor_that_there_is_no_room(
    harness: Make,
) -> None:
    limits, bodies = ConnectionLimits(bodies_bytes_max=1500), ByteBudget(1500)
    first, second = (
        harness(hub=Hub(limits, arrivals=Arrivals(bodies))),
        harness(hub=Hub(limits, arrivals=Arrivals(bodies))),
    )
    sent = CBOR_HEAD + b"Content-Length: 1001\r\n\r\n" + b"x" * 1000
    first.feed(sent)
    answer = second.feed(sent)
    assert statuses(answer) == [503]
    told = cbor2.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["__type"] == "ServiceUnavailableException"


CONTENT_TYPES = (
    b"application/x-amz-cbor-1.1",
    b"Application/X-AMZ-CBOR-1.1 ; charset=utf-8",
    b"application/x-amz-cbor-1.10",
    b"application/x-amz-json-1.1",
)


def told_in(content_type: bytes, body: bytes) -> Any:
    is_cbor = content_type.lower().partition(b" ")[0] == b"application/x-amz-cbor-1.1"
    return cbor.decode(body) if is_cbor else json.loads(body)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@pytest.mark.parametrize("rest", [b"", b"X: ", b"Content-Length: 10\r\n\r\nabc"])
async def test_a_client_that_is_too_slow_is_told_in_what_it_speaks(
    harness: Make, content_type: bytes, rest: bytes
) -> None:
    one = harness(ConnectionLimits(head_timeout_s=1.0, body_timeout_s=1.0))
    one.feed(HEAD + b"Content-Type: " + content_type + b"\r\n" + rest)
    for _ in range(3):
        one.hub.sweep()
    answer = one.transport.take()
    assert statuses(answer) == [408]
    told = told_in(content_type, answer.partition(b"\r\n\r\n")[2])
    assert told["__type"] == "RequestTimeoutException"
    assert "did not arrive" in told["message"]


async def test_what_a_client_of_cbor_sent_ahead_is_refused_in_cbor(harness: Make) -> None:
    """What is not read yet says in its head what it is."""
    limits = ConnectionLimits(pipeline_max=1, bodies_bytes_max=1500)
    one = harness(hub=Hub(limits, arrivals=Arrivals(ByteBudget(1500))))
    one.feed(GET)
    one.feed(CBOR_HEAD + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000)
    one.requests[0].respond(200, b"")
    answers = one.transport.take()
    assert statuses(answers) == [200, 503]
    assert cbor2.loads(answers.rpartition(b"\r\n\r\n")[2])["__type"] == (
        "ServiceUnavailableException"
    )


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@pytest.mark.parametrize("is_in_turns", [False, True])
async def test_a_handler_that_fails_is_told_in_what_its_client_speaks(
    content_type: bytes, is_in_turns: bool
) -> None:
    """Also where it has let go of the headers, but for what the answer is written in."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    def steps(request: HttpRequest) -> Steps[None]:
        yield
        fail(request)

    def fail(request: HttpRequest) -> None:
        if speaks_cbor(request.headers[b"content-type"]):
            request.headers = CBOR_ALONE
        raise ValueError

    def handle(request: HttpRequest) -> None:
        work_in_turns(request, steps(request), soon) if is_in_turns else fail(request)

    transport = FakeTransport()
    protocol = HttpProtocol(handle, Hub(ConnectionLimits()))
    protocol.connection_made(transport)
    protocol.data_received(
        HEAD + b"Content-Type: " + content_type + b"\r\nContent-Length: 1\r\n\r\nx"
    )
    await asyncio.sleep(0)
    answer = transport.take()
    protocol.connection_lost(None)
    await protocol.hub.aclose(0)
    assert statuses(answer) == [500]
    assert told_in(content_type, answer.partition(b"\r\n\r\n")[2]) == {
        "__type": "InternalFailure",
        "message": "kdaemon failed to handle this request; its log says why.",
    }


async def test_a_client_that_closes_between_requests_is_let_go(harness: Make) -> None:
    one = harness(echoes=True)
    one.feed(GET)
    assert not one.protocol.eof_received()


async def test_bodies_that_are_still_arriving_share_a_budget(harness: Make) -> None:
    limits = ConnectionLimits(bodies_bytes_max=1500)
    bodies = ByteBudget(1500)
    first, second = (
        harness(hub=Hub(limits, arrivals=Arrivals(bodies))),
        harness(hub=Hub(limits, arrivals=Arrivals(bodies))),
    )
    head = HEAD + b"Content-Length: 1001\r\n\r\n"
    first.feed(head + b"x" * 1000)
    assert bodies.bytes_taken == 1000
    answer = second.feed(head + b"x" * 1000)
    assert statuses(answer) == [503]
    assert b"Retry-After: 1\r\n" in answer
    first.feed(b"x")
    assert len(first.requests[0].body) == 1001
    assert bodies.bytes_taken == 1001, "until the handler has parsed it"
    first.requests[0].drop_body()
    assert bodies.bytes_taken == 0


async def test_a_lost_connection_gives_its_part_of_the_budget_back(harness: Make) -> None:
    one = harness()
    one.feed(HEAD + b"Content-Length: 10\r\n\r\nabc")
    assert one.hub.bodies.bytes_taken == 3
    one.lose()
    assert one.hub.bodies.bytes_taken == 0


async def test_a_handler_that_fails_is_a_500_and_the_connection_goes_on(harness: Make) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    one = harness(echoes=True)

    def fail(request: HttpRequest) -> None:
        raise ValueError("secret")

    one.on_request = fail
    answer = one.feed(GET)
    assert statuses(answer) == [500]
    assert b"secret" not in answer
    assert isinstance(reported[0]["exception"], ValueError)
    assert one.hub.counters.handler_failures == 1
    one.on_request = None
    assert statuses(one.feed(GET)) == [200]


async def test_a_defect_of_ours_ends_the_connection_and_repeats_nothing(
    harness: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = harness()

    def fail(self: HttpProtocol, request: HttpRequest) -> None:
        one.requests.append(request)
        raise SystemError("out of the connection's own code")

    monkeypatch.setattr(HttpProtocol, "take", fail)
    with pytest.raises(SystemError):
        one.protocol.data_received(POST)
    assert len(one.requests) == 1


# --- time, by ticks of the sweep


TIMES = ConnectionLimits(
    head_timeout_s=3, body_timeout_s=5, idle_timeout_s=7, write_timeout_s=4, discard_timeout_s=2
)


def sweep(one: Harness, times: int) -> None:
    for _ in range(times):
        one.hub.sweep()


@pytest.mark.parametrize(
    ("sent", "limit", "what"),
    [(b"GET / HT", 3, "head"), (POST[:-1], 5, "body"), (EXPECT, 5, "body")],
)
async def test_a_request_that_stops_arriving_is_cut_off_between_its_limit_and_a_sweep_later(
    harness: Make, sent: bytes, limit: int, what: str
) -> None:
    one = harness(TIMES)
    one.feed(sent)
    sweep(one, limit)
    assert not one.transport.written
    sweep(one, 1)
    assert statuses(one.transport.take()) == [408]
    assert one.hub.counters.timed_out == dict.fromkeys(TIME_OUTS, 0) | {what: 1}


async def test_a_trickle_of_bytes_does_not_buy_time(harness: Make) -> None:
    one = harness(TIMES)
    for byte in POST[:5]:
        one.feed(bytes([byte]))
        sweep(one, 1)
    assert one.transport.has_ended()


async def test_an_idle_connection_is_closed_and_one_that_waits_for_its_answer_is_not(
    harness: Make,
) -> None:
    one = harness(TIMES)
    one.feed(GET)
    sweep(one, 20)
    assert not one.transport.has_ended()
    one.requests[0].respond(200, b"")
    sweep(one, 7)
    assert not one.transport.has_ended()
    sweep(one, 1)
    assert one.transport.is_closed
    assert one.hub.counters.timed_out["idle"] == 1


async def test_a_client_that_does_not_read_its_answer_is_cut_off(harness: Make) -> None:
    one = harness(TIMES, echoes=True)
    one.transport.pauses_when_written = 1
    one.feed(GET)
    assert not one.transport.reads()
    sweep(one, 4)
    assert one.transport.abort_count == 0
    sweep(one, 1)
    assert one.transport.abort_count == 1
    assert one.hub.counters.timed_out["write"] == 1


async def test_the_time_that_we_do_not_read_is_not_the_clients(harness: Make) -> None:
    one = harness(ConnectionLimits(pipeline_max=1, head_timeout_s=3))
    one.feed(GET + b"GET / HT")
    sweep(one, 20)
    one.requests[0].respond(200, b"")
    sweep(one, 3)
    assert statuses(one.transport.take()) == [200]
    assert statuses(one.feed(b"TP/1.1\r\nHost: localhost\r\n\r\n")) == []
    assert len(one.requests) == 2


async def test_a_refused_client_that_never_closes_is_cut_off(harness: Make) -> None:
    one = harness(TIMES)
    one.feed(b"\x00")
    sweep(one, 2)
    assert one.transport.abort_count == 0
    sweep(one, 1)
    assert one.transport.abort_count == 1


async def test_the_sweep_is_one_timer_and_stops_with_the_last_connection(harness: Make) -> None:
    one = harness(ConnectionLimits(sweep_interval_s=0.01))
    await until(lambda: one.hub.tick >= 2)
    one.lose()
    await until(lambda: not one.hub.is_sweep_due)


# --- noise


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=20), st.booleans())
def test_whatever_arrives_nothing_raises(pieces: list[bytes], begins_well: bool) -> None:
    feed_noise([POST[:20]] * begins_well + pieces)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    POST,
                    GET,
                    CHUNKED,
                    EXPECT,
                    POST[:30],
                    POST[30:],
                    CHUNKED[:70],
                    b"\r\n",
                    b"0\r\n",
                ),
                *(b"GET / HTTP/1.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n", b"Connection: close\r\n"),
                *(
                    GET[:-2] + b"Upgrade: x\r\nConnection: upgrade\r\n\r\n",
                    b"x" * 2000,
                ),
            ]
        ),
        max_size=12,
    ),
    st.integers(1, 3),
)
def test_whatever_order_its_parts_come_in_nothing_raises_and_no_budget_leaks(
    pieces: list[bytes], pipeline_max: int
) -> None:
    feed_noise(pieces, pipeline_max)


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(
        st.sampled_from([POST, GET, CHUNKED, b"HEAD /h HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        max_size=6,
    ),
    st.sampled_from([b"", b"\x00", b"GET / HTTP/1.0\r\n\r\n"]),
    st.lists(st.integers(0, 600), max_size=10),
)
def test_where_reads_are_cut_changes_nothing(
    requests: list[bytes], end: bytes, cuts: list[int]
) -> None:
    sent = b"".join(requests) + end
    edges = [0, *sorted(cuts), len(sent)]

    async def run() -> None:
        whole, split = Harness(echoes=True), Harness(echoes=True)
        expected = whole.feed(sent)
        got = b"".join(split.feed(sent[i:j]) for i, j in itertools.pairwise(edges))
        assert got == expected
        for one in (whole, split):
            one.lose()
            await one.hub.aclose(0)

    asyncio.run(run())


def feed_noise(pieces: list[bytes], pipeline_max: int = 2) -> None:
    async def run() -> None:
        limits = ConnectionLimits(
            body_bytes_max=1000, head_bytes_max=500, pipeline_max=pipeline_max, discard_timeout_s=1
        )
        one = Harness(limits)
        for piece in pieces:
            if not one.transport.is_closed:
                one.protocol.data_received(piece)
            if len(one.requests) % 2:
                answer_all(one)
        if not one.transport.is_closed:
            one.protocol.eof_received()
        answer_all(one)
        sweep(one, 3)
        one.lose()
        assert one.hub.bodies.bytes_taken == 0
        assert one.hub.counters.open == 0
        await one.hub.aclose(0)

    asyncio.run(run())


def answer_all(one: Harness) -> None:
    for request in list(one.requests):
        if request.answer is None:
            request.respond(200, b"x")


# --- real sockets


async def ask(server: ConnectionServer, sent: bytes) -> bytes:
    """What the server says until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def echo(request: HttpRequest) -> None:
    request.respond(200, request.body, close=True)


@on_both_loops
async def test_a_real_client_is_served() -> None:
    server = await serve_http(echo)
    body = bytes(range(256)) * 4096
    answer = await ask(server, HEAD + b"Content-Length: 1048576\r\n\r\n" + body)
    assert answer.endswith(b"\r\n\r\n" + body)
    await server.aclose()
    assert server.counters.open == 0


@on_both_loops
async def test_a_client_that_sends_a_body_too_large_reads_why() -> None:
    server = await serve_http(echo, ConnectionLimits(body_bytes_max=100))
    sent = HEAD + b"Content-Length: 5000000\r\n\r\n" + bytes(5_000_000)
    assert statuses(await ask(server, sent)) == [413]
    await server.aclose()


@on_both_loops
async def test_abort_resets_the_connection() -> None:
    server = await serve_http(HttpRequest.abort)
    with pytest.raises(ConnectionResetError):
        await ask(server, GET)
    await server.aclose()


@on_both_loops
async def test_connections_over_the_limit_are_dropped_and_counted() -> None:
    requests: list[HttpRequest] = []  # who is owed an answer keeps its place
    limits = ConnectionLimits(connections_max=1)
    server = await serve_http(requests.append, limits)
    _, first = await asyncio.open_connection("127.0.0.1", server.port)
    first.write(GET)
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: requests)
        reader, second = await asyncio.open_connection("127.0.0.1", server.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert server.counters.refused["connections"] == 1
    first.close()
    second.close()
    await server.aclose()


@on_both_loops
async def test_closing_answers_what_is_open_then_ends() -> None:
    requests: list[HttpRequest] = []
    server = await serve_http(requests.append)
    idle_reader, idle = await asyncio.open_connection("127.0.0.1", server.port)
    open_one = asyncio.create_task(ask(server, GET))
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: requests and server.counters.open >= 2)
        closing = asyncio.create_task(server.aclose(10))
        assert await idle_reader.read() == b""
        requests[0].respond(200, b"done")
        answer = await open_one
        await closing
    assert b"Connection: close" in answer
    assert answer.endswith(b"done")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)
    idle.close()
    await idle.wait_closed()


@on_both_loops
async def test_closing_cuts_off_what_is_still_open_after_the_grace() -> None:
    requests: list[HttpRequest] = []
    server = await serve_http(requests.append)
    stuck = asyncio.create_task(ask(server, GET))
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: requests)
        await server.aclose(0.01)
        with pytest.raises(ConnectionResetError):
            await stuck
    assert requests[0].is_gone


def test_a_lost_connection_leaves_nothing_for_the_collector() -> None:
    async def main() -> None:
        hub = Hub(ConnectionLimits())
        protocol = HttpProtocol(echo, hub=hub)
        protocol.connection_made(FakeTransport())
        protocol.data_received(POST)
        protocol.connection_lost(None)
        await hub.aclose(0)

    def left() -> int:
        return sum(isinstance(each, HttpProtocol) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = left()  # what other tests hold
        asyncio.run(main())
        assert left() == before
    finally:
        gc.enable()
