"""An answer in pieces over HTTP/1.1: chunks, backpressure, and no end that looks like another."""

import asyncio
import weakref
from typing import Any

import h11
import pytest

from kdaemon.http.hub import ConnectionLimits, Hub
from tests.unit.http.harness import GET, Harness, Make, statuses
from tests.unit.http.sources import Endless, Script, no_collector, reported, turns

LAST = b"0\r\n\r\n"
LIMITS = ConnectionLimits(
    idle_timeout_s=3, write_timeout_s=3, head_timeout_s=3, discard_timeout_s=2, sweep_interval_s=1
)


def read(data: bytes, method: str = "GET", count: int = 1) -> list[tuple[int, bytes, bool]]:
    """Each answer as a reader that others wrote understands it: status, body, whether whole."""
    client = h11.Connection(h11.CLIENT)
    found: list[tuple[int, bytes, bool]] = []
    client.receive_data(data)
    for _ in range(count):
        client.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
        client.send(h11.EndOfMessage())
        status, body, is_whole = 0, b"", False
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                is_whole = isinstance(event, h11.EndOfMessage)
                break
        found.append((status, body, is_whole))
        if is_whole and client.our_state is h11.DONE:
            client.start_next_cycle()
    return found


async def begin(one: Harness, *ready: Any) -> tuple[Script, bytes]:
    """A request that is answered in pieces; what came of it."""
    one.feed(GET)
    script = Script(*ready).begin(one.requests[-1])
    await turns()
    return script, one.transport.take()


async def test_an_answer_comes_as_it_is_made_and_the_connection_goes_on(harness: Make) -> None:
    one = harness()
    script, first = await begin(one, b"hello ", b"you")
    assert b"Transfer-Encoding: chunked\r\n" in first
    assert b"Content-Length" not in first
    assert read(first) == [(200, b"hello you", False)]
    await script.give(b", there")
    await script.give(None)
    rest = one.transport.take()
    assert read(first + rest) == [(200, b"hello you, there", True)]
    assert not script.told
    one.feed(GET)
    one.requests[-1].respond(200, b"next")
    assert one.transport.take().endswith(b"next")


async def test_nothing_is_asked_for_before_the_handler_has_returned(harness: Make) -> None:
    one = harness()
    one.feed(GET)
    script = Script(b"a", None).begin(one.requests[0])
    assert script.taken == 0
    assert one.transport.take().endswith(b"\r\n\r\n"), "the head is there at once"
    await turns()
    assert one.transport.take() == b"1\r\na\r\n" + LAST


async def test_answers_behind_it_wait_and_come_in_order(harness: Make) -> None:
    one = harness()
    one.feed(GET * 4)
    one.requests[3].respond(200, b"fourth")
    second = Script(b"second", None).begin(one.requests[1])
    third = Script(b"third", None).begin(one.requests[2])
    await turns()
    assert not one.transport.take()
    assert second.taken == third.taken == 0, "nothing is made before it can leave"
    one.requests[0].respond(200, b"first")
    await turns()
    answers = one.transport.take()
    assert [body for _, body, _ in read(answers, count=4)] == [
        b"first",
        b"second",
        b"third",
        b"fourth",
    ]


async def test_an_old_client_is_told_the_end_by_the_end_of_the_connection(harness: Make) -> None:
    for connection in (b"", b"Connection: keep-alive\r\n"):
        one = harness()
        one.feed(b"GET / HTTP/1.0\r\nHost: localhost\r\n" + connection + b"\r\n")
        Script(b"hello ", b"you", None).begin(one.requests[0])
        await turns()
        head, _, body = one.transport.take().partition(b"\r\n\r\n")
        assert body == b"hello you"
        assert b"chunked" not in head
        assert b"Content-Length" not in head
        assert b"Connection: close" in head
        assert one.transport.has_ended()
        assert not one.transport.abort_count


async def test_head_has_no_body_and_its_source_is_let_go(harness: Make) -> None:
    one = harness()
    one.feed(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    script = Script(b"hello").begin(one.requests[0])
    await turns()
    assert script.told == ["gone"]
    assert script.taken == 0
    assert read(one.transport.take(), "HEAD") == [(200, b"", True)]
    one.feed(GET)
    one.requests[1].respond(200, b"next")
    assert one.transport.take().endswith(b"next")


async def test_a_client_that_does_not_read_costs_one_piece(harness: Make) -> None:
    one = harness(LIMITS)
    script, _ = await begin(one)
    one.protocol.pause_writing()
    await script.give(*[b"x" * 1000] * 50)
    assert script.taken == 0
    one.protocol.resume_writing()
    await turns()
    assert script.taken == 50


async def test_a_full_socket_stops_the_source_at_once(harness: Make) -> None:
    one = harness(LIMITS)
    one.feed(GET)
    script = Endless().begin(one.requests[0])
    asked = script.next_piece

    def fill() -> bytes | None:
        if script.taken == 3:
            one.protocol.pause_writing()
        return asked()

    script.next_piece = fill  # type: ignore[method-assign]
    await turns()
    assert script.taken == 4


async def test_who_does_not_read_for_long_loses_the_connection(harness: Make) -> None:
    one = harness(LIMITS)
    script, _ = await begin(one, b"a")
    one.protocol.pause_writing()
    for _ in range(4):
        one.hub.sweep()
    assert one.transport.abort_count
    assert one.hub.counters.timed_out["write"] == 1
    one.lose()
    assert script.told == ["gone"]


async def test_a_long_answer_is_not_idle(harness: Make) -> None:
    one = harness(LIMITS)
    script, _ = await begin(one, b"a")
    for _ in range(50):
        one.hub.sweep()
    await script.give(b"b", None)
    assert one.transport.take().endswith(b"1\r\nb\r\n" + LAST)
    assert not one.transport.has_ended()
    for _ in range(4):
        one.hub.sweep()
    assert one.transport.has_ended(), "and its connection is, after it"


async def test_an_endless_source_leaves_others_their_turn(harness: Make) -> None:
    one = harness()
    one.feed(GET)
    script = Endless().begin(one.requests[0])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    once = script.taken
    assert 1 < once < 200
    await asyncio.sleep(0)
    assert script.taken <= 2 * once, "and one turn's part in each turn"
    await turns()
    assert script.taken > 5 * once


@pytest.mark.parametrize("waits", [False, True])
async def test_a_client_that_goes_is_told_once(harness: Make, waits: bool) -> None:
    one = harness()
    one.feed(GET * 2 if waits else GET)
    script = Script(b"a").begin(one.requests[-1])
    await turns()
    one.lose()
    assert script.told == ["gone"]
    assert script.pieces is not None
    script.pieces.wake()
    await turns()
    assert script.told == ["gone"]
    assert not script.taken or not waits


async def test_who_has_gone_before_the_answer_is_told_too(harness: Make) -> None:
    one = harness()
    one.feed(GET)
    one.lose()
    script = Script(b"a").begin(one.requests[0])
    assert script.told == ["gone"]


async def test_nobody_is_told_after_the_end(harness: Make) -> None:
    one = harness()
    script, _ = await begin(one, b"a", None)
    one.lose()
    assert not script.told


async def test_a_second_answer_raises(harness: Make) -> None:
    one = harness()
    script, _ = await begin(one, b"a")
    with pytest.raises(RuntimeError, match="twice"):
        one.requests[0].respond(200, b"")
    with pytest.raises(RuntimeError, match="twice"):
        Script().begin(one.requests[0])
    await script.give(None)
    assert one.transport.take() == LAST


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_source_that_fails_never_looks_like_an_end(harness: Make, version: bytes) -> None:
    told = reported()
    one = harness()
    one.feed(b"GET / HTTP/%b\r\nHost: localhost\r\n\r\n" % version)
    script = Script(b"half of it", ValueError("a defect"), None).begin(one.requests[0])
    await turns()
    answer = one.transport.take()
    assert b"half of it" in answer
    assert LAST not in answer
    assert one.transport.abort_count == 1
    assert not one.transport.has_written_eof
    one.lose()
    assert script.told == ["gone"]
    assert one.hub.counters.handler_failures == 1
    assert isinstance(told[0]["exception"], ValueError)


async def test_a_source_that_fails_when_it_is_told_costs_nobody_else(harness: Make) -> None:
    told = reported()
    one = harness()
    script, _ = await begin(one)

    def fail() -> None:
        raise ValueError("a defect")

    script.gone = fail  # type: ignore[method-assign]
    one.lose()
    assert isinstance(told[0]["exception"], ValueError)


async def test_a_drain_ends_it_as_its_source_says(harness: Make) -> None:
    one = harness()
    script, before = await begin(one, b"a")
    script.on_drain = lambda: script.ready.extend([b"bye", None])
    one.hub.close_idle()
    await turns()
    assert read(before + one.transport.take()) == [(200, b"abye", True)]
    assert script.told == ["drain"]
    assert one.transport.has_ended()
    assert not one.transport.abort_count


async def test_an_answer_that_begins_in_a_drain_is_told_at_once(harness: Make) -> None:
    one = harness()
    one.feed(GET)
    one.hub.close_idle()
    script = Script()
    script.on_drain = lambda: script.ready.append(None)
    script.begin(one.requests[0])
    await turns()
    ((status, body, is_whole),) = read(one.transport.take())
    assert (status, body, is_whole) == (200, b"", True)
    assert script.told == ["drain"]
    assert one.transport.has_ended()


async def test_a_drain_does_not_wait_for_a_source_that_does_not_end(harness: Make) -> None:
    one = harness()
    script, _ = await begin(one, b"a")
    closing = asyncio.ensure_future(one.hub.aclose(0))
    await turns()
    assert script.told == ["drain"]
    while not one.transport.abort_count:
        await asyncio.sleep(0)
    one.lose()
    await closing
    assert script.told == ["drain", "gone"]


async def test_a_client_that_sends_no_more_is_looked_for_without_harm(harness: Make) -> None:
    one = harness()
    script, before = await begin(one, b"a")
    assert one.protocol.eof_received(), "the connection stays half open"
    for _ in range(3):
        one.hub.sweep()
    await script.give(b"b" * 300)
    await script.give(None)
    after = one.transport.take()
    assert read(before + after) == [(200, b"a" + b"b" * 300, True)]
    assert one.transport.has_ended()


async def test_the_part_of_the_next_request_is_not_lost(harness: Make) -> None:
    one = harness()
    script, before = await begin(one, b"a")
    one.feed(GET[:10])
    await script.give(None)
    before += one.feed(GET[10:])
    one.requests[1].respond(200, b"next")
    answers = before + one.transport.take()
    assert [body for _, body, _ in read(answers, count=2)] == [b"a", b"next"]


async def test_what_cannot_leave_counts_as_what_waits(harness: Make) -> None:
    one = harness(ConnectionLimits(bodies_bytes_max=200_000))
    script, _ = await begin(one)
    large = b"x" * 150_000
    one.transport.written += large  # what the socket has not taken
    one.protocol.pause_writing()
    assert one.hub.bodies.bytes_taken >= 150_000
    one.transport.written.clear()
    one.protocol.resume_writing()
    assert one.hub.bodies.bytes_taken == 0
    await script.give(None)


async def test_nothing_is_left_for_the_collector() -> None:
    one = Harness()
    with no_collector():
        for ready in ((b"a", None), (b"a",)):
            one.feed(GET)
            script = Script(*ready).begin(one.requests.pop())
            await turns()
            left = weakref.ref(script)
            if ready[-1] is not None:
                one.lose()
            del script
            await turns()
            assert left() is None
    await one.hub.aclose(0)


async def test_other_connections_are_answered_meanwhile() -> None:
    hub = Hub(ConnectionLimits())
    one, other = Harness(hub=hub), Harness(hub=hub, echoes=True)
    script, _ = await begin(one, b"a")
    assert statuses(other.feed(GET)) == [200]
    await script.give(None)
    one.lose()
    other.lose()
    await hub.aclose(0)
