"""An answer in pieces over HTTP/2: windows, resets, and a connection that others share."""

import asyncio
import weakref

import pytest
from h2.settings import SettingCodes

from kdaemon.http.http2_frames import CANCEL, DATA, END_STREAM, INTERNAL_ERROR, NO_ERROR
from kdaemon.http.hub import ConnectionLimits
from kdaemon.http.request import HttpRequest
from tests.unit.http.http2_harness import Http2Harness, Make2, MakeRaw, fields
from tests.unit.http.sources import Endless, Script, no_collector, reported, turns

GET = fields(b"GET")
WINDOW = 65_535  # of a client that says nothing else (RFC 9113, 6.9.2)
LIMITS = ConnectionLimits(
    idle_timeout_s=3, write_timeout_s=3, discard_timeout_s=2, sweep_interval_s=1
)


async def begin(one: Http2Harness, script: Script, *, method: bytes = b"GET") -> int:
    """A request that is answered in pieces; its stream."""

    def answer(request: HttpRequest) -> None:
        script.begin(request)

    one.on_request = answer
    stream = one.begin(fields(method), ends=True)
    await one.send()
    one.on_request = None
    return stream


async def test_an_answer_comes_as_it_is_made_beside_others(http2: Make2) -> None:
    one = http2(echoes=True)
    stream = await begin(one, script := Script(b"hello ", b"you"))
    assert one.answers[stream].body == b"hello you"
    assert not one.answers[stream].is_whole
    assert b"content-length" not in one.answers[stream].fields
    assert (await one.ask(b"other")).body == b"other"
    await script.give(b", there", None)
    await one.receive()
    assert one.answers[stream].body == b"hello you, there"
    assert one.answers[stream].is_whole
    assert one.answers[stream].reset_code is None
    assert not script.told


async def test_nothing_is_asked_for_before_the_handler_has_returned(http2: Make2) -> None:
    one, script = http2(), Script(b"a", None)
    taken: list[int] = []

    def answer(request: HttpRequest) -> None:
        script.begin(request)
        taken.append(script.taken)

    one.on_request = answer
    one.begin(GET, ends=True)
    await one.send()
    assert taken == [0]
    assert script.taken == 2


async def test_head_has_no_body_and_its_source_is_let_go(http2: Make2) -> None:
    one = http2()
    stream = await begin(one, script := Script(b"a"), method=b"HEAD")
    assert one.answers[stream].is_whole
    assert one.answers[stream].status == 200
    assert script.told == ["gone"]


async def test_a_shut_window_stops_the_source_and_nobody_else(http2: Make2) -> None:
    one = http2(echoes=True, settings={SettingCodes.INITIAL_WINDOW_SIZE: 10})
    stream = await begin(one, script := Script(b"x" * 25, *[b"y" * 1000] * 100))
    assert script.taken == 1, "what the window has no room for is not made"
    assert (await one.ask(b"other")).body == b"other"
    one.client.increment_flow_control_window(1000, stream)
    await one.send()
    await one.send()
    assert len(one.answers[stream].body) >= 1010
    assert script.taken <= 4
    assert not script.told


async def test_an_endless_source_shares_connection_and_turns(http2: Make2) -> None:
    one = http2(echoes=True, settings={SettingCodes.INITIAL_WINDOW_SIZE: 2**24})
    one.client.increment_flow_control_window(2**24)
    stream = await begin(one, script := Endless())
    assert 1 < script.taken < 64 * 25
    before = len(one.answers[stream].body)
    assert (await one.ask(b"other")).body == b"other"
    assert len(one.answers[stream].body) > before


async def test_a_full_socket_stops_the_source(http2: Make2) -> None:
    one = http2()
    await begin(one, script := Script())
    one.protocol.pause_writing()
    await script.give(*[b"x" * 1000] * 10)
    assert script.taken == 0
    one.protocol.resume_writing()
    await one.receive()
    assert script.taken == 10


async def test_who_takes_nothing_of_one_answer_for_long_loses_it_alone(http2: Make2) -> None:
    one = http2(LIMITS, echoes=True, settings={SettingCodes.INITIAL_WINDOW_SIZE: 10})
    stream = await begin(one, script := Script(b"x" * 1000))
    for _ in range(3):
        one.hub.sweep()
    one.client.increment_flow_control_window(5, stream)
    await one.send()
    for _ in range(3):
        one.hub.sweep()
    assert not script.told, "it took something meanwhile"
    for _ in range(2):
        one.hub.sweep()
    await one.receive()
    assert one.answers[stream].reset_code == CANCEL
    assert script.told == ["gone"]
    assert one.hub.counters.timed_out["write"] == 1
    assert (await one.ask(b"other")).body == b"other"


async def test_a_quiet_answer_behind_a_shut_window_waits_as_long_as_it_is_quiet(
    http2: Make2,
) -> None:
    one = http2(LIMITS, settings={SettingCodes.INITIAL_WINDOW_SIZE: 10})
    stream = await begin(one, script := Script(b"x" * 10))
    for _ in range(20):
        one.hub.sweep()
    assert not script.told
    await script.give(b"y")
    for _ in range(3):
        one.hub.sweep()
    one.client.increment_flow_control_window(5, stream)
    await one.send()
    assert one.answers[stream].body == b"x" * 10 + b"y"
    assert not script.told


async def test_a_long_answer_is_not_idle(http2: Make2) -> None:
    one = http2(LIMITS)
    stream = await begin(one, script := Script(b"a"))
    for _ in range(50):
        one.hub.sweep()
    await script.give(b"b", None)
    await one.receive()
    assert one.answers[stream].is_whole
    assert not one.transport.has_ended()
    for _ in range(5):
        one.hub.sweep()
    await one.receive()
    assert one.transport.has_ended(), "and its connection is, after it"


@pytest.mark.parametrize("by", ["reset", "connection"])
async def test_a_client_that_goes_is_told_once(http2: Make2, by: str) -> None:
    one = http2(echoes=True)
    stream = await begin(one, script := Script(b"a"))
    if by == "reset":
        one.client.reset_stream(stream)
        await one.send()
        assert (await one.ask(b"other")).body == b"other"
    else:
        one.lose()
    assert script.told == ["gone"]
    await script.give(b"b")
    assert script.taken == 1
    assert script.told == ["gone"]


async def test_nobody_is_told_after_the_end(http2: Make2) -> None:
    one = http2()
    await begin(one, script := Script(b"a", None))
    one.lose()
    assert not script.told


async def test_a_source_that_fails_never_looks_like_an_end(http2: Make2) -> None:
    told = reported()
    one = http2(echoes=True)
    one.failures = 1
    stream = await begin(one, script := Script(b"half of it", ValueError("a defect"), None))
    answer = one.answers[stream]
    assert answer.body == b"half of it"
    assert not answer.is_whole
    assert answer.reset_code == INTERNAL_ERROR
    assert script.told == ["gone"]
    assert isinstance(told[0]["exception"], ValueError)
    assert (await one.ask(b"other")).body == b"other"


async def test_a_drain_ends_it_as_its_source_says(raw: MakeRaw) -> None:
    one, script = raw(), Script(b"a")  # the library's client reads nothing after GOAWAY

    def answer(request: HttpRequest) -> None:
        script.begin(request)

    one.on_request = answer
    one.feed(one.request(1))
    await one.read()
    script.on_drain = lambda: script.ready.extend([b"bye", None])
    one.hub.close_idle()
    await one.read()
    assert script.told == ["drain"]
    assert [each[3] for each in one.of_kind(DATA)] == [b"a", b"bye", b""]
    assert [each[1] for each in one.of_kind(DATA)] == [0, 0, END_STREAM]
    assert one.code == NO_ERROR
    assert not one.resets()
    assert one.transport.has_ended()
    assert not one.transport.abort_count


async def test_an_end_needs_no_window(http2: Make2) -> None:
    one = http2(settings={SettingCodes.INITIAL_WINDOW_SIZE: 10})
    stream = await begin(one, script := Script(b"x" * 10))
    await script.give(None)
    await one.receive()
    assert one.answers[stream].is_whole


async def test_a_drain_does_not_wait_for_a_source_that_does_not_end(http2: Make2) -> None:
    one = http2()
    await begin(one, script := Script(b"a"))
    closing = asyncio.ensure_future(one.hub.aclose(0))
    while not one.transport.abort_count:
        await asyncio.sleep(0)
    one.lose()
    await closing
    assert script.told == ["drain", "gone"]


async def test_a_client_that_sends_no_more_is_looked_for(http2: Make2) -> None:
    one = http2()
    stream = await begin(one, script := Script(b"a"))
    assert one.protocol.eof_received(), "the connection stays half open"
    for _ in range(3):
        one.hub.sweep()
    await script.give(b"b", None)
    await one.receive()
    assert one.answers[stream].body == b"ab"
    assert one.answers[stream].is_whole
    assert one.transport.has_ended()


async def test_the_windows_of_a_client_that_reads_carry_all_of_it(http2: Make2) -> None:
    one = http2()
    made = [bytes([65 + index % 26]) * 50_000 for index in range(20)]
    stream = await begin(one, Script(*made, None))
    for _ in range(200):
        await one.send()
        if one.answers[stream].is_whole:
            break
    assert one.answers[stream].body == b"".join(made)
    assert len(b"".join(made)) > 10 * WINDOW


async def test_nothing_is_left_for_the_collector(http2: Make2) -> None:
    one = http2()
    with no_collector():
        for ready in ((b"a", None), (b"a",)):
            script = Script(*ready)
            await begin(one, script)
            if ready[-1] is not None:
                one.lose()
            left = weakref.ref(script)
            del script
            await turns()
            assert left() is None
