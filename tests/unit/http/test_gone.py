"""A handler that answers later hears once that its client has gone, and never after its answer."""

import asyncio
from typing import Any

import pytest

from kdaemon.http.request import HttpRequest
from tests.unit.http.harness import GET, HEAD, Make, statuses


def watch(request: HttpRequest, told: list[HttpRequest]) -> None:
    request.on_gone = lambda: told.append(request)


async def test_a_lost_connection_is_told_for_each_request_that_is_owed(harness: Make) -> None:
    one, told = harness(), list[HttpRequest]()
    one.feed(GET * 3)
    for request in one.requests:
        watch(request, told)
    one.requests[1].respond(200, b"waits for the first")
    one.lose()
    assert told == [one.requests[0], one.requests[2]]
    assert all(request.is_gone for request in told)
    told[0].respond(200, b"")
    assert told == [one.requests[0], one.requests[2]]


async def test_an_end_is_told_once_and_the_answer_still_goes_out(harness: Make) -> None:
    one, told = harness(), list[HttpRequest]()
    one.feed(GET)
    watch(one.requests[0], told)
    assert one.protocol.eof_received(), "the connection stays half open"
    assert told == one.requests
    assert not one.requests[0].is_gone
    one.requests[0].respond(200, b"")
    assert statuses(one.transport.take()) == [200]
    one.lose()
    assert told == one.requests


async def test_it_may_be_answered_out_of_the_call(harness: Make) -> None:
    one = harness()
    one.feed(GET * 2)
    for request in one.requests:
        request.on_gone = lambda request=request: request.respond(503, b"")
    one.protocol.eof_received()
    assert statuses(one.transport.take()) == [503, 503]
    assert one.transport.is_closed


async def test_nobody_is_told_after_the_answer(harness: Make) -> None:
    one, told = harness(), list[HttpRequest]()
    one.feed(GET)
    watch(one.requests[0], told)
    one.requests[0].respond(200, b"")
    one.protocol.eof_received()
    one.lose()
    assert not told


async def test_a_request_that_is_read_after_the_end_is_told_at_once(harness: Make) -> None:
    one, told = harness(), list[HttpRequest]()

    def handle(request: HttpRequest) -> None:
        one.requests.append(request)
        watch(request, told)

    one.protocol._handler = handle
    one.protocol.data_received(GET * 100)  # more than one turn takes
    one.protocol.eof_received()
    while len(one.requests) < 100:
        before = len(one.requests)
        for request in one.requests:
            if request.answer is None:
                request.respond(200, b"")
        await asyncio.sleep(0)
        assert len(one.requests) > before
    assert len(told) == 100


async def test_a_connection_that_we_end_is_told_too(harness: Make) -> None:
    one, told = harness(), list[HttpRequest]()
    one.feed(GET * 2)
    for request in one.requests:
        watch(request, told)
    one.requests[0].respond(200, b"", close=True)
    assert told == [one.requests[1]]
    assert one.requests[1].is_gone


async def test_a_defect_in_the_call_is_reported_and_the_others_are_told(harness: Make) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    one, told = harness(), list[HttpRequest]()
    one.feed(GET * 2)

    def fail() -> None:
        raise ValueError("a defect")

    one.requests[0].on_gone = fail
    watch(one.requests[1], told)
    one.lose()
    assert told == [one.requests[1]]
    assert isinstance(reported[0]["exception"], ValueError)


@pytest.mark.parametrize("ends_by", ["drop_body", "respond", "lose", "abort"])
async def test_the_charge_of_a_body_ends_with_its_request(harness: Make, ends_by: str) -> None:
    one = harness()
    one.feed(HEAD + b"Content-Length: 6\r\n\r\nabc")
    one.feed(b"def")
    (request,) = one.requests
    assert one.hub.bodies.bytes_taken == 6
    if ends_by == "drop_body":
        request.drop_body()
        request.drop_body()
    elif ends_by == "respond":
        request.respond(200, b"")
    else:
        if ends_by == "abort":
            request.abort()
        one.lose()
    assert request.body == b""
    assert one.hub.bodies.bytes_taken == 0
